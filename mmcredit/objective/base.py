"""The parts an objective is put together from. Shapes as in `mmcredit.rollouts`: [B,T] unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from mmcredit.components import Component
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

# exp() of a log-ratio beyond this is never meaningful and overflows float32 soon after; verl and TRL clamp at 20 too.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class LossInputs:
    """What a ratio turns into a loss per token. Only `logprobs` carries a gradient."""

    logprobs: Tensor  # current policy; 0 outside mask
    log_ratio: Tensor  # logprobs - old_logprobs, clamped to +-20; 0 outside mask
    advantages: Tensor
    mask: Tensor  # bool, tokens that enter the loss
    clip_low: Tensor  # ratio may fall to 1 - low
    clip_high: Tensor  # ratio may rise to 1 + high
    dual: float | None  # for negative advantages the loss is at most -dual * A
    progress: float = 0.0  # share of the run that is done, for schedules


@dataclass(frozen=True)
class PolicyLoss:
    """A loss per token (with gradient), and what it looked at (detached)."""

    loss: Tensor
    ratio: Tensor
    clipped_low: Tensor  # bool: the lower bound took this token's gradient
    clipped_high: Tensor  # bool: the upper bound did
    clipped_dual: Tensor  # bool: the dual cap did


class Ratio(Component):
    """How the change of policy enters the loss of a token."""

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        """Loss per token, to be minimised; exactly 0 outside the mask, with a zero gradient there."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(inputs)")


class Clip(Component):
    """Bounds of the ratio around 1, per token."""

    dual: float | None = None

    def bounds(self, rollouts: Rollouts, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high): the ratio is clipped to [1-low, 1+high]."""
        raise TypeError(f"{type(self).__name__} does not implement bounds(rollouts, old_logprobs)")


class Aggregate(Component):
    """A fixed non-negative weight per token; the loss is the weighted sum.

    Weights are computed once for a whole optimizer mini-batch, before it is split into micro-batches or over ranks,
    so that no result depends on the split. A response without any token in the loss counts nowhere.
    """

    def weights(self, rollouts: Rollouts, credit: Credit) -> Tensor:
        """[B,T] weights, 0 outside `credit.loss_mask`; all 0 if nothing is in the loss."""
        raise TypeError(f"{type(self).__name__} does not implement weights(rollouts, credit)")


@dataclass(frozen=True)
class RegularizerInputs:
    """What a regularizer sees: a micro-batch, its share of the weights, and the passes it asked for."""

    logprobs: Tensor  # with gradient
    rollouts: Rollouts
    credit: Credit
    passes: Mapping[str, Tensor]
    weights: Tensor  # the aggregate's weights of the whole mini-batch, these rows
    prepared: Mapping[str, Tensor] = field(default_factory=dict)  # what `prepare` made of the mini-batch, these rows
    progress: float | None = None  # share of the run that is done; None = outside a run: schedules are at rest

    def detach(self) -> RegularizerInputs:
        """The same numbers without their graphs."""
        passes = {name: value.detach() for name, value in self.passes.items()}
        return replace(self, logprobs=self.logprobs.detach(), passes=passes)


@dataclass(frozen=True)
class RegularizerLoss:
    """A term of the loss, and numbers for the log."""

    loss: Tensor  # scalar, with gradient
    metrics: Mapping[str, float] = field(default_factory=dict)


class Regularizer(Component):
    """A further term of the loss. `needs()` names what it must be given at update time, and which views it sees."""

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        """The term for these rows; the terms of all micro-batches add up to that of the mini-batch."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(inputs)")

    def prepare(
        self,
        rollouts: Rollouts,
        credit: Credit,
        weights: Tensor,
        *,
        progress: float | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """What depends on the whole mini-batch, computed before it is split: its own denominators, random choices.

        Every tensor has the responses on axis 0, and a part gets its rows. `rows` [B] bool names the responses whose
        term is not 0 whatever the policy says: no pass is run for the others. `weights` are the policy term's.
        """
        return {"rows": (weights != 0).any(1)}

    def look(self, inputs: RegularizerInputs) -> dict[str, Tensor]:
        """Where `sees_whole_batch`: more of `prepare`, from the values of all passes on the whole mini-batch."""
        return {}

    def unchanged(self, prepared: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Entries of `prepared` that change because every view of the responses `rows` [B] bool shows the clean prompt:
        a term that is 0 then, in value and gradient, need not be computed."""
        return {}

    @property
    def sees_whole_batch(self) -> bool:
        """Whether `look` must be called before any part of a mini-batch."""
        return False

    @property
    def one_view_per_response(self) -> bool:
        """Whether at most one of several views of a response gets a gradient."""
        return False

    @property
    def clean_is_constant(self) -> bool:
        """Whether the term has no gradient through `inputs.logprobs`, only through passes."""
        return False


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where mask, exactly 0 (value and gradient) elsewhere; safe for NaN and infinity outside the mask."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def response_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[B]: mean over the masked tokens of each response; 0 for a response without any."""
    return masked(values, mask).sum(1) / mask.sum(1).clamp(min=1)
