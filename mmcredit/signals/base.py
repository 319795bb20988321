"""What a signal is: a named per-token quantity, read from the passes it declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmcredit.components import Component
from mmcredit.policy.passes import Pass, View

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Rollouts

Results = Mapping[View, Mapping[str, "Tensor"]]


class Signal(Component):
    """A key of `Rollouts.signals`. It says which passes it reads; the planner merges and runs them."""

    def passes(self) -> tuple[Pass, ...]:
        """Passes of the policy this signal is read from."""
        raise TypeError(f"{type(self).__name__} does not implement passes()")

    def read(self, results: Results) -> Tensor:
        """The signal, from the outputs of its passes."""
        raise TypeError(f"{type(self).__name__} does not implement read(results)")


class TokenSignal(Signal):
    """A signal of the sampled ids alone: no pass is run for it."""

    def passes(self) -> tuple[Pass, ...]:
        return ()

    def make(self, rollouts: Rollouts, tokenizer: Any) -> Tensor:
        """The signal of a batch."""
        raise TypeError(f"{type(self).__name__} does not implement make(rollouts, tokenizer)")


def one(view: View, *outputs: str) -> tuple[Pass, ...]:
    """The pass of a signal that reads `outputs` of one view."""
    return (Pass(view, frozenset(outputs)),)
