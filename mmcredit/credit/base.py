"""What a credit method is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mmcredit.components import Component
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Step:
    """Where in the run a method is called; `note` leaves a number for the log."""

    index: int = 0  # optimizer-visible step, from 0
    total: int = 1  # planned steps of the run
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.index / max(1, self.total))

    def note(self, name: str, value: float | Tensor) -> None:
        """Log `value` as credit/<method>/<name>."""
        self.notes[name] = float(value)


class CreditMethod(Component):
    """One credit method: rewards and signals in, credit per token out. One file, under 150 lines.

    The class docstring is the method page: the equation, the source, what differs from the paper, the defaults and
    where they come from, the cost in passes. Statistics are those of the batch handed in, which is the whole batch
    of all ranks; a method never sees a micro-batch.
    """

    starts: ClassVar[bool] = False  # turns rewards into advantages: may only stand first
    zero_for_equal: ClassVar[bool] = False  # of one that starts: a group of equal rewards has advantage 0
    changes: ClassVar[tuple[str, ...]] = ("advantages",)  # fields of Credit it may change
    fixes_ratio: ClassVar[str | None] = None  # the ratio kind it insists on

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        """The credit after this method."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(credit, rollouts, step)")

    # Optional: at_update(credit, rollouts, logprobs, entropy) -> Credit, called with the current policy's detached
    # log-probs (and entropy) of a whole optimizer mini-batch, before its gradient step. It costs a pass per mini-batch.

    @property
    def acts_at_update(self) -> bool:
        """Whether `at_update`, if there is one, does anything with these hyper-parameters."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """Memory across steps: JSON values and tensors, by name. The checkpoint carries it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
