"""The control: as many spans of the same lengths as another verifier flags, at random places of the same response."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmcredit.seeds import derive
from prm.spans import TRAINING, Zone, locate, think_zone

if TYPE_CHECKING:
    from prm.parse import Verification
    from prm.verifier import Query, Verifier


class RandomSpans:
    """What `inner` flags, moved: every span becomes a run of as many words, uniformly among those of the response.

    Statuses, numbers and lengths of the spans are those of the inner verifier, only the places carry no information;
    a method that gains by it gains by something else than by what was flagged. Runs do not overlap while there is
    room. The place depends on the seed, the sample and the response alone.

    With `flagged`, a share, the status is drawn too: the inner verifier is asked and paid for, but whether a response
    is flagged carries no information either (a word of one that it found clean, nothing of one that it flagged).
    """

    def __init__(self, inner: Verifier, seed: int = 0, zone: Zone = "think", flagged: float | None = None) -> None:
        self.inner, self.seed, self.zone, self.flagged = inner, seed, zone, flagged
        share = "" if flagged is None else f", {flagged:g} flagged"
        self.version = f"random spans, seed {seed}, zone {zone}{share}, like {inner.version}"

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query."""
        return [self._move(query, said) for query, said in zip(queries, self.inner.verify(queries), strict=True)]

    def close(self) -> None:
        """Close the inner verifier."""
        self.inner.close()

    def _move(self, query: Query, said: Verification) -> Verification:
        text = query.response
        if self.flagged is not None and said.status in ("clean", "flagged"):
            drawn = random.Random(derive(self.seed, "random status", query.sample_id, text)).random() < self.flagged
            if not drawn:
                return replace(said, status="clean", strings=(), places=None)
            said = said if said.status == "flagged" else replace(said, status="flagged", strings=(text[:0],))
        if said.status != "flagged":
            return said
        found = locate(said.strings, text, ladder=TRAINING, places=said.places)
        begin, end = (0, len(text)) if self.zone == "all" else think_zone(text)
        words = [(begin + m.start(), begin + m.end()) for m in re.finditer(r"[\w'-]+", text[begin:end])]
        rng = random.Random(derive(self.seed, "random spans", query.sample_id, text))
        taken: set[int] = set()
        places = []
        sizes = [max(1, len(re.findall(r"[\w'-]+", text[span.start : span.end]))) for span in found.spans]
        for size in sizes or [1] * (self.flagged is not None):
            starts = range(max(0, len(words) - size + 1))
            free = [i for i in starts if not taken & set(range(i, i + size))]
            if not starts:
                continue
            at = rng.choice(free or list(starts))
            taken |= set(range(at, at + size))
            places.append((words[at][0], words[at + size - 1][1]))
        strings = tuple(text[a:b] for a, b in places)
        return replace(said, strings=strings, places=tuple(places), status="flagged" if places else "clean")
