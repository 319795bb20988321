"""PAPO: responses must depend on the image, and neither entropy may pay for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.tokens import has_media
from mmcredit.objective.base import MAX_LOG_RATIO, Regularizer, RegularizerInputs, RegularizerLoss, masked
from mmcredit.objective.success import Success
from mmcredit.views.images import MaskedView

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Credit, Rollouts


class Annealing(BaseModel):
    """A factor on gamma and both etas: 1 until `start`, then linear to `ratio` at `end` (shares of the run)."""

    model_config = ConfigDict(extra="forbid")

    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)
    ratio: float = Field(1.0, ge=0, description="factor at the end; 1 = off")

    @model_validator(mode="after")
    def _forward(self) -> Annealing:
        if self.end < self.start:
            raise ValueError(f"anneal goes from start to end, got start {self.start} after end {self.end}")
        return self

    def __call__(self, progress: float | None) -> float:
        """The factor at a share of the run; 1 outside a run."""
        if progress is None or self.ratio == 1 or progress <= self.start:
            return 1.0
        done = min(1.0, (progress - self.start) / max(self.end - self.start, 1e-9))
        return 1.0 + done * (self.ratio - 1.0)


@register("regularizer", "papo")
class PAPO(Regularizer):
    """-gamma * sum W kp + eta_ori * mean H + eta_aug * mean H_mask: implicit perception loss and double entropy.

      kp = e^x - x - 1 with x = log pi_mask - log pi of the sampled token, clamped to +-20, kp at most `kp_max`
      H, H_mask: entropy on the clean and the masked image; `sampled` takes -log p of the token for it
    masked: random squares of the image black, one draw per prompt and step. kp estimates KL(pi || pi_mask) and is to
    grow; both entropies are to fall, which keeps kp from growing by a masked distribution that is merely flat. W are
    the policy term's weights; the entropies are means over the tokens of the mini-batch.

    Source: arXiv 2507.06448 and its released code. With `recompute_aug` (default) masked log-probs are those of the
    present policy and carry their gradient, as in the paper's objective. The release takes them once per rollout batch
    without gradient (`recompute_aug: false`; then one pass serves VPPO as well), so that its eta_aug term moves nothing
    at all, and kp only through the clean side. Differs from the release besides: denominators are those of the
    mini-batch, not of the micro-batch; videos are masked too (it leaves them clean, kp = 0); the image is masked at the
    size the model sees. `orientation: paper` is the formula as printed, with x negated; its mean is no KL of pi.
    Prompts without media have kp = 0 and no masked entropy; their tokens stay in the denominators.
    Defaults: gamma .01, both etas .03 (PAPO-D; PAPO-G 3B .02 and no etas, 7B .02 and .05; gamma .04 collapsed), mask
    probability .6 and 14 pixels, T 1.
    Passes: one masked forward with gradient in the update, or one without before it.
    """

    gamma: float = Field(0.01, ge=0, description="weight of the perception term")
    eta_ori: float = Field(0.03, ge=0, description="weight of the entropy on the clean image")
    eta_aug: float = Field(0.03, ge=0, description="weight of the entropy on the masked image")
    recompute_aug: bool = Field(True, description="masked pass of the present policy, with gradient")
    entropy: Literal["sampled", "full"] = Field("sampled", description="-log p of the token (release), or exact")
    orientation: Literal["code", "paper"] = Field("code", description="ratio masked/clean, or clean/masked")
    kp_max: float = Field(10.0, gt=0, description="cap of kp, with zero gradient above; 0.2 in a variant")
    top_p: float = Field(1.0, gt=0, le=1, description="share of each response's tokens, of largest kp, that count")
    anneal: Annealing = Field(default_factory=Annealing, description="schedule of all three weights")
    sft: float = Field(0.0, ge=0, description="weight of -log p of right responses (release: off, or 1e-3)")
    success: Success = Field(default_factory=Success, description="which responses are right, for sft")
    probability: float = Field(0.6, ge=0, le=1, description="of a square to be black")
    patch_size: int = Field(14, gt=0, description="side of a square, pixels")

    @model_validator(mode="after")
    def _full_has_a_gradient(self) -> PAPO:
        if self.entropy == "full" and not self.recompute_aug:
            raise ValueError("papo with entropy full needs the masked pass with gradient: set recompute_aug true")
        return self

    @property
    def _looks(self) -> bool:
        """Whether the masked view enters the loss."""
        return self.gamma > 0 or self.eta_aug > 0

    def needs(self) -> Needs:
        passes: dict[str, bool] = {"masked_logprobs": self.recompute_aug} if self._looks else {}
        if self.entropy == "full":
            passes |= {"entropy": True} if self.eta_ori > 0 else {}
            passes |= {"masked_entropy": True} if self.eta_aug > 0 else {}
        view = MaskedView(probability=self.probability, patch_size=self.patch_size)
        return Needs(
            passes=passes,
            views={"masked": view} if self._looks else {},
            reward_parts=self.success.parts if self.sft > 0 else (),
        )

    def prepare(
        self,
        rollouts: Rollouts,
        credit: Credit,
        weights: Tensor,
        *,
        progress: float | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        mask = credit.loss_mask
        right = mask & self.success(rollouts)[:, None] if self.sft > 0 else torch.zeros_like(mask)
        mean = mask.to(weights.dtype) / mask.sum().clamp(min=1)
        on = self._looks or self.eta_ori > 0
        rows = (mask.any(1) & on) | right.any(1)
        return {
            "rows": rows,
            "mean": mean,
            "right": right.to(weights.dtype) / right.sum().clamp(min=1),
            "seen": has_media(rollouts),
        }

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        mask, mean = inputs.credit.loss_mask, inputs.prepared["mean"]
        factor = self.anneal(inputs.progress)
        clean = masked(inputs.logprobs, mask)
        terms: dict[str, Tensor] = {}
        if self._looks:
            visual = mask & inputs.prepared["seen"][:, None]
            aug = inputs.passes["masked_logprobs"]
            aug = masked(aug if self.recompute_aug else aug.detach(), visual)
            kp = self._perception(masked(clean, visual), aug, visual)
            terms["papo_perception"] = (inputs.weights * kp).sum()
            masked_entropy = masked(inputs.passes["masked_entropy"], visual) if self._exact(self.eta_aug) else -aug
            terms["papo_masked_entropy"] = (mean * masked_entropy).sum()
        entropy = masked(inputs.passes["entropy"], mask) if self._exact(self.eta_ori) else -clean
        terms["papo_entropy"] = (mean * entropy).sum()
        loss = factor * self.eta_ori * terms["papo_entropy"]
        if self._looks:
            loss = loss + factor * (self.eta_aug * terms["papo_masked_entropy"] - self.gamma * terms["papo_perception"])
        if self.sft > 0:
            terms["papo_sft"] = (inputs.prepared["right"] * -clean).sum()
            loss = loss + self.sft * terms["papo_sft"]
        return RegularizerLoss(loss, {name: float(value.detach()) for name, value in terms.items()})

    def _exact(self, weight: float) -> bool:
        return self.entropy == "full" and weight > 0

    def _perception(self, clean: Tensor, aug: Tensor, mask: Tensor) -> Tensor:
        """[B,T]: kp, 0 outside the mask and where `top_p` leaves it out."""
        x = (aug - clean).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        x = -x if self.orientation == "paper" else x
        kp = (torch.expm1(x) - x).clamp(max=self.kp_max)
        if self.top_p < 1:
            least = torch.where(mask, kp.detach(), torch.nan).nanquantile(1 - self.top_p, dim=1, keepdim=True)
            kp = masked(kp, kp.detach() >= least)  # NaN, for a response without such tokens, compares as False
        return masked(kp, mask)
