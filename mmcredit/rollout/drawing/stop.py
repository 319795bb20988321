"""When a response ends: an end token, or a stop string that the newest token completes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class StopCondition:
    """Tells which rows end with their newest token. Nothing ends before `min_new_tokens`."""

    def __init__(
        self,
        end_ids: Iterable[int],
        strings: StopStrings | None,
        min_new_tokens: int,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        """`vocabulary`: width of the logits."""
        self.min_new_tokens = min_new_tokens
        self.is_end = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.is_end[torch.tensor([i for i in set(end_ids) if 0 <= i < vocabulary], dtype=torch.int64)] = True
        self.strings = strings

    def __call__(self, tokens: Tensor, step: int, prefixes: Sequence[Sequence[int]]) -> Tensor:
        """[N] bool for tokens [T,N], of which rows 0..step are drawn. `prefixes`: ids before each row's first token."""
        newest = tokens[step]
        if step + 1 < self.min_new_tokens:
            return torch.zeros_like(newest, dtype=torch.bool)
        ended = self.is_end[newest]
        if self.strings is not None:
            rows = self.strings.completed(tokens, step, prefixes)
            if rows:
                ended[torch.tensor(rows, device=ended.device)] = True
        return ended


class StopStrings:
    """Finds stop strings as they are completed, also across tokens.

    Only rows whose newest token could be the last of a stop string are decoded, and of them only as many tokens as a
    stop string can span: one per UTF-8 byte, and four for a character cut at the front.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, vocabulary: int, device: torch.device) -> None:
        """Decodes every token of the vocabulary once: make it once per set of strings.

        Raises ValueError for an empty stop string.
        """
        if any(not s for s in stop):
            raise ValueError(f"a stop string must not be empty, got {list(stop)!r}; drop it from `stop`")
        self.stop, self.tokenizer = tuple(stop), tokenizer
        self.window = max(len(s.encode()) for s in stop) + 4
        self.may_complete = _may_complete(self.stop, tokenizer, vocabulary).to(device)

    def completed(self, tokens: Tensor, step: int, prefixes: Sequence[Sequence[int]]) -> list[int]:
        """Rows of tokens [T,N] whose token at `step` completes a stop string."""
        candidates = self.may_complete[tokens[step]].nonzero()[:, 0].tolist()
        first = max(0, step + 1 - self.window)
        rows = []
        for row in candidates:
            tail = tokens[first : step + 1, row].tolist()
            missing = self.window - len(tail)
            if missing > 0:
                tail = [*list(prefixes[row])[-missing:], *tail]
            if self.ends(tail):
                rows.append(row)
        return rows

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether a stop string reaches into the last of `ids`."""
        before, now = self._text(ids[:-1]).rstrip("\ufffd"), self._text(ids)
        return any(now.find(s, max(0, len(before) - len(s) + 1)) >= 0 for s in self.stop)

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _may_complete(stop: Sequence[str], tokenizer: Any, vocabulary: int) -> Tensor:
    """[V] bool: tokens that contain the last character of a stop string, or whose text alone is not known."""
    last = {s[-1] for s in stop}
    known = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode(
        [[i] for i in range(known)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
    may = torch.zeros(vocabulary, dtype=torch.bool)
    for i, (text, piece) in enumerate(zip(texts, pieces, strict=True)):
        # Part of a character, or a piece whose leading space is stripped when it stands alone.
        unknown = not text or "\ufffd" in text or (" " in last and (piece or "").startswith(("▁", "Ġ")))
        may[i] = unknown or not last.isdisjoint(text)
    return may
