"""SPAE: potential of each reasoning step, from probes that ask for the answer after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.groups import center, constant_groups, group_sizes
from mmcredit.credit.whitening import whiten
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@register("credit", "spae")
class SPAE(CreditMethod):
    """Step Potential Advantage Estimation: steps that move the answer are credited, steps after it is known are damped.

    Phi_k = 1.5 Acc Conf + 0.5 Acc - Conf in [-1, 1], from the probe after step k.  C_sat(k) = steps before k with
    Phi > eps_sat;  f_k = 1 - alpha (1 - exp(-C_sat(k))).  dPhi_k = Phi_k - Phi_{k-1}, dPhi_1 = 0; dn its min-max to
    [0, 1] over all steps of the batch;  g_k = exp(dn_k) - mean exp(dn).
    A_j = (R_i - mean_g R) f_{step(j)} + xi g_{step(j)};  final (A - mean)/(std + eps) over all tokens of the batch.

    Signals: `step_id` [B,T], 0-based, -1 = no step (summary; f = 1, g = 0); `step_accuracy`, `step_confidence` [B,K],
    NaN = not probed. A `step_id` without a probe, up to K (a fragment after the last boundary), has f from all probes
    before it and g = 0. A column that no token refers to is ignored.

    Source: arXiv 2601.03823, equations by way of digests: only the probing demo is released (cii030/SPAE-RL@ed529f8),
    of which Phi and dPhi_1 = 0 are used. alpha = xi = 0.5 the paper's, eps_sat 0.9 the demo's. Not stated there and
    chosen here: min-max and mean over the steps (not tokens) of the batch, sample standard deviation, eps 1e-8.
    Groups of one and constant groups (the paper drops them before probing) are 0 and outside all statistics;
    `zero_constant_groups` false keeps xi g for constant ones. With alpha = xi = 0 it is REINFORCE++-baseline.
    The result is standardised: a correct response's tokens can be negative, and later whitening would undo it.
    Passes: per step boundary N probes of at most 10 tokens and one pass over the answer (the probes of the rollout).
    """

    starts = True

    alpha: float = Field(0.5, ge=0, le=1, description="how far steps after saturation are damped")
    xi: float = Field(0.5, ge=0, description="weight of the step term")
    eps_sat: float = Field(0.9, description="potential above which a step counts as saturated")
    eps: float = Field(1e-8, ge=0, description="added to the batch standard deviation")
    zero_constant_groups: bool = Field(True, description="no credit in groups of equal rewards")

    def needs(self) -> Needs:
        return Needs(signals=("step_id", "step_accuracy", "step_confidence"))

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        index, num_groups = rollouts.group_index()
        centred = center(rollouts.rewards, index, num_groups)
        silent = group_sizes(index, num_groups) == 1
        if self.zero_constant_groups:
            silent = silent | constant_groups(rollouts.rewards, index, num_groups)
        mask = rollouts.mask & ~silent[index][:, None]
        damping, gain = self._steps(rollouts, mask, step)
        # Column 0 is "no step": f = 1, g = 0. Step k sits in column k + 1.
        column = torch.where(mask, rollouts.signal("step_id"), -1) + 1
        advantages = centred[:, None] * damping.gather(1, column) + self.xi * gain.gather(1, column)
        advantages = advantages.to(rollouts.rewards.dtype)
        return credit.replace(advantages=whiten(advantages, mask, eps=self.eps, eps_in_root=False))

    def _steps(self, rollouts: Rollouts, mask: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """f and g [B, K+2] f64: column 0 no step, columns 1..K the steps, column K+1 what follows the last probe."""
        accuracy, confidence = _probes(rollouts)
        step_id, steps = rollouts.signal("step_id"), accuracy.shape[1]
        if step_id.shape != mask.shape or step_id.dtype != torch.int64:
            seen = f"{step_id.dtype} {list(step_id.shape)}"
            raise ValueError(f"signals['step_id'] must be int64 of shape {list(mask.shape)}, got {seen}")
        step_id = torch.where(mask, step_id, -1)
        if step_id.numel() and not -1 <= int(step_id.min()) <= int(step_id.max()) <= steps:
            seen = f"{int(step_id.min())}..{int(step_id.max())}"
            raise ValueError(f"signals['step_id'] must lie in -1..{steps}, got {seen}")
        used = torch.zeros(mask.shape[0], steps + 2, dtype=torch.bool, device=mask.device)
        used = used.scatter(1, step_id + 1, True)[:, 1:-1]
        probed = used & accuracy.isfinite() & confidence.isfinite()
        step.note("steps", probed.sum())
        step.note("unprobed_steps", (used & ~probed).sum())
        accuracy, confidence = torch.where(probed, accuracy, 0.0), torch.where(probed, confidence, 0.0)
        potential = 1.5 * accuracy * confidence + 0.5 * accuracy - confidence
        saturated = (probed & (potential > self.eps_sat)).double().cumsum(1)
        before = torch.nn.functional.pad(saturated, (1, 0))  # [B,K+1]: saturated steps before step k
        damping = 1 - self.alpha * (1 - (-before).exp())
        follows = torch.zeros_like(probed)
        follows[:, 1:] = probed[:, 1:] & probed[:, :-1]
        change = torch.where(follows, potential - potential.roll(1, 1), 0.0)
        gain = _centred_exponential(change, probed)
        return torch.nn.functional.pad(damping, (1, 0), value=1.0), torch.nn.functional.pad(gain, (1, 1))


def _centred_exponential(change: Tensor, probed: Tensor) -> Tensor:
    """exp(min-max scaled change) minus its mean over the probed steps of the batch; 0 elsewhere and without spread."""
    inside = change[probed]
    if not inside.numel() or bool(inside.min() == inside.max()):
        return torch.zeros_like(change)
    scaled = (change - inside.min()) / (inside.max() - inside.min())
    return torch.where(probed, scaled.exp() - scaled[probed].exp().mean(), 0.0)


def _probes(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    accuracy, confidence = rollouts.signal("step_accuracy"), rollouts.signal("step_confidence")
    if accuracy.ndim != 2 or accuracy.shape != confidence.shape:
        raise ValueError(
            "signals['step_accuracy'] and ['step_confidence'] must have the same shape [B, K], "
            f"got {list(accuracy.shape)} and {list(confidence.shape)}"
        )
    return accuracy.double(), confidence.double()
