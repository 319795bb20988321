"""Correction for the gap between the engine that sampled and the engine that trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmcredit.components import explain
from mmcredit.objective.base import MAX_LOG_RATIO, masked, response_mean
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["token_tis", "sequence_tis", "token_mask", "sequence_mask", "geometric_mask", "none"]

# (floor, cap) where a config says nothing.
BOUNDS: dict[str, tuple[float, float]] = {
    "token_tis": (0.0, 2.0),  # verl
    "sequence_tis": (0.0, 2.0),
    "token_mask": (0.5, 5.0),  # IcePop
    "sequence_mask": (0.0, 3.0),  # TRL's default
    "geometric_mask": (0.99, 1.001),  # verl's example of a per-token mean over a sequence
    "none": (0.0, 1.0),
}


@dataclass(frozen=True)
class Correction:
    """`weights` [B,T] multiply the loss of a token (detached; 1 outside the mask); `metrics` for the log."""

    weights: Tensor
    metrics: dict[str, float]


class Mismatch(BaseModel):
    """Importance weight of the sampling engine against the training engine, w = pi_old / pi_sampler; stale failures.

    token_tis: min(w_t, cap).  sequence_tis: min(prod_t w_t, cap) on every token of the response.  token_mask: w_t where
    floor <= w_t <= cap, else 0 (IcePop).  sequence_mask: prod_t w_t on every token if inside the bounds, else 0 (MIS).
    geometric_mask: 1 if the geometric mean of w_t over the response is inside the bounds, else 0 (pure rejection).
    Logs are clamped to +-20; products run over all sampled tokens of a response. Denominators of the aggregate do not
    change. Without `old_logprobs` the update is on-policy, and the current log-probs (detached) stand in.

    A missing or non-finite sampler log-prob gives w = 1 for its token and is counted (`mismatch_missing`).
    `delta`, with any kind or alone (`kind: none`): a response of negative credit (its sum over the tokens in the loss)
    is dropped where mean_t(old - current) > delta, the policy having left what it did wrong anyway; DeepSeek-V3.2 has
    about 0.5. It can act from the second update on the same rollouts.
    Source: verl rollout_corr_helper.py, TRL's grpo_trainer (sequence_mask, cap 3.0; off-policy mask), IcePop. Passes:
    none; the sampling engine must report log-probs (except for `none`).
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Field("token_tis", description="what is weighed or masked")
    cap: float | None = Field(None, gt=0, description="largest weight; none = the kind's own")
    floor: float | None = Field(None, ge=0, description="least weight that a mask keeps; none = the kind's own")
    delta: float | None = Field(None, ge=0, description="nats per token past which failed responses are dropped")

    @model_validator(mode="after")
    def _filled(self) -> Mismatch:
        floor, cap = BOUNDS[self.kind]
        if self.kind == "none" and (self.delta is None or self.cap is not None or self.floor is not None):
            raise ValueError("kind none has no cap and no floor; it is there for delta, which must be set")
        if self.floor is not None and self.kind.endswith("_tis"):
            raise ValueError(f"floor has no meaning for {self.kind}; it only truncates from above")
        self.cap = cap if self.cap is None else self.cap
        self.floor = min(floor, self.cap) if self.floor is None else self.floor
        if self.floor > self.cap:
            raise ValueError(f"floor {self.floor} is above cap {self.cap}")
        return self

    def __call__(
        self, logprobs: Tensor, rollouts: Rollouts, loss_mask: Tensor, advantages: Tensor | None = None
    ) -> Correction:
        """The weights of these rows; `logprobs` [B,T] stand in for missing `old_logprobs`.

        `advantages` [B,T] are read by `delta`.
        """
        found = Correction(torch.ones_like(logprobs.detach()), {}) if self.kind == "none" else None
        found = found or self._engines(logprobs, rollouts, loss_mask)
        if self.delta is None:
            return found
        assert advantages is not None, "delta reads advantages"
        stale = self._stale(logprobs.detach(), rollouts, masked(advantages, loss_mask))
        share = float((stale & loss_mask.any(1)).sum()) / max(1, int(loss_mask.any(1).sum()))
        weights = torch.where(stale[:, None] & rollouts.mask, 0.0, found.weights)
        return Correction(weights, found.metrics | {"off_policy_dropped": share})

    def _stale(self, logprobs: Tensor, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        """[B] bool: failed responses that the policy has left."""
        assert self.delta is not None
        old = logprobs if rollouts.old_logprobs is None else rollouts.old_logprobs
        drift = response_mean((old - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO), rollouts.mask)
        return (advantages.sum(1) < 0) & (drift > self.delta)

    def _engines(self, logprobs: Tensor, rollouts: Rollouts, loss_mask: Tensor) -> Correction:
        """The correction between engines."""
        assert self.cap is not None
        assert self.floor is not None
        mask = rollouts.mask
        one = torch.ones(mask.shape, dtype=logprobs.dtype, device=logprobs.device)
        if rollouts.sampler_logprobs is None:
            return Correction(one, {"mismatch_missing": float(loss_mask.sum()), "mismatch_weight_mean": 1.0})
        old = logprobs.detach() if rollouts.old_logprobs is None else rollouts.old_logprobs
        gap = masked((old - rollouts.sampler_logprobs).to(one.dtype), mask)
        missing = ~torch.isfinite(gap)
        gap = masked(gap, ~missing)
        if self.kind.startswith("token"):
            log_weight = gap
        elif self.kind == "geometric_mask":
            known = (mask & ~missing).sum(1, keepdim=True).clamp(min=1)
            log_weight = (gap.sum(1, keepdim=True) / known).expand_as(gap)
        else:
            log_weight = gap.sum(1, keepdim=True).expand_as(gap)
        ratio = log_weight.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        outside = (ratio > self.cap) | (ratio < self.floor)
        if self.kind.endswith("_tis"):
            weights = ratio.clamp(max=self.cap)
        else:
            weights = torch.where(outside, 0.0, one if self.kind == "geometric_mask" else ratio)
        count = max(1, int(loss_mask.sum()))
        inside = ratio[loss_mask]
        metrics = {
            "mismatch_missing": float((missing & loss_mask).sum()),
            "mismatch_weight_mean": float(weights[loss_mask].mean()) if len(inside) else 1.0,
            "mismatch_ratio_max": float(inside.max()) if len(inside) else 1.0,
            "mismatch_outside_fraction": float((outside & loss_mask).sum()) / count,
        }
        return Correction(torch.where(mask, weights, one), metrics)


def build_mismatch(spec: str | Mapping[str, Any] | Mismatch | None) -> Mismatch | None:
    """From a config entry: none, a kind, or {kind, cap, floor}. Raises ValueError for an unknown kind or field."""
    if spec is None or isinstance(spec, Mismatch):
        return spec
    try:
        return Mismatch(**({"kind": spec} if isinstance(spec, str) else dict(spec)))
    except ValidationError as error:
        raise ValueError(f"objective.mismatch: {explain(error, Mismatch)}") from None
