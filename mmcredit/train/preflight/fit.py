"""Do the model, the config and the data belong together? `check` and `train` ask the same functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmcredit.components import Component, Needs, build, build_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmcredit.config import RunConfig
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

IMAGE_VIEWS = ("blind", "masked", "corrupted")  # views that change what is seen of the media, and nothing else


def image_components(config: RunConfig) -> list[str]:
    """Components of a run that do nothing for a prompt without media, as `credit vppo`."""
    found = [
        component
        for kind, entries in (
            ("credit", config.credit),
            ("regularizer", config.objective.regularizers),
            ("strategy", config.rollout.strategies),
        )
        for component in build_all(kind, entries)
    ]
    return [f"{c.kind} {c.name}" for c in found if _reads_images(c)]


def _reads_images(component: Component) -> bool:
    needs: Needs = component.needs()
    if getattr(component, "reads_images", False) or any(name in IMAGE_VIEWS for name in needs.views):
        return True
    if any(name.partition("_")[0] in ("masked", "view") for name in needs.passes):
        return True
    for name in needs.signals:
        try:
            signal: Any = build("signal", {name: needs.settings[name]} if name in needs.settings else name)
        except ValueError:
            continue  # a strategy gives it: no view
        if any(p.view.name in IMAGE_VIEWS for p in signal.passes()):
            return True
    return False


def model_words(config: RunConfig, policy: Policy) -> list[str]:
    """Sentences about a model that can be trained, but hardly as it was meant."""
    words = []
    if policy.device.type == "cpu" and config.model.dtype == "bfloat16":
        words.append(
            "model.dtype is bfloat16 on a CPU, where it is many times slower than float32 (an update of 8 responses of "
            "a 135M model took 46 s, one of 48 in float32 6 to 31 s): set model.dtype=float32"
        )
    images = image_components(config)
    if policy.tower is None and images:
        words.append(
            f"{_listed(images)} looks at images, but {config.model.path} reads text only: the passes are paid for and "
            "change nothing; take it out, or set model.path to a vision-language model"
        )
    return words


def first_words(config: RunConfig, policy: Policy, prompts: Sequence[Prompt]) -> list[str]:
    """Both kinds of sentences about the first prompts of a run. Raises UnsupportedModel as `Policy.check_family`."""
    policy.check_family(prompts)
    seen = sum(bool(prompt.media_keys) for prompt in prompts)
    return model_words(config, policy) + media_words(config, policy, seen, len(prompts), "the first step")


def media_words(
    config: RunConfig, policy: Policy, with_media: int, total: int, where: str, columns: Sequence[str] = ()
) -> list[str]:
    """Sentences about prompts without media: `with_media` of `total` prompts of `where` have some. `columns` look as if
    they held media, and are not read."""
    if not total or with_media == total:
        return []
    named = f" ({', '.join(columns)} looks like it)" if columns else ""
    if policy.tower is None:
        return (
            []
            if not columns
            else [
                f"column {', '.join(columns)} of {where} looks like images or videos, and is not read: "
                f"{config.model.path} reads text only"
            ]
        )
    images = image_components(config)
    if with_media:
        more = f"; for those {_listed(images)} changes nothing" if images else ""
        return [f"{total - with_media} of {total} prompts of {where} have no image or video{more}"]
    more = f", and {_listed(images)} then changes nothing" if images else ""
    return [
        f"the model reads images, but none of the {total} prompts of {where} has one{more}: a blind run. Name the "
        f"column that holds them{named} in the source's columns.images, or use a text model"
    ]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
