"""The views `masked` and `corrupted`: a prompt with other pixels, and everything else as it was.

Both change the image at the size the model sees (severities then mean the same for every source; PAPO's release masks
the original, VPPO's the resized image). A view of a prompt is drawn once per step, for all its responses, so that its
features are computed once per prompt and view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from mmcredit.corruptions.base import corruption_seed
from mmcredit.corruptions.operators.occlusion import Occlusion
from mmcredit.corruptions.suite import Draw
from mmcredit.policy.teacher import TeacherPrompts
from mmcredit.views.images import CorruptedView, MaskedView, ViewSettings

if TYPE_CHECKING:
    from mmcredit.policy.passes import View
    from mmcredit.policy.pixels import Pixels
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

DEFAULTS: dict[str, ViewSettings] = {"masked": MaskedView(), "corrupted": CorruptedView()}


class Views:
    """Makes the prompts of these views; the value of `Policy.view_prompts` for each of `names`.

    The pixels depend on (seed, step, sample id, view name and index) and on nothing else, so that every worker, and a
    resumed run, sees the same ones. They are kept for the step.
    """

    def __init__(
        self,
        pixels: Pixels,
        settings: Mapping[str, ViewSettings],
        seed: int,
        forget: Callable[[Collection[str]], None] = lambda keys: None,
    ) -> None:
        """`settings` by view name, `DEFAULTS` for the rest. `forget` is told the media keys of a step that is over.

        Raises ValueError for settings of a view that is not made here.
        """
        unknown = sorted(set(settings) - set(DEFAULTS))
        if unknown:
            raise ValueError(f"settings of the unknown view {unknown[0]!r}; known: {', '.join(DEFAULTS)}")
        for name, value in settings.items():
            if not isinstance(value, type(DEFAULTS[name])):
                raise ValueError(f"the view {name!r} takes {type(DEFAULTS[name]).__name__} settings, got {value!r}")
        self.pixels, self.settings, self.seed = pixels, {**DEFAULTS, **settings}, seed
        corrupted = self.settings["corrupted"]
        assert isinstance(corrupted, CorruptedView)
        self._suite = None if corrupted.severity == (0, 0) else corrupted.suite()
        self.step = 0
        self._forget = forget
        # By the prompt object (kept alive here, so that its id stays its own).
        self._made: dict[tuple[str, int, int], tuple[Prompt, Prompt]] = {}

    changes_media = True  # of prompts, and of what was inserted into responses

    @property
    def names(self) -> tuple[str, ...]:
        """The views made here."""
        return tuple(self.settings)

    def begin(self, step: int) -> None:
        """Start a step: new draws, and what the last one made is forgotten."""
        keys = {key for prompt, made in self._made.values() for key in made.media_keys if key not in prompt.media_keys}
        if keys:
            self._forget(keys)
        self._made.clear()
        self.step = step

    def __call__(self, view: View, prompt: Prompt) -> Prompt:
        """The prompt that `view` shows; `prompt` itself if it has no media or nothing changes (`Pixels.edited`)."""
        if not prompt.media_keys:
            return prompt
        place = (view.name, view.index, id(prompt))
        if place not in self._made:
            draw = self.draw(view, prompt.sample_id)
            if draw is None:
                self._made[place] = (prompt, prompt)
            else:
                tag = f"{view.name}#{view.index}:{draw.label}:{draw.seed}"
                self._made[place] = (prompt, self.pixels.edited(prompt, draw.frames, tag))
        return self._made[place][1]

    def draw(self, view: View, sample_id: str) -> Draw | None:
        """What is drawn for a sample in this step: operator, severity and seed; None = the image as it is."""
        settings = self.settings[view.name]
        if isinstance(settings, CorruptedView):
            if self._suite is None:
                return None
            return self._suite.draw(self.seed, self.step, sample_id, view.index)
        operator = Occlusion(probability=settings.probability, patch_size=settings.patch_size)
        seed = corruption_seed(self.seed, self.step, sample_id, f"{view.name}#{view.index}")
        return Draw(operator, 1, seed)


def furnish_views(policy: Policy, settings: Mapping[str, Any], seed: int) -> Views:
    """Give a policy its masked, corrupted and teacher views. Raises ValueError as `Views`."""
    from mmcredit.policy.retiled import pixels_of

    def forget(keys: Collection[str]) -> None:
        for body in (policy.body, policy.reference):
            if body is not None and body.vision is not None:
                body.vision.forget(keys)

    pixel_views = {name: value for name, value in settings.items() if name != "teacher"}
    views = Views(pixels_of(policy), pixel_views, seed, forget)
    policy.view_prompts.update(dict.fromkeys(views.names, views))
    policy.view_prompts["anchor"] = lambda view, prompt: prompt
    policy.view_prompts["teacher"] = TeacherPrompts(policy.encode, settings.get("teacher"))
    return views
