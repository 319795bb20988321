"""The order in which prompts are used: shuffled anew every epoch, and resumable at any position."""

from __future__ import annotations

from typing import Any

import numpy as np


def permutation(size: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The numbers 0..size-1 in an order that depends on `seed` and `epoch` alone: [size] int64.

    `RandomState` and not a `Generator`: its streams are frozen (NEP 19), so that a run resumed under another numpy
    version goes on in the same order.
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed and epoch must not be negative, got seed={seed}, epoch={epoch}")
    words = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, seed >> 64, epoch]
    if max(words) > 0xFFFFFFFF:
        raise ValueError(f"seed must be below 2**96 and epoch below 2**32, got seed={seed}, epoch={epoch}")
    return np.random.RandomState(words).permutation(size).astype(np.int64)


class PromptOrder:
    """Batches of prompt indices, epoch after epoch, without dropping any.

    The tail of an epoch joins the head of the next one in one batch, so a batch can hold a prompt twice, and holds some
    several times where `batch` exceeds `num_samples`. The order within an epoch is a pure function of (seed, epoch);
    the state is two numbers.
    """

    def __init__(self, num_samples: int, batch: int, seed: int = 0, shuffle: bool = True) -> None:
        """Raises ValueError if `num_samples` or `batch` is not positive, or the seed is negative."""
        if num_samples < 1:
            raise ValueError(f"there is nothing to order: num_samples={num_samples}")
        if batch < 1:
            raise ValueError(f"a batch needs at least one prompt, got batch={batch}")
        self.num_samples, self.batch, self.seed, self.shuffle = num_samples, batch, seed, shuffle
        self.epoch = 0
        self.position = 0  # prompts of the present epoch that were handed out
        self._order = self._of_epoch(0)

    def next_batch(self) -> list[int]:
        """The next `batch` indices into the data set."""
        indices: list[int] = []
        while len(indices) < self.batch:
            if self.position == self.num_samples:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._of_epoch(self.epoch)
            taken = self._order[self.position : self.position + self.batch - len(indices)]
            indices.extend(taken.tolist())
            self.position += len(taken)
        return indices

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self.epoch + self.position / self.num_samples

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: the position, and what the order was made from."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the batch size may have changed since.

        Raises ValueError if the data set, the seed or `shuffle` differ: the prompts would come in another order.
        """
        for name in ("num_samples", "seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the saved data order was made with {name}={state[name]!r}, this run has {getattr(self, name)!r}; "
                    f"resume with the same data and seed, or start a new run"
                )
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= self.num_samples:
            raise ValueError(f"the saved data order is damaged: epoch={epoch}, position={position}")
        self.epoch, self.position = epoch, position
        self._order = self._of_epoch(epoch)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        return permutation(self.num_samples, self.seed, epoch) if self.shuffle else np.arange(self.num_samples)
