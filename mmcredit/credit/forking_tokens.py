"""80/20: only the tokens where the policy was undecided are trained."""

from __future__ import annotations

from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import Normalizer, quantile, restrict, token_signal
from mmcredit.rollouts import Credit, Rollouts


@register("credit", "forking_tokens")
class ForkingTokens(CreditMethod):
    """High-entropy (forking) tokens: A <- A * 1[H >= tau_rho], tau_rho the (1-rho)-quantile of H over the batch.

    The quantile interpolates linearly between ranks. `normalizer: all` (TRL, ms-swift) leaves the others in the
    denominator, so the step is smaller; `kept` divides by the kept tokens alone.

    Source: arXiv 2506.01939 (Beyond the 80/20 Rule); TRL `top_entropy_quantile`, ms-swift. Put it on DAPO's objective.
    Differs: H and the quantile come once per rollout batch, from the old policy, over the whole batch; TRL takes the
    current forward (the same at the first update), ms-swift the quantile of each micro-batch.
    Defaults: rho .2 (paper).
    Passes: none beyond the entropy of the clean pass.
    """

    changes = ("advantages", "loss_mask")

    rho: float = Field(0.2, gt=0, le=1, description="share of the tokens that is trained")
    normalizer: Normalizer = Field("all", description="denominator of the loss")

    def needs(self) -> Needs:
        return Needs(signals=("entropy",) if self.rho < 1 else ())

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        if self.rho >= 1 or not bool(mask.any()):
            return credit
        entropy = token_signal(rollouts, "entropy", mask)
        threshold = quantile(entropy[mask], 1 - self.rho)
        keep = mask & (entropy >= threshold)
        step.note("threshold", threshold)
        step.note("kept_share", keep.sum() / mask.sum())
        return restrict(credit, keep, self.normalizer)
