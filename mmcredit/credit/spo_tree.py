"""SPO-tree: every edge of a sampled tree is an example, worth the change of value along it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.uncertain import credit_uncertain
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

# Values are means of rewards: a difference below this is the rounding of a mean, not a difference.
SAME_VALUE = 1e-6


@register("credit", "spo_tree")
class SPOTree(CreditMethod):
    """Segment Policy Optimization, tree form: one row of the rollouts is one edge, parent -> child, of a sampled tree.

    V(leaf) = reward, V(node) = mean over its children of V(child).  All tokens of an edge share
    A = V(child) - V(parent) (`rloo`), or that divided by (std of the siblings' values + 1e-8) (`grpo`).
    Only tokens with pi_old < rho keep their credit and enter the loss; over them the advantages are whitened,
    (A - mean)/sqrt(var + 1e-8), unbiased. Edges with A = 0 leave the loss.

    Signals [B]: `parent_value`, `child_value`, `sibling_std` (population), made by the tree rollout (6-6-6).
    Source: arXiv 2505.23564 (NeurIPS 2025), code AIFrameResearch/SPO@b9fc6a2: rloo and rho 0.9 are its defaults.
    Differs from the code: whitening covers the whole batch, not a micro-batch (`whiten: none` leaves differences); a
    difference below 1e-6 counts as 0 in both forms (`grpo` would divide rounding by 1e-8). Rewards and groups are not
    read: the tree holds them. Pair with clip 0.2, ``token_mean`` and KL 1e-4.
    Passes: old log-probs; no rollouts beyond the tree, all of whose tokens are trained on.
    """

    starts = True
    changes = ("advantages", "loss_mask")

    rho: float = Field(0.9, gt=0, le=1, description="probability below which a token is uncertain")
    advantage: Literal["rloo", "grpo"] = Field("rloo", description="plain difference, or over the siblings' deviation")
    whiten: Literal["full", "std", "none"] = Field("full", description="standardise over the tokens in the loss")

    def needs(self) -> Needs:
        signals = ("parent_value", "child_value") + (("sibling_std",) if self.advantage == "grpo" else ())
        return Needs(signals=signals, old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        change = _edge_signal(rollouts, "child_value") - _edge_signal(rollouts, "parent_value")
        moved = change.abs() > SAME_VALUE
        if self.advantage == "grpo":
            change = change / (_edge_signal(rollouts, "sibling_std") + 1e-8)
        change = torch.where(moved, change, 0.0)
        step.note("dropped_zero_edges", (~moved).sum())
        edges = rollouts.replace(mask=rollouts.mask & moved[:, None])
        advantages = change[:, None].expand_as(edges.mask)
        return credit_uncertain(credit, edges, advantages, edges.mask, self.rho, self.whiten, self.name, step)


def _edge_signal(rollouts: Rollouts, name: str) -> Tensor:
    """[B] f64. Raises ValueError if the signal is missing, has another shape, or is not finite."""
    values = rollouts.signal(name)
    if values.ndim != 1:
        raise ValueError(f"signals[{name!r}] must have shape [{len(rollouts)}], got {list(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise ValueError(f"signals[{name!r}] must be finite, got {float(values[row])} for edge {row}")
    return values.double()
