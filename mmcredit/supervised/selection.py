"""What a selection of target tokens is: a component that says, per micro-batch, which tokens enter the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.components import Component

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts
    from mmcredit.supervised.taught import Taught


class Selection(Component):
    """A token selection. How many tokens of a row are kept is known beforehand, so that the loss of a batch does not
    depend on how it is cut into micro-batches; which ones is said when the model has been run."""

    @property
    def reads_attention(self) -> bool:
        """Whether the query row of the last target token is wanted too."""
        return False

    def open(self, policy: Policy, seed: int, steps: int) -> None:
        """Called once, before the first step, with the weights as loaded."""

    def outputs(self) -> frozenset[str]:
        """What the clean pass shall give besides log-probs, by the names of `Policy.forward`."""
        return frozenset()

    def begin(self, batch: Sequence[Taught], rollouts: Rollouts, prompts: Sequence[Prompt], policy: Policy) -> None:
        """A batch begins; called by all ranks."""

    def counts(self, mask: Tensor) -> Tensor:
        """[B] int64: how many of the tokens in mask [B,T] are kept."""
        raise NotImplementedError

    def keep(self, rows: Tensor, found: Mapping[str, Tensor]) -> Tensor:
        """[b,T] bool: the kept tokens of the rows `rows` [b] of the batch; `found`: outputs [b,T] of their pass."""
        raise NotImplementedError

    def sums(self) -> dict[str, tuple[float, float]]:
        """By metric, what its values over the rows that this process kept tokens of in the last batch add up to, and
        how many they are: the log has the mean over all processes. The same names on every process."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
