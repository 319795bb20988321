"""Reading samples of one set through the real processor: what is usable, what is refused and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.data.dropped import Dropped, reason_of
from mmcredit.data.sample import name_at
from mmcredit.policy.vision import UnsupportedModel, items
from mmcredit.policy.wording import as_read

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt


@dataclass
class Refusal:
    """Samples that are refused for one reason."""

    reason: str
    count: int
    message: str  # of the first, in full
    names: list[str]  # of the first few


@dataclass(frozen=True)
class Read:
    """One usable sample; its tensors are let go."""

    sample: Sample
    text: str  # as the model reads it
    tokens: int
    visual: int


@dataclass
class SetReport:
    """What was found in one set."""

    setting: str  # data.train or data.evaluate
    total: int = 0  # samples in it
    read: int = 0  # samples looked at
    usable: list[Read] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    while_reading: Dropped = field(default_factory=Dropped)  # rows that the source itself left out
    error: str | None = None  # why nothing of it can be used
    with_media: int = 0  # usable samples
    patches: int = 0  # most of one sample
    pixel_bytes: float = 0.0  # of preprocessed media, per sample that was read
    richest: Prompt | None = None  # the prompt with the most patches

    @property
    def refused(self) -> int:
        """Samples that cannot be used."""
        return sum(r.count for r in self.refusals)

    @property
    def longest(self) -> int:
        """Prompt tokens of the longest usable sample."""
        return max((r.tokens for r in self.usable), default=0)


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, evenly spread."""
    most = min(limit, count)
    return [i * count // most for i in range(most)]


def read_set(
    setting: str,
    load: Callable[[], Sequence[Sample]],
    policy: Policy,
    limit: int,
    max_tokens: int | None,
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> SetReport:
    """Load a set and encode up to `limit` of its samples. What cannot be loaded is an error of the report.

    `start(total)` is called before reading and gives the function that is told how many samples are done.
    """
    report = SetReport(setting)
    try:
        samples = load()
    except ValueError as error:
        report.error = str(error)
        return report
    report.total = len(samples)
    if (left_out := getattr(samples, "dropped", None)) is not None:
        report.while_reading.update(left_out)
    if not len(samples):
        why = f": {report.while_reading}" if report.while_reading else ": its source gave no row"
        report.error = f"{setting} is empty{why}"
        return report
    picked = spread(len(samples), limit)
    advance = start(len(picked)) if start is not None else None
    for index in picked:
        _one(report, samples, index, policy, max_tokens)
        report.read += 1
        if report.error is not None:
            break
        if advance is not None:
            advance(1)
    if not report.usable and report.error is None:
        first = report.refusals[0]
        report.error = (
            f"none of the {report.read} samples read from {setting} is usable; "
            f"{first.count} of them for this reason: {first.message}"
        )
    return report


def _one(report: SetReport, samples: Sequence[Sample], index: int, policy: Policy, max_tokens: int | None) -> None:
    name = name_at(samples, index)
    try:
        sample = samples[index]
        name = sample.name
        prompt = policy.encode(sample, max_tokens)
    except UnsupportedModel as error:
        report.error = str(error)
        return
    except ValueError as error:
        _refuse(report, error, name)
        return
    _accept(report, sample, prompt, policy)


def _accept(report: SetReport, sample: Sample, prompt: Prompt, policy: Policy) -> None:
    report.usable.append(Read(sample, as_read(prompt, policy.tokenizer), len(prompt), int(prompt.visual.sum())))
    if not prompt.media_keys:
        return
    report.with_media += 1
    patches = 0 if policy.body.vision is None else sum(policy.body.vision.family.patches(i) for i in items(prompt))
    report.pixel_bytes += sum(t.numel() * t.element_size() for t in prompt.media.values())
    if patches > report.patches or report.richest is None:
        report.patches, report.richest = patches, prompt


def _refuse(report: SetReport, error: ValueError, name: str) -> None:
    message = str(error)
    reason = reason_of(error, default="")
    kind = reason or pattern(message, name)
    for refusal in report.refusals:
        if kind == (refusal.reason or pattern(refusal.message, refusal.names[0])):
            refusal.count += 1
            if len(refusal.names) < 3:
                refusal.names.append(name)
            return
    report.refusals.append(Refusal(reason, 1, message, [name]))


def pattern(message: str, name: str) -> str:
    """A message without what differs from sample to sample: its name, numbers, quoted values."""
    message = message.replace(name, "NAME")
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "VALUE", message)
    return re.sub(r"\d+", "N", message)[:160]
