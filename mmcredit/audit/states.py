"""The points of frozen responses that have a value, each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmcredit.audit.estimate import TERMINAL
from mmcredit.rollout.strategies.continuations import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.rollouts import Inserted, Rollouts


@dataclass(frozen=True)
class Place(State):
    """A state with what was inserted into its prefix. Equal ids mean that the same was inserted."""

    inserted: tuple[Inserted, ...] = field(default=(), compare=False)

    @property
    def sampled(self) -> int:
        """Tokens of the prefix that the policy said."""
        return len(self.prefix) - sum(one.end - one.at for one in self.inserted)


@dataclass(frozen=True)
class Points:
    """The states before and after every sampled token. N tokens, row by row; `before`, `after` index `states`."""

    states: list[Place]
    before: NDArray[np.int64]  # [N]
    after: NDArray[np.int64]  # [N], TERMINAL where the response is over
    row: NDArray[np.int64]  # [N] response of each token
    column: NDArray[np.int64]  # [N] its place in the response
    reward: NDArray[np.float64]  # [N] of its response

    @property
    def distinct(self) -> float:
        """Distinct states per sampled token."""
        return len(self.states) / max(1, len(self.before))


def find_points(rollouts: Rollouts, max_new_tokens: int, goes_on: Sequence[bool] | None = None) -> Points:
    """Every prefix of every response that ends before a sampled token. Equal prefixes of a prompt are one state.

    Tokens that the policy did not sample have no advantage: what leads to a row (the path to an edge of a tree), and
    what was inserted, which belongs to the state that it makes. `goes_on` [B]: rows that are not over at their last
    token; what follows it is a state then, not the reward.
    Raises ValueError for responses with tokens of others between their own that are no insertion.
    """
    states: dict[Place, int] = {}
    before, after, rows, columns, rewards = [], [], [], [], []
    lengths = rollouts.valid.sum(1).tolist()
    for row, (tokens, mask) in enumerate(zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), strict=True)):
        inserted = rollouts.inserted[row] if rollouts.inserted is not None else ()
        given = {t for one in inserted for t in range(one.at, one.end)}
        group, reward, length = int(rollouts.group[row]), float(rollouts.rewards[row]), lengths[row]
        sampled = [t for t in range(length) if mask[t]]
        foreign = [t for t in range(sampled[0], length) if not mask[t] and t not in given] if sampled else []
        if foreign:
            raise ValueError(
                f"response {row} holds {len(foreign)} tokens that the policy did not sample and no reaction inserted; "
                "an audit cannot go on from their prefixes: audit rollouts without them"
            )

        def state(
            end: int,
            group: int = group,
            tokens: list[int] = tokens,
            inserted: tuple[Inserted, ...] = inserted,
        ) -> int:
            own = tuple(one for one in inserted if one.at < end)
            said = end - sum(one.end - one.at for one in own)
            made = Place(group, tuple(tokens[:end]), max_new_tokens - said, own)
            return states.setdefault(made, len(states))

        places = [state(t) for t in sampled]
        more = goes_on is not None and goes_on[row]
        before += places
        after += [*places[1:], state(length) if more else TERMINAL] if places else []
        rows += [row] * len(places)
        columns += sampled
        rewards += [reward] * len(places)
    ints = [np.asarray(x, dtype=np.int64) for x in (before, after, rows, columns)]
    return Points(list(states), ints[0], ints[1], ints[2], ints[3], np.asarray(rewards, dtype=np.float64))
