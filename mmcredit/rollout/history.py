"""What a response has behind it when it goes on in another batch or request: said, and given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.rollouts import Inserted

if TYPE_CHECKING:
    from mmcredit.policy.prompt import Prompt


@dataclass
class History:
    """Tokens of one response, behind its request's prefix."""

    room: int  # tokens that may still be inserted
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # 0 for inserted ones
    inserted: list[Inserted] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)  # of the reaction

    @property
    def sampled(self) -> int:
        """Tokens that the policy said."""
        return len(self.tokens) - sum(len(one.piece) for one in self.inserted)

    def say(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Sampled tokens behind what there is."""
        self.tokens += tokens
        self.logprobs += logprobs

    def give(self, piece: Prompt, name: str) -> None:
        """A piece behind what there is. Raises ValueError, naming the sample, if there is no room for it."""
        if not 0 < len(piece) <= self.room:
            raise ValueError(
                f"sample {name}: {len(piece)} tokens are to be inserted where there is room for {self.room}; raise "
                "the limit of inserted tokens of the reaction"
            )
        self.inserted.append(Inserted(len(self.tokens), piece))
        self.room -= len(piece)
        self.say(piece.tokens.tolist(), [0.0] * len(piece))
