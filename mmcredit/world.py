"""The processes of a run: who this one is, and the few things that they tell each other.

A run of several processes is one program run N times. Rollouts, rewards and credit are whole on every rank, made from
the same seeds by the same code; only sampling, score passes and micro-batches are shared out, and what they give is put
together again before anything looks at it. So statistics over a group or a batch are global without knowing of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from mmcredit.scratch import clean

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class World:
    """The one process of an ordinary run; every exchange is with itself."""

    rank = 0
    size = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files: rank 0 does, alone."""
        return self.rank == 0

    def waiting(self) -> AbstractContextManager[None]:
        """Around an exchange: waiting for other ranks is not a stall of this one (see `train.watchdog`)."""
        return nullcontext()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place. Where every element is 0 on all ranks but one, this puts parts together."""
        return tensor

    def totals(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`total` of tensors that have names, which all ranks have in common. By name, whatever the order they come in:
        names out of a set come in another order in every process (strings hash differently), and would be swapped."""
        return {name: self.total(named[name]) for name in sorted(named)}

    def gather(self, value: Any) -> list[Any]:
        """The plain data (dicts, lists, numbers, text) of every rank, by rank."""
        return [_as_it_travels(value)]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Plain data that rank 0 makes, on every rank. An error of rank 0 is raised on all."""
        return _as_it_travels(make())

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set on some rank."""
        return list(flags)

    def agree(self, what: str, items: Sequence[str]) -> None:
        """Raise RuntimeError, on all ranks, unless every rank has the same `items`. All that a rank does rests on that
        it holds what the others hold: where one read other files, or drew other numbers, each would go on by itself."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def close(self) -> None:
        """This run is over; the group stays, for another one."""

    def leave(self) -> None:
        """Wait for the other ranks with all work done; a process that is one of several ends here."""


def _as_it_travels(value: Any) -> Any:
    """What is not plain, and what becomes something else on its way, shows in a run of one process already."""
    return json.loads(json.dumps(value))


ALONE = World()


class ProcessGroup(World):
    """One of several processes of ``torch.distributed``, which has been initialised.

    Plain data travels as JSON, so that nothing which another process sends is ever executed. Floats survive exactly.
    """

    def __init__(
        self,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """`around`: entered while this rank waits for others; `done`: called when a run is over."""
        import torch.distributed as dist

        self.dist = dist
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._around, self._done = around, done

    def waiting(self) -> AbstractContextManager[None]:
        return self._around()

    def total(self, tensor: Tensor) -> Tensor:
        with self.waiting():
            self.dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        import torch

        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self.waiting():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            self.dist.all_gather(sizes, torch.tensor([len(own)]))
            most = int(max(sizes))
            padded = torch.zeros(most, dtype=torch.uint8)
            padded[: len(own)] = own
            parts = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.size)]
            self.dist.all_gather(parts, padded)
        return [json.loads(bytes(part[: int(n)].numpy())) for part, n in zip(parts, sizes, strict=True)]

    def from_first(self, make: Callable[[], Any]) -> Any:
        packed: dict[str, Any] = {}
        failed: Exception | None = None
        if self.writes:
            try:
                packed = {"value": make()}
            except (ValueError, RuntimeError) as error:
                failed = error
                packed = {"error": str(error), "kind": "ValueError" if isinstance(error, ValueError) else ""}
        found = self.gather(packed if self.writes else None)[0]
        if failed is not None:
            raise failed
        if "error" in found:
            raise (ValueError if found["kind"] else RuntimeError)(found["error"])
        return found["value"]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        import torch

        return [bool(n) for n in self.total(torch.tensor([int(f) for f in flags]))]

    def agree(self, what: str, items: Sequence[str]) -> None:
        own = list(items)
        if len(set(self.gather(hashlib.sha256(json.dumps(own).encode()).hexdigest()))) == 1:
            return
        first, *others = self.gather(own)
        rank, theirs = next((r, found) for r, found in enumerate(others, 1) if found != first)
        at = next((i for i, (a, b) in enumerate(zip(first, theirs, strict=False)) if a != b), None)
        difference = f"{len(first)} against {len(theirs)}" if at is None else f"{first[at]} against {theirs[at]}"
        raise RuntimeError(
            f"ranks 0 and {rank} have different {what} ({difference}), but all ranks of a run work on one batch: look "
            "for what is not the same for every process (files of data.media.root, versions of packages, environment "
            "variables, code that draws random numbers)"
        )

    def barrier(self) -> None:
        self.any([True])

    def close(self) -> None:
        self._done()

    def leave(self) -> None:
        if self.dist.is_initialized():  # a rollout engine may have ended the group with its own
            self.barrier()
        # Without the interpreter's tear-down: threads of gloo and vLLM that are still there abort the process in it.
        sys.stdout.flush()
        sys.stderr.flush()
        if self.size > 1:
            clean()
            os._exit(0)
