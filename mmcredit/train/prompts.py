"""Prompts for a step: taken in order, encoded, and whatever cannot be used counted and replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.data.dropped import Dropped, reason_of
from mmcredit.data.order import PromptOrder
from mmcredit.data.sample import name_at
from mmcredit.policy.vision import UnsupportedModel

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt


class PromptStream:
    """Draws samples in seeded order and encodes them; a refused one is counted, reported and replaced by the next."""

    def __init__(
        self,
        samples: Sequence[Sample],
        encode: Callable[[Sample], Prompt],
        seed: int,
        report: Callable[[str, str, str], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`report(reason, name, message)` is called for every refused sample, `note(text)` once for every decision that
        was made while rows were read."""
        self.samples, self.encode, self.report, self.note = samples, encode, report, note
        self._said: set[str] = set()
        self.order = PromptOrder(len(samples), 1, seed)
        self.dropped = Dropped()

    def take(self, count: int) -> list[tuple[Sample, Prompt]]:
        """`count` usable prompts. Raises RuntimeError when a whole pass over the data gives none, and
        `UnsupportedModel` at once: no other sample would do."""
        taken: list[tuple[Sample, Prompt]] = []
        refused = 0
        last = ""
        while len(taken) < count:
            name = ""
            try:
                (index,) = self.order.next_batch()
                name = name_at(self.samples, index)
                sample = self.samples[index]
                name = sample.name
                taken.append((sample, self.encode(sample)))
                self._say(sample)
                refused = 0
            except UnsupportedModel:
                raise
            except ValueError as error:
                refused += 1
                last = str(error)
                self.dropped.add(reason_of(error), name)
                if self.report is not None:
                    self.report(reason_of(error), name, last)
                if refused >= len(self.samples):
                    raise RuntimeError(
                        f"none of the {len(self.samples)} training samples is usable; the last refusal: {last}"
                    ) from error
        return taken

    def _say(self, sample: Sample) -> None:
        for decision in sample.notes:
            if self.note is not None and decision not in self._said:
                self._said.add(decision)
                self.note(f"data.train: {decision} (first: {sample.name})")

    def state_dict(self) -> dict[str, Any]:
        """Position and counts."""
        return {"order": self.order.state_dict(), "dropped": self.dropped.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.order.load_state_dict(state["order"])
        self.dropped.load_state_dict(state["dropped"])
