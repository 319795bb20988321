"""The points of frozen responses that have a value, each of them once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmcredit.audit.estimate import TERMINAL
from mmcredit.rollout.strategies.continuations import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.rollouts import Rollouts


@dataclass(frozen=True)
class Points:
    """The states before and after every sampled token. N tokens, row by row; `before`, `after` index `states`."""

    states: list[State]
    before: NDArray[np.int64]  # [N]
    after: NDArray[np.int64]  # [N], TERMINAL where the response is over
    row: NDArray[np.int64]  # [N] response of each token
    column: NDArray[np.int64]  # [N] its place in the response
    reward: NDArray[np.float64]  # [N] of its response

    @property
    def distinct(self) -> float:
        """Distinct states per sampled token."""
        return len(self.states) / max(1, len(self.before))


def find_points(rollouts: Rollouts, max_new_tokens: int) -> Points:
    """Every prefix of every response that ends before a sampled token. Equal prefixes of a prompt are one state.

    Raises ValueError for responses that carry inserted tokens: what a tool or a retriever would answer to another
    prefix is not known here.
    """
    inserted = rollouts.valid & ~rollouts.mask
    if bool(inserted.any()):
        row = int(inserted.any(1).nonzero()[0])
        raise ValueError(
            f"response {row} holds {int(inserted[row].sum())} tokens that the policy did not sample; an audit goes on "
            "from prefixes by plain sampling, which would not insert them: audit rollouts without insertion"
        )
    states: dict[State, int] = {}
    before, after, rows, columns, rewards = [], [], [], [], []
    for row, (tokens, mask) in enumerate(zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), strict=True)):
        said = tuple(token for token, sampled in zip(tokens, mask, strict=True) if sampled)
        group, reward = int(rollouts.group[row]), float(rollouts.rewards[row])
        places = []
        for length in range(len(said)):
            state = State(group, said[:length], max_new_tokens - length)
            places.append(states.setdefault(state, len(states)))
        before += places
        after += [*places[1:], TERMINAL] if places else []
        rows += [row] * len(said)
        columns += [t for t, sampled in enumerate(mask) if sampled]
        rewards += [reward] * len(said)
    ints = [np.asarray(x, dtype=np.int64) for x in (before, after, rows, columns)]
    return Points(list(states), ints[0], ints[1], ints[2], ints[3], np.asarray(rewards, dtype=np.float64))
