"""VPPO: only the most image-dependent tokens are trained, and responses that look more count more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import (
    Normalizer,
    has_media,
    k3,
    log_ratio,
    old_logprobs,
    response_mean,
    restrict,
    token_signal,
    top_per_response,
    within,
)
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.views.images import MaskedView

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "vppo")
class VPPO(CreditMethod):
    """Spotlight on token perception: token-level gradient filtering (TGF) and trajectory-level advantage shaping (TAS).

    S_t = e^d - d - 1 with d = log pi_masked - log pi_old of the sampled token, clamped to +-20, S capped at `s_max`;
    masked is the same prompt with random squares of the image set to black, one draw per prompt and step.
    TGF: of each response the ceil(keep*n) tokens of largest S keep their advantage; equal S in token order.
    TAS: s_i = mean_t S; z_i = min-max of s over the batch; alpha_i = bmin + z_i*(bmax - bmin), with
    bmax = bmin + (1 - bmin)/(mean z + 1e-8), which makes the mean of alpha 1; A_i <- A_i*alpha_i. If s varies by
    1e-6 or less, alpha = 1.

    Source: arXiv 2510.09285 and its released code. Differs: min, max and bmax are those of the whole batch (released:
    of the device mini-batch and the micro-batch, where for a single response the shaping cancels out). Responses
    without media, or with a log-prob that is not finite (counted), enter no statistic and keep all their tokens
    (released: S = 0, an arbitrary 40 %). The dropped tokens stay in the denominator, as released; `normalizer: kept`
    takes them out. `entropy_keep` also keeps that share of the most uncertain tokens of a response. The release's
    entropy term 0.06*mean(-log p) belongs to the objective. One draw of the mask serves all responses of a prompt, so
    that its masked image is encoded once (released: one per response); videos are masked too (released: S = 0).
    Defaults: keep .4, bmin .9, squares of 14 pixels with probability .5 (released code).
    Passes: one masked pass, no gradient.
    """

    changes = ("advantages", "loss_mask")

    keep: float = Field(0.4, ge=0, le=1, description="TGF: share of each response's tokens that is trained; 1 = off")
    bmin: float = Field(0.9, ge=0, le=1, description="TAS: factor of the least dependent response; 1 = off")
    entropy_keep: float = Field(0.0, ge=0, le=1, description="share of the most uncertain tokens kept besides")
    normalizer: Normalizer = Field("all", description="denominator of the loss")
    s_max: float = Field(10.0, gt=0, description="cap of S")
    probability: float = Field(0.5, ge=0, le=1, description="of a square to be black")
    patch_size: int = Field(14, gt=0, description="side of a square, pixels of the image as the model sees it")

    def needs(self) -> Needs:
        entropy = ("entropy",) if self.entropy_keep > 0 else ()
        view = MaskedView(probability=self.probability, patch_size=self.patch_size)
        return Needs(signals=("masked_logprobs", *entropy), old_logprobs=True, views={"masked": view})

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        seen = has_media(rollouts)
        step.note("responses_without_media", (~seen).sum())
        dependency = self._dependency(rollouts, mask & seen[:, None])
        broken = ~torch.isfinite(dependency).all(1)
        step.note("responses_not_finite", broken.sum())
        seen = seen & ~broken
        visual = mask & seen[:, None]
        dependency = within(dependency, visual)
        alpha = self._shape(response_mean(dependency, visual), visual.any(1))
        step.note("dependency_mean", dependency.sum() / visual.sum().clamp(min=1))
        step.note("alpha_max", alpha.max() if len(alpha) else 1.0)
        credit = credit.scale(alpha[:, None].expand_as(mask))
        kept = top_per_response(dependency, visual, self._count(visual, self.keep))
        if self.entropy_keep > 0:
            entropy = token_signal(rollouts, "entropy", visual)
            kept = kept | top_per_response(entropy, visual, self._count(visual, self.entropy_keep))
        step.note("kept_share", kept.sum() / visual.sum().clamp(min=1))
        return restrict(credit, kept | (mask & ~seen[:, None]), self.normalizer)

    def _dependency(self, rollouts: Rollouts, mask: Tensor) -> Tensor:
        """[B,T]: S, 0 outside the mask."""
        masked = rollouts.signal("masked_logprobs")
        if masked.shape != mask.shape:
            raise ValueError(f"signal 'masked_logprobs' must have shape {list(mask.shape)}, got {list(masked.shape)}")
        masked = masked.to(rollouts.rewards.dtype)
        return k3(log_ratio(masked, old_logprobs(rollouts, self.name), mask)).clamp(0, self.s_max)

    def _shape(self, mean: Tensor, seen: Tensor) -> Tensor:
        """[B]: alpha of each response, 1 for those without media."""
        alpha = torch.ones_like(mean)
        if not bool(seen.any()):
            return alpha
        low, high = mean[seen].min(), mean[seen].max()
        if float(high - low) <= 1e-6:
            return alpha
        z = ((mean[seen] - low) / (high - low)).clamp(0, 1)
        bmax = self.bmin + (1 - self.bmin) / (z.mean() + 1e-8)
        alpha[seen] = self.bmin + z * (bmax - self.bmin)
        return alpha

    @staticmethod
    def _count(mask: Tensor, share: float) -> Tensor:
        """[B]: ceil(share * n), exact in float32 for the released .4 and in float64 short of rounding errors."""
        return (mask.sum(1).double() * share - 1e-9).ceil().long()
