"""How a training engine that spreads the weights over processes stands between the policy and its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Scope(Protocol):
    """What the policy asks of such an engine; a policy without one runs its model directly.

    A forward with gradient is made by all ranks in step: each runs the same parts of the model, if need be on something
    that counts for nothing, since a part's weights or gradients are exchanged wherever it is run.
    """

    def forward(self, run: Callable[[], T]) -> T:
        """Make a forward with gradient; `run` returns what the loss will be made of."""
        ...

    def head(self) -> Callable[[Tensor], Tensor]:
        """The output head with its weight in place for the forward and backward of one micro-batch."""
        ...

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set on some rank. Asked inside `forward`, by every rank in the same order."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Around everything without gradient: all weights are in place, and ranks need not be in step inside."""
        ...
