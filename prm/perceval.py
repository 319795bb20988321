"""The credit method `perceval`: tokens that contradict the image lose a share of the advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from prm.penalty import apply_span_penalty

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit import Credit, Rollouts


@register("credit", "perceval")
class Perceval(CreditMethod):
    """Perceval: a verifier that sees the image flags spans of the response; flagged tokens get less advantage.

    A'_{i,t} = A_{i,t} - alpha * m_{i,t} * max(|A_{i,t}|, a_min),   m = signal `hallucinated`

    With a_min 0 (the paper) a flagged token of a good response keeps (1 - alpha) of its advantage, one of a bad
    response gets (1 + alpha) of its own; the sign never turns. Nothing is centred, clipped or whitened afterwards, and
    the scalar reward does not change. A response whose group earned one reward (A = 0) bears no penalty; `a_min` > 0
    is the additive variant that gives those a signal too (not in the paper; the verifier is then asked about every
    response, not only those of groups whose rewards differ).

    Source: arXiv 2604.24583 (CVPR 2026), eq. 1 and 3. Differs from the release: behind `grpo` a group of one has
    advantage 0 (release: the raw reward). The penalty is per token: long spans bear proportionally more.
    `mask: suffix` penalises everything from the first flagged token on, the mask that "Save the Good Prefix" (arXiv
    2601.18984) suggests. `sign` restricts the penalty to advantages of one sign.
    The penalty only takes: a policy can escape it by saying less as well as by saying what is true, so ask for the
    statements in the reward (`format` with a `pattern`) and watch how much is still said.
    Defaults: alpha .1 (paper; .3 was worse than GRPO there, since whole phrases are penalised, function words too).
    alpha 0, or nothing flagged, is the pipeline without this method, bit for bit.
    Passes: none of the policy; a verifier of the run (`verifiers:`) answers while the step goes on.
    """

    alpha: float = Field(0.1, ge=0, le=1, description="share of |A| that a flagged token loses")
    a_min: float = Field(0.0, ge=0, description="least |A| that alpha is a share of; above 0 all groups are verified")
    mask: Literal["spans", "suffix"] = Field("spans", description="flagged tokens, or all from the first one on")
    sign: Literal["both", "positive", "negative"] = Field("both", description="advantages that are penalised")

    def needs(self) -> Needs:
        groups = {"hallucinated": {"groups": "all"}} if self.a_min > 0 else {}
        return Needs(signals=("hallucinated",), settings=groups)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        flagged = self._flagged(rollouts) & credit.loss_mask
        before = credit.advantages
        if self.sign != "both":
            flagged = flagged & ((before > 0) if self.sign == "positive" else (before < 0))
        after = apply_span_penalty(before, flagged, self.alpha, self.a_min)
        self._report(step, flagged, after, credit.loss_mask, rollouts)
        return credit.replace(advantages=after)

    def _flagged(self, rollouts: Rollouts) -> Tensor:
        """[B,T] bool: tokens that bear the penalty."""
        signal = rollouts.signal("hallucinated")
        if signal.shape != rollouts.mask.shape or signal.dtype != torch.bool:
            raise ValueError(
                f"signal 'hallucinated' must be bool of shape {list(rollouts.mask.shape)}, got {signal.dtype} of "
                f"{list(signal.shape)}"
            )
        flagged = signal & rollouts.mask
        return flagged if self.mask == "spans" else flagged.cumsum(1) > 0

    def _report(self, step: Step, flagged: Tensor, after: Tensor, mask: Tensor, rollouts: Rollouts) -> None:
        rest = mask & ~flagged
        step.note("masked_share", flagged.sum() / mask.sum().clamp(min=1))
        step.note("responses_penalised", flagged.any(1).sum())
        right = rollouts.rewards > rollouts.rewards.mean() if len(rollouts) else rollouts.rewards > 0
        for name, rows in (("above_mean_reward", right), ("below_mean_reward", ~right)):
            inside = mask & rows[:, None]
            step.note(f"masked_share_{name}", (flagged & inside).sum() / inside.sum().clamp(min=1))
        step.note("advantage_masked", after[flagged].sum() / flagged.sum().clamp(min=1))
        step.note("advantage_unmasked", after[rest].sum() / rest.sum().clamp(min=1))
