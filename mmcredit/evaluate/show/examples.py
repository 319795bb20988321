"""Questions for the page: right on the clean image and wrong on the corrupted one, with both images."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.data.media import load_image
from mmcredit.data.sample import last_text
from mmcredit.evaluate.ask.answer_lines import Rows, cell_label
from mmcredit.evaluate.ask.cells import CLEAN, Cell, shown_in
from mmcredit.evaluate.ask.settings import CORRUPTION_SEED
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.retiled import pixels_of
from mmcredit.policy.vision import items
from mmcredit.report.samples import encode_image

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.evaluate.ask.questions import Target
    from mmcredit.evaluate.judge.results import Results
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

CELLS, PER_CELL = 4, 4  # cells with the largest drops, and questions of each
MAX_IMAGES = 2  # of one question
SIDE = 320  # pixels of the longer side
MAX_TEXT = 1200  # characters of a question or an answer


@dataclass(frozen=True)
class Side:
    """What the model saw and said."""

    label: str
    images: Sequence[str]  # data URIs
    response: str
    extracted: str | None
    correct: bool


@dataclass(frozen=True)
class Example:
    """One question; two sides where it is shown clean and corrupted."""

    id: str
    question: str
    answer: str | None
    sides: Sequence[Side]


def examples(
    policy: Policy, target: Target, rows: Rows, found: Results, cells: Sequence[Cell]
) -> list[tuple[str, list[Example]]]:
    """Per heading a few questions, chosen by the first attempt and in the order of the questions.

    With corruptions: of the cells with the largest drops those that were right when clean and wrong when corrupted.
    Without: wrong answers.
    """
    chosen: list[tuple[str, Cell, list[int]]] = []
    clean = found.correct[CLEAN.label]
    right = _first_right(rows)
    if len(cells) == 1:
        wrong = [n for n in sorted(clean) if not right[CLEAN.label, n]]
        chosen.append(("Wrong answers", cells[0], wrong[: CELLS * PER_CELL // 2]))
    for drop, cell in _largest_drops(found, cells):
        both = [n for n in sorted(found.correct[cell.label]) if n in clean]
        flipped = [n for n in both if right[CLEAN.label, n] and not right[cell.label, n]]
        chosen.append((f"{cell.label}: {100 * drop:.1f} points below clean", cell, flipped[:PER_CELL]))
    keys = {(label, n) for _, cell, numbers in chosen for n in numbers for label in (CLEAN.label, cell.label)}
    said = {key: row for row in rows.read() if (key := _first(row)) in keys}
    pixels = pixels_of(policy)
    result = []
    for title, cell, numbers in chosen:
        shown = [_example(policy, pixels, target.samples[n], cell, n, said) for n in numbers]
        if shown:
            result.append((title, shown))
    return result


def _first(row: Mapping[str, Any]) -> tuple[str, int] | None:
    """Cell and question of a first attempt; None for any other row."""
    return None if "skipped" in row or row["attempt"] else (cell_label(row), row["number"])


def _first_right(rows: Rows) -> dict[tuple[str, int], bool]:
    """By cell and question: whether the first attempt was right."""
    return {key: bool(row["correct"]) for row in rows.read() if (key := _first(row)) is not None}


def _largest_drops(found: Results, cells: Sequence[Cell]) -> list[tuple[float, Cell]]:
    clean = found.correct[CLEAN.label]
    drops = []
    for place, cell in enumerate(cells):
        if cell.operator is None:
            continue
        values = found.correct[cell.label]
        both = [n for n in values if n in clean]
        drops.append((sum(clean[n] - values[n] for n in both) / max(1, len(both)), -place, cell))
    return [(drop, cell) for drop, _, cell in sorted(drops, key=lambda d: d[:2], reverse=True)[:CELLS] if drop > 0]


def _example(
    policy: Policy,
    pixels: Pixels,
    sample: Sample,
    cell: Cell,
    number: int,
    said: Mapping[tuple[str, int], Mapping[str, Any]],
) -> Example:
    prompt = policy.encode(sample)
    sides = []
    for each in [CLEAN] if cell.operator is None else [CLEAN, cell]:
        row = said[each.label, number]
        images = _images(policy, pixels, sample, shown_in(prompt, each, pixels, CORRUPTION_SEED))
        sides.append(Side(each.label, images, _cut(row["response"]), _cut(row["extracted"]), bool(row["correct"])))
    return Example(sample.id, _cut(last_text(sample)) or "", sample.answer, sides)


def _images(policy: Policy, pixels: Pixels, sample: Sample, prompt: Prompt) -> list[str]:
    """The images as the model sees them, as data URIs; a video by its first frame."""
    if not prompt.media_keys:
        return []
    try:
        frames = [pixels.pictures(item, sample.id)[0] for item in items(prompt)[:MAX_IMAGES]]
    except ValueError:  # a processor whose pixels cannot be read back has clean images only
        frames = [load_image(m, policy.media_limits) for m in sample.media[:MAX_IMAGES] if m.kind == "image"]
    uris = []
    for frame in frames:
        data, suffix = encode_image(frame, SIDE)
        kind = "png" if suffix == ".png" else "jpeg"
        uris.append(f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}")
    return uris


def _cut(text: Any) -> Any:
    if not isinstance(text, str) or len(text) <= MAX_TEXT:
        return text
    return text[:MAX_TEXT] + f" … ({len(text) - MAX_TEXT} more characters)"
