"""NoisyRollout: part of each group is sampled from a noised image, and trained on the clean one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from mmcredit.components import register
from mmcredit.corruptions.operators.noise import DIFFUSION_STEPS, DiffusionNoise
from mmcredit.rollout.batch import Ask
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy

if TYPE_CHECKING:
    from PIL import Image

    from mmcredit.policy.pixels import Pixels
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Batch
    from mmcredit.rollout.volume import Volume


@register("strategy", "noisy_rollout")
class NoisyRollout(Strategy):
    """Of the responses to a prompt the last `noisy` are sampled from one noised copy of its image.

    All responses of a prompt are one group: rewards are normalised jointly. Scores and update see the clean image for
    all of them; there is no importance correction for the noised ones (deliberate off-policy exploration).

    Noise of diffusion step k on [0,1] pixels: clip(sqrt(a_k) x + sqrt(1 - a_k) N(0,1), 0, 1), see corruption
    `diffusion_noise`. k = int(alpha * decay), annealed over the run, with p = (step + 1)/T, step from 0:
      sigmoid  1 - 1/(1 + exp(-lam (p - mid)))
      linear   1 - p
      power    1 - p^c
      exp      1 - c^(T (1 - p))
    k = 0 still adds noise of 0.0047.

    Source: arXiv 2504.13055 and its code; Geometry3K setting (alpha 500, lam 30, mid 40 of 60 steps; on K12 450, 60 and
    40 of 120), 6 clean and 6 noised responses.
    Differs: `mid` is a share of the run. The noise is laid on the image at the size the model sees; the number of
    visual tokens cannot change. Several images of a prompt are noised independently, so are the frames of a video.
    The released rotation and crop are not offered here: rotation changes the size of the image.
    A prompt without media is sampled as it is, all its responses. Noised rows carry NaN as sampler log-probs.
    Composes: anywhere; strategies inside it get two asks for a prompt.
    Cost: the vision tower once more per prompt while sampling. The paper doubles the group; here the group is
    `rollout.group` and part of it is noised. Noted: k, prompts without media.
    """

    noisy: int | None = Field(None, ge=0, description="noised responses of a group; none = half of rollout.group")
    alpha: int = Field(500, ge=0, le=DIFFUSION_STEPS, description="diffusion step at full strength")
    schedule: Literal["sigmoid", "linear", "power", "exp", "constant"] = Field("sigmoid", description="decay of k")
    lam: float = Field(30.0, gt=0, description="steepness of the sigmoid")
    mid: float = Field(2 / 3, ge=0, le=1, description="share of the run at which the sigmoid is at one half")
    c: float = Field(0.9, gt=0, description="base of exp, exponent of power")
    reads_images: ClassVar[bool] = True

    _pixels: Pixels | None = PrivateAttr(None)

    def volume(self, inner: Volume, run: Run) -> Volume:
        noisy = run.rollout.group // 2 if self.noisy is None else self.noisy
        return inner.noting(f"{self.name}: {noisy} of {run.rollout.group} responses are sampled from a noised image")

    def check(self, run: Run) -> None:
        if self.noisy is not None and self.noisy > run.rollout.group:
            raise ValueError(f"noisy_rollout: noisy={self.noisy} exceeds rollout.group={run.rollout.group}")

    def level(self, step: int, total_steps: int) -> int:
        """Diffusion step k of a run's step (from 0)."""
        progress = (step + 1) / total_steps
        decay = {
            "sigmoid": lambda: 1 - 1 / (1 + math.exp(-self.lam * (progress - self.mid))),
            "linear": lambda: 1 - progress,
            "power": lambda: 1 - progress**self.c,
            "exp": lambda: 1 - self.c ** (total_steps - step - 1),
            "constant": lambda: 1.0,
        }[self.schedule]()
        return min(DIFFUSION_STEPS - 1, max(0, int(self.alpha * decay)))

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        level = self.level(stage.step, stage.total_steps)
        stage.note("noisy_rollout/k", level)
        split: list[Ask] = []
        made: list[str] = []  # media keys of what is shown in this step only
        for ask in asks:
            noisy = len(ask.seeds) // 2 if self.noisy is None else min(self.noisy, len(ask.seeds))
            if not ask.prompt.media_keys or not noisy:
                stage.note("noisy_rollout/prompts_without_media", not ask.prompt.media_keys)
                split.append(ask)
                continue
            shown = self.noised(ask, level, stage)
            made.extend(key for key in shown.media_keys if key not in ask.prompt.media_keys)
            clean = len(ask.seeds) - noisy
            if clean:
                split.append(Ask(ask.sample, ask.prompt, ask.seeds[:clean], ask.shown, ask.prefix))
            split.append(Ask(ask.sample, ask.prompt, ask.seeds[clean:], shown, ask.prefix))
        batch = rest(split)
        if stage.policy.body.vision is not None:
            stage.policy.body.vision.forget(made)
        return batch

    def noised(self, ask: Ask, level: int, stage: Stage) -> Prompt:
        """The prompt with noise of diffusion step `level` on all its media; drawn by the ask's own seeds."""
        from mmcredit.policy.retiled import pixels_of  # configs are checked without torch

        if self._pixels is None or self._pixels.processor is not stage.policy.processor:
            self._pixels = pixels_of(stage.policy)
        (seed,) = stage.seeds("noise", ask.sample.id, ask.seeds[0], count=1)
        operator = DiffusionNoise(step=level)

        def edit(frames: list[Image.Image], place: int) -> list[Image.Image]:
            return operator.apply_frames(frames, 1, np.random.default_rng([seed, place]))

        return self._pixels.edited(ask.prompt, edit, f"noise{level}:{seed}")
