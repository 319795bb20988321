"""The rows of a micro-batch as one view shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.layout import Row
from mmcredit.policy.passes import View
from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Inserted

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.attention_entropy import Recorder

# Makes the prompt that a view shows, or None where it has none (a teacher without a hint).
MakePrompt = Callable[[View, Prompt], Prompt | None]


@dataclass(frozen=True)
class Shown:
    """`rows` to run, and where their tokens stand among the N tokens of all rows."""

    rows: Sequence[Row]
    picked: Tensor | None = None  # [N] bool, tokens of `rows`; None: of all

    def spread(self, states: Tensor | None, rest: Tensor | None) -> Tensor:
        """states [n,d] of `rows` (None: no rows) put among the N tokens; the others are those of `rest` [N,d]."""
        if states is None or rest is None or self.picked is None:
            only = rest if states is None else states
            assert only is not None
            return only
        return rest.index_copy(0, self.picked.nonzero()[:, 0].to(states.device), states)

    def spread_recorded(self, recorder: Recorder) -> None:
        """The same for what a recorder holds, [n] -> [N]; the others are 0."""
        if self.picked is None:
            return
        gone = torch.zeros(self.picked.shape, dtype=torch.float32)
        values = {name: recorder.values.get(name, gone[:0]) for name in recorder.asks}
        recorder.values = {name: self.spread(v, gone.to(v.device)) for name, v in values.items()}


def of_view(view: View, rows: Sequence[Row], makers: Mapping[str, MakePrompt]) -> Shown:
    """The rows with the prompts that a view other than clean and blind shows.

    Raises ValueError for a view that nothing makes.
    """
    if view.name in ("clean", "blind"):
        return Shown(rows)
    if view.name not in makers:
        known = ", ".join(sorted({"clean", "blind", *makers}))
        raise ValueError(f"a pass asks for the unknown view {view.name!r}; known: {known}")
    first = {row.number: row for row in reversed(rows)}
    maker = makers[view.name]
    made = {number: maker(view, row.prompt) for number, row in first.items()}
    kept = [
        replace(r, prompt=prompt, inserted=_pieces(view, r, maker))
        for r in rows
        if (prompt := made[r.number]) is not None
    ]
    if len(kept) == len(rows):
        return Shown(kept)
    return Shown(kept, _tokens([made[r.number] is not None for r in rows], rows))


def _pieces(view: View, row: Row, maker: MakePrompt) -> tuple[Inserted, ...]:
    """What was inserted, as a view shows it: one that changes media (`changes_media`) changes them there too."""
    if not getattr(maker, "changes_media", False):
        return row.inserted
    made = [(one, maker(view, one.piece)) for one in row.inserted]
    return tuple(one if piece is one.piece else replace(one, piece=piece) for one, piece in made)


def with_media(rows: Sequence[Row]) -> Shown:
    """The rows whose prompt, or what was inserted, has visual tokens."""
    seen = [any(bool(piece.visual.any()) for piece in (r.prompt, *r.shown)) for r in rows]
    if all(seen):
        return Shown(rows)
    return Shown([r for r, media in zip(rows, seen, strict=True) if media], _tokens(seen, rows))


def changed(rows: Sequence[Row], seen: Sequence[Row]) -> Shown:
    """Of rows `seen` (a view's, one for each of the clean `rows`) those that show another prompt or other pieces."""
    differ = [
        s.prompt is not r.prompt or any(a is not b for a, b in zip(s.shown, r.shown, strict=True))
        for s, r in zip(seen, rows, strict=True)
    ]
    if all(differ):
        return Shown(seen)
    return Shown([s for s, other in zip(seen, differ, strict=True) if other], _tokens(differ, rows))


def blanked(values: Tensor, there: Sequence[Tensor | None]) -> Tensor:
    """`values` [N,...], NaN at tokens that one of the views has no prompt for; `there` [N] bool each, None = all."""
    for known in there:
        if known is not None:
            gone = ~known.to(values.device).view(-1, *[1] * (values.ndim - 1))
            values = values.masked_fill(gone, torch.nan)
    return values


def _tokens(chosen: Sequence[bool], rows: Sequence[Row]) -> Tensor:
    return torch.tensor(chosen).repeat_interleave(torch.tensor([r.targets.shape[0] for r in rows]))
