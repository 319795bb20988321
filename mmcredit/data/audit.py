"""What only several samples together show: repeated questions, questions in both sets, columns nobody reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcredit.data.columns import media_like
from mmcredit.data.media import content_key
from mmcredit.data.sample import Sample


def question_key(sample: Sample) -> str:
    """Equal for samples that ask the same: system and other turns, white space aside, and the content of their media.

    The reference does not count: two rows with one question and two answers are the same question.
    """
    turns = [(message["role"], _text(message["content"])) for message in sample.messages]
    media = [content_key(item) for item in sample.media]
    return hashlib.sha256(json.dumps([turns, media]).encode("utf-8", "surrogatepass")).hexdigest()


def _text(content: Any) -> str:
    parts = [content] if isinstance(content, str) else [p.get("text", f"<{p['type']}>") for p in content]
    return " ".join("".join(parts).split())


@dataclass
class Audit:
    """Samples of a training and a held-out set, looked at one by one; nothing but hashes is kept."""

    train: dict[str, str] = field(default_factory=dict)  # question -> name of the first sample that asks it
    held_out: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {"train": [], "held_out": []})
    counts: dict[str, int] = field(default_factory=lambda: {"train": 0, "held_out": 0})
    decisions: Counter[str] = field(default_factory=Counter)  # what was decided when rows were read

    def add(self, sample: Sample, held_out: bool = False) -> None:
        """Take note of a sample. Raises ValueError if its media cannot be read."""
        which = "held_out" if held_out else "train"
        seen = self.held_out if held_out else self.train
        key = question_key(sample)
        self.counts[which] += 1
        self.decisions.update(sample.notes)
        if key in seen:
            self.repeated[which].append((sample.name, seen[key]))
        else:
            seen[key] = sample.name

    @property
    def shared(self) -> list[tuple[str, str]]:
        """(training sample, held-out sample) of every question that is in both sets."""
        return [(self.train[key], name) for key, name in self.held_out.items() if key in self.train]

    def warnings(self) -> list[str]:
        """What makes a measured accuracy worthless."""
        shared = self.shared
        if not shared:
            return []
        first, other = shared[0]
        return [
            f"{len(shared)} of the {len(self.held_out)} held-out questions read are among the {len(self.train)} "
            f"training questions read ({first} is {other}); held-out accuracy then measures memory: separate "
            "data.train and data.evaluate"
        ]

    def notes(self) -> list[str]:
        """What was decided, and what repeats: counted, no trouble."""
        total = sum(self.counts.values())
        found = [f"{count} of {total} samples: {decision}" for decision, count in self.decisions.most_common()]
        for which, setting in (("train", "data.train"), ("held_out", "data.evaluate")):
            if self.repeated[which]:
                name, earlier = self.repeated[which][0]
                found.append(
                    f"{len(self.repeated[which])} of {self.counts[which]} samples read from {setting} ask what an "
                    f"earlier one asks ({name} repeats {earlier})"
                )
        return found


def unread_media(samples: Iterable[Sample]) -> list[str]:
    """Columns that look like images or videos and are not read as such: those that most of the samples have."""
    names: Counter[str] = Counter()
    total = 0
    for sample in samples:
        total += 1
        names.update(media_like(sample.meta))
    return [name for name, count in names.most_common() if 2 * count > total]


def columns_of(samples: Sequence[Sample]) -> list[str]:
    """Names of the columns that samples carry besides prompt, media and reference."""
    meta: Mapping[str, Any] = {key: None for sample in samples for key in sample.meta}
    return list(meta)
