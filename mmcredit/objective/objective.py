"""The one loss: ratio, clip, aggregation and regularizers over per-token quantities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import Component, Needs, build, build_all, names
from mmcredit.objective.base import (
    MAX_LOG_RATIO,
    Aggregate,
    Clip,
    LossInputs,
    PolicyLoss,
    Ratio,
    Regularizer,
    RegularizerInputs,
    masked,
)
from mmcredit.objective.mismatch import Mismatch, build_mismatch
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

Spec = str | Mapping[str, Any] | Component


@dataclass(frozen=True)
class ObjectiveOutput:
    """`loss` is a scalar with gradient; `metrics` describe the rows handed in."""

    loss: Tensor
    metrics: dict[str, float]


class Objective:
    """What an optimizer step minimises.

    ``objective(logprobs, rollouts, credit, passes)`` treats the rows as one optimizer mini-batch. To split one into
    micro-batches, compute ``weights = objective.weights(rollouts, credit)`` on the whole and hand each part its rows:
    the losses then add up to the loss of the whole, and so do the gradients.

    Args:
        ratio: name or {name: fields}: token, sequence, holder, gmpo, cispo, sapo.
        clip: {low, high, dual} for fixed bounds, or {kind: fields}.
        aggregate: name or {name: fields}.
        regularizers: list of names or {name: fields}.
        mismatch: correction for the gap between sampler and trainer, {kind, cap, floor, delta}; see `Mismatch`.

    Raises ValueError for an unknown name or field.
    """

    def __init__(
        self,
        ratio: Spec = "token",
        clip: Spec | None = None,
        aggregate: Spec = "token_mean",
        regularizers: Sequence[Spec] = (),
        mismatch: str | Mapping[str, Any] | Mismatch | None = None,
    ) -> None:
        self.ratio: Ratio = build("ratio", ratio)  # type: ignore[assignment]
        self.clip: Clip = build("clip", _clip_spec(clip))  # type: ignore[assignment]
        self.aggregate: Aggregate = build("aggregate", aggregate)  # type: ignore[assignment]
        self.regularizers: list[Regularizer] = build_all("regularizer", regularizers)  # type: ignore[assignment]
        self.mismatch: Mismatch | None = build_mismatch(mismatch)

    def needs(self) -> Needs:
        """The union of what the parts need."""
        needs = Needs(sampler_logprobs=self.mismatch is not None and self.mismatch.kind != "none")
        for part in (self.ratio, self.clip, self.aggregate, *self.regularizers):
            needs = needs | part.needs()
        return needs

    def ratio_for(self, credit: Credit) -> Ratio:
        """The ratio in force: a credit method may fix the kind, then with this objective's fields if it is the same."""
        if credit.ratio is None or credit.ratio == self.ratio.name:
            return self.ratio
        return build("ratio", credit.ratio)  # type: ignore[return-value]

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        """[B,T]: the aggregation weight of each token of one optimizer mini-batch."""
        with torch.no_grad():
            return self.aggregate.weights(rollouts, credit)

    def prepare(
        self,
        rollouts: Rollouts,
        credit: Credit,
        weights: Tensor,
        progress: float | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Mapping[str, Tensor]]:
        """Per regularizer, what it computes on the whole mini-batch before it is split (`Regularizer.prepare`)."""
        with torch.no_grad():
            return [
                r.prepare(rollouts, credit, weights, progress=progress, generator=generator) for r in self.regularizers
            ]

    def __call__(
        self,
        logprobs: Tensor,
        rollouts: Rollouts,
        credit: Credit,
        passes: Mapping[str, Tensor] | None = None,
        weights: Tensor | None = None,
        progress: float | None = None,
        prepared: Sequence[Mapping[str, Tensor]] | None = None,
        without: Collection[int] = (),
    ) -> ObjectiveOutput:
        """Loss and metrics of these rows.

        `logprobs` [B,T] carries the gradient. `passes` holds what the regularizers declared, by name. Without
        `rollouts.old_logprobs` the update is on-policy: the ratio is 1 in value and carries the gradient. `progress` is
        the share of the run that is done (None = outside a run: no warm-up, no annealing). A part of a mini-batch is
        handed its rows of `weights` and `prepared`, both computed on the whole. Regularizers at the positions `without`
        are left out. Raises ValueError for a wrong shape, a missing pass, or a non-finite log-prob inside the loss
        mask.
        """
        shape = tuple(rollouts.tokens.shape)
        for name, value in (("logprobs", logprobs), ("credit.advantages", credit.advantages)):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
        if weights is None:
            weights = self.weights(rollouts, credit)
        loss = self.policy_loss(logprobs, rollouts, credit, progress or 0.0)
        token_loss, mismatch = loss.loss, {}
        if self.mismatch is not None:
            correction = self.mismatch(logprobs, rollouts, credit.loss_mask, credit.advantages)
            token_loss, mismatch = token_loss * correction.weights, correction.metrics
        total = policy = (weights * token_loss).sum()
        metrics = _metrics(loss, credit, float(policy.detach())) | mismatch
        if prepared is None:
            prepared = self.prepare(rollouts, credit, weights, progress)
        for place, regularizer in enumerate(self.regularizers):
            if place in without:
                continue
            _require(regularizer, passes or {})
            inputs = RegularizerInputs(logprobs, rollouts, credit, passes or {}, weights, prepared[place], progress)
            term = regularizer(inputs)
            total = total + term.loss
            metrics.update(term.metrics)
        metrics["loss"] = float(total.detach())
        return ObjectiveOutput(total, metrics)

    def policy_loss(self, logprobs: Tensor, rollouts: Rollouts, credit: Credit, progress: float = 0.0) -> PolicyLoss:
        """The clipped surrogate of every token, before aggregation. Raises ValueError for a non-finite log-prob."""
        mask = credit.loss_mask
        current = masked(logprobs, mask)
        if not bool(torch.isfinite(current.detach()).all()):
            row = int((~torch.isfinite(current.detach())).any(1).nonzero()[0])
            raise ValueError(f"log-probs must be finite inside the loss mask; response {row} has one that is not")
        reference = rollouts.old_logprobs if rollouts.old_logprobs is not None else logprobs.detach()
        old = masked(reference, mask)
        low, high = self.clip.bounds(rollouts, old)
        inputs = LossInputs(
            logprobs=current,
            log_ratio=(current - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO),
            advantages=credit.advantages,
            mask=mask,
            clip_low=low if credit.clip_low is None else credit.clip_low,
            clip_high=high if credit.clip_high is None else credit.clip_high,
            dual=self.clip.dual,
            progress=progress,
        )
        return self.ratio_for(credit)(inputs)


def _clip_spec(clip: Spec | None) -> Spec:
    """Plain {low, high, dual} means fixed bounds."""
    if clip is None:
        return "fixed"
    if isinstance(clip, Mapping) and not (len(clip) == 1 and next(iter(clip)) in names("clip")):
        return {"fixed": clip}
    return clip


def _require(regularizer: Regularizer, passes: Mapping[str, Tensor]) -> None:
    for name in regularizer.needs().passes:
        if name not in passes:
            known = ", ".join(sorted(passes)) or "none"
            raise ValueError(f"regularizer {regularizer.name!r} needs passes[{name!r}] (given: {known})")


def _metrics(loss: PolicyLoss, credit: Credit, policy: float) -> dict[str, float]:
    mask = credit.loss_mask
    count = max(1, int(mask.sum()))
    ratio = loss.ratio.detach()[mask]
    log_ratio = ratio.clamp(min=1e-9).log()
    return {
        "policy_loss": policy,
        "ratio_mean": float(ratio.mean()) if len(ratio) else 1.0,
        "ratio_max": float(ratio.max()) if len(ratio) else 1.0,
        "ratio_min": float(ratio.min()) if len(ratio) else 1.0,
        "clip_low_fraction": float(loss.clipped_low.sum()) / count,
        "clip_high_fraction": float(loss.clipped_high.sum()) / count,
        "clip_dual_fraction": float(loss.clipped_dual.sum()) / count,
        "update_kl": float((ratio - 1 - log_ratio).mean()) if len(ratio) else 0.0,  # k3 estimate of KL(old || new)
    }
