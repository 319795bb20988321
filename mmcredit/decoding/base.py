"""What a way of decoding is: a component that opens an engine beside the policy, and says what it spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from mmcredit.components import Component

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engine import RolloutEngine


class DecodingEngine(Protocol):
    """A rollout engine in all but its use, with counts."""

    def report(self) -> dict[str, float]:
        """Numbers since opening: tokens, shares, seconds."""
        ...

    def alone(self) -> Mapping[str, RolloutEngine]:
        """What to compare with: engines that go through the same loop, by name."""
        ...


class Decoding(Component):
    """A way of decoding at test time. Never for rollouts that are trained on."""

    def open(self, policy: Policy) -> DecodingEngine:
        """The engine on the policy. Raises ValueError for models that do not fit together."""
        raise TypeError(f"{type(self).__name__} does not implement open(policy)")


def same_vocabulary(one: Policy, other: Policy) -> None:
    """Raise ValueError unless ids mean the same tokens in both, added ones and ends included."""
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if mine != theirs:
        odd = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        raise ValueError(
            f"{one.config.path} and {other.config.path} have different vocabularies ({len(odd)} tokens, such as "
            f"{odd[0]!r}); tokens pass between the two as ids: give models of one tokenizer"
        )
    if set(one.eos_token_ids) != set(other.eos_token_ids):
        raise ValueError(
            f"{one.config.path} ends with the ids {one.eos_token_ids}, {other.config.path} with {other.eos_token_ids}; "
            "give models that end alike"
        )
