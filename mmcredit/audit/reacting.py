"""Reactions for continuations: what may be inserted behind a prefix depends on the prefix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmcredit.rollout.reaction import Promised, Reaction, Reply, Said
    from mmcredit.rollouts import Inserted


@dataclass(frozen=True)
class Behind:
    """A reaction that is told of the response from its first token on, though sampling began behind a prefix."""

    inner: Reaction
    prefix: tuple[int, ...]
    inserted: tuple[Inserted, ...]  # in the prefix

    @property
    def stops(self) -> tuple[int, ...]:
        """Ids behind which a response is handed over."""
        return self.inner.stops

    @property
    def room(self) -> int:
        """Tokens that may still be inserted."""
        return max(0, self.inner.room - sum(one.end - one.at for one in self.inserted))

    def __call__(self, said: Said) -> Reply | Promised:
        """The reply to the whole response."""
        before = len(self.prefix)
        later = tuple(replace(one, at=one.at + before) for one in said.inserted)
        return self.inner(replace(said, tokens=(*self.prefix, *said.tokens), inserted=(*self.inserted, *later)))
