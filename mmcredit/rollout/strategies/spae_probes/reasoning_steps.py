"""Where the steps of a response end, on its own token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.rollout.drawing.stop import StopStrings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Steps:
    """Steps of one response. Indices are token places."""

    ends: tuple[int, ...]  # last token of each step, ascending
    thought: int  # tokens of the reasoning, its closing mark included; the summary follows

    def merged(self, most: int) -> Steps:
        """At most `most` steps: neighbours become one, and the last boundary stays."""
        each = -(-len(self.ends) // most)
        return self if each <= 1 else Steps(self.ends[::-1][::each][::-1], self.thought)

    def ids(self, length: int) -> list[int]:
        """[length]: number of the step of each token; of what follows the last boundary inside the reasoning, the
        number of steps; -1 in the summary, and everywhere if there is no step."""
        if not self.ends:
            return [-1] * length
        found, start = [], 0
        for number, end in enumerate(self.ends):
            found += [number] * (end + 1 - start)
            start = end + 1
        found += [len(self.ends)] * (self.thought - start)
        return found + [-1] * (length - len(found))


class StepFinder:
    """Finds the tokens that complete a mark. The ids are never tokenised anew: where a mark ends is read off the text
    of the ids up to each token, so a mark that is spelled over several tokens ends with the last of them."""

    def __init__(self, mark: str, closing: str, tokenizer: Any, vocabulary: int, device: torch.device) -> None:
        """`mark` ends a step, `closing` the reasoning. Decodes every token of the vocabulary once per string."""
        self.mark = StopStrings((mark,), tokenizer, vocabulary, device)
        self.closing = StopStrings((closing,), tokenizer, vocabulary, device) if closing else None
        self.marking = self.mark.may_complete.tolist()
        self.closers = [] if self.closing is None else self.closing.may_complete.tolist()

    def __call__(self, tokens: Sequence[int], sampled: Sequence[bool]) -> Steps:
        """Steps of a response; only sampled tokens end one. Without a closing mark the whole response is searched."""
        thought = len(tokens)
        if self.closing is not None:
            for place, token in enumerate(tokens):
                if self.closers[token] and _completes(self.closing, tokens, place):
                    thought = place + 1
                    break
        within = range(thought - 1 if thought < len(tokens) else thought)
        ends = [p for p in within if self.marking[tokens[p]] and sampled[p] and _completes(self.mark, tokens, p)]
        return Steps(tuple(ends), thought)


def _completes(strings: StopStrings, tokens: Sequence[int], place: int) -> bool:
    return strings.ends(list(tokens[max(0, place + 1 - strings.window) : place + 1]))
