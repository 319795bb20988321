"""The questions of an evaluation that can be asked; the others are dropped, counted, named, and in the end fatal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.data.dropped import Dropped, reason_of

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt

LEAST = 2  # a single unusable row never stops a run, however small the set


@dataclass
class Usable:
    """The usable questions of a set, in order."""

    total: int
    samples: list[Sample] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of each in the whole set
    dropped: Dropped = field(default_factory=Dropped)
    refusals: list[tuple[str, str, str]] = field(default_factory=list)  # reason, id and message of each that is dropped


def read(samples: Sequence[Sample], encode: Callable[[Sample], Prompt], limit: float | None = None) -> Usable:
    """Read and encode a set of questions. One that cannot be read (a missing image) or encoded (too long) is dropped
    and counted. Raises ValueError if none is usable, or more than `limit` allows are not (see `check_share`)."""
    found = Usable(len(samples))
    for place, name in enumerate(_names(samples)):
        try:
            sample = samples[place]
            name = sample.id
            prompt = encode(sample)
        except ValueError as error:
            found.dropped.add(reason_of(error), name)
            found.refusals.append((reason_of(error), name, str(error)))
            continue
        found.samples.append(sample)
        found.prompts.append(prompt)
        found.places.append(place)
    if found.total and not found.samples:
        raise ValueError(f"none of the {found.total} questions is usable: {found.dropped}; {found.refusals[0][2]}")
    if limit is not None:
        check_share(len(found.refusals), found.total, limit, [message for *_, message in found.refusals])
    return found


def check_share(unusable: int, total: int, limit: float, messages: Sequence[str]) -> None:
    """Raise ValueError if at least two held-out rows, and more than the share `limit` of all, cannot be used."""
    if unusable >= LEAST and unusable > limit * total:
        said = "; ".join(messages[:3]) + ("; ..." if len(messages) > 3 else "")
        raise ValueError(
            f"{unusable} of the {total} held-out questions cannot be used, more than check.max_unusable_held_out="
            f"{limit:g} allows: {said}"
        )


def _names(samples: Sequence[Sample]) -> Iterator[str]:
    """What to call each question before it is read."""
    known = getattr(samples, "id", None)
    for place in range(len(samples)):
        yield str(known(place)) if callable(known) else f"number {place}"
