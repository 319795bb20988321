"""One row of a data set -> `Sample`, without options for the conventions of TRL, EasyR1, verl and LLaVA.

Prompt: `prompt` (text, or chat messages with text or parts as content), else `problem`, `question`, `messages`,
`conversations`. Plain text becomes one user turn; the JSON text of a list of messages is read as that list, and said. A
chat that ends with the assistant is a prompt with its answer (TRL): the last turn is split off as the reference, or
continued where the source says `last_assistant_turn: continue`. Media: `images` or `image`, `videos` or `video`, each
one value or a list; they replace the literal `<image>` / `<video>` of the text in order, fill the bare image parts of
the messages, or go to the front of the first user turn; a placeholder without a medium is an error. Reference answer:
see `reference`; none is allowed. All other columns go to `Sample.meta`, in a form that JSON can hold.

Sources: TRL "Dataset formats" and `prepare_multimodal_messages`; EasyR1 `verl/utils/dataset.py`; verl "Prepare data".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmcredit.answers.references import ANSWERS_KEY
from mmcredit.data import messages as chat
from mmcredit.data import reference
from mmcredit.data.columns import Columns, Part, is_empty, media_like, pick, plain
from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample, name_of
from mmcredit.data.templates import render
from mmcredit.data.values import Kind, to_media

if TYPE_CHECKING:
    from jinja2 import Template

PARTS: dict[Kind, Part] = {"image": "images", "video": "videos"}
LastTurn = Literal["reference", "continue"]

JSON_PROMPT = "the prompt is the JSON text of chat messages; it was read as messages"
SPLIT_OFF = "the chat ends with the assistant; its last turn was taken out of the prompt and is the reference"
SPLIT_OFF_BESIDE = "the chat ends with the assistant; its last turn was taken out, the reference is column {column}"
SPLIT_OFF_BLANK = "the chat ends with a blank assistant turn, which was taken out of the prompt"
CONTINUED = "the chat ends with the assistant; responses continue its last turn (last_assistant_turn: continue)"


@dataclass(frozen=True)
class Reading:
    """How rows are read: column names where they differ from the known ones, what is put around the question."""

    limits: MediaLimits
    columns: Columns = field(default_factory=Columns)
    system: str | None = None
    template: Template | None = None
    last_assistant_turn: LastTurn = "reference"
    literal_placeholders: bool = False  # "<image>" in a text is the word, not a place for an image


def to_sample(row: Mapping[str, Any], id: str, reading: Reading, place: str = "", folder: Path | None = None) -> Sample:
    """The sample that `row` describes, under the id `id`.

    `place` says where the row stands ("train.jsonl:7"), for messages; `folder` is that of its file, where media paths
    may start. Raises ValueError naming sample and place.
    """
    name = name_of(id, place)
    where = f"sample {name}"
    prompt_column, prompt = pick(row, reading.columns, "prompt", where)
    if prompt_column is None or is_empty(prompt) or (isinstance(prompt, str) and not prompt.strip()):
        raise UnusableSample(f"{where} has no prompt (columns there: {', '.join(row) or 'none'})", "prompt missing")
    known = reference.read(row, reading.columns, where)
    used = {prompt_column, known.column}

    media: dict[Kind, list[Media]] = {}
    for kind in chat.KINDS:
        column, value = pick(row, reading.columns, PARTS[kind], where)
        used.add(column)
        media[kind] = [
            to_media(item, kind, f"{column}[{i}]", name, reading.limits, folder)
            for i, item in enumerate(_values(value))
        ]
    meta = {str(name): plain(value) for name, value in row.items() if name not in used}

    def inline(value: Any, kind: Kind, part: str) -> Media:
        return to_media(value, kind, part, name, reading.limits, folder)

    def question(content: str) -> str:
        assert reading.template is not None
        return render(reading.template, content, row)

    notes = list(known.notes)
    try:
        decoded = _from_json(prompt)
        if decoded is not None:
            notes.append(JSON_PROMPT)
        drafts = chat.parse(prompt if decoded is None else decoded, inline)
        texts, said = _last_turn(drafts, reading, known)
        notes += said
        if reading.template is not None:
            chat.map_question(drafts, question)
        if reading.system is not None:
            drafts = chat.set_system(drafts, reading.system)
        chat.check_turns(drafts)
        placed, ordered = chat.place(drafts, media, reading.literal_placeholders)
    except ValueError as error:
        reason = reason_of(error, "row malformed")
        hint = _columns(row, reading.columns, used) if reason in chat.MEDIA_REASONS else ""
        raise UnusableSample(f"{where}, column {prompt_column!r}: {error}{hint}", reason) from error
    if len(texts) > 1:
        meta[ANSWERS_KEY] = _alternatives(texts, meta.get(ANSWERS_KEY), where)
    answer = texts[0] if texts else None
    here = "" if place == id else place
    return Sample(id, placed, ordered, answer, meta, here, tuple(dict.fromkeys(notes)))


def _last_turn(
    drafts: list[chat.Draft], reading: Reading, known: reference.Reference
) -> tuple[tuple[str, ...], list[str]]:
    """Split the assistant's last turn off `drafts`, in place: the accepted answers, and what was done."""
    if drafts[-1][0]["role"] != "assistant":
        return known.texts, []
    if reading.last_assistant_turn == "continue":
        return known.texts, [CONTINUED]
    text = chat.split_off(drafts)
    if not text.strip():
        return known.texts, [SPLIT_OFF_BLANK]
    if known.texts:
        return known.texts, [SPLIT_OFF_BESIDE.format(column=known.column)]
    return (text,), [SPLIT_OFF]


def _from_json(prompt: Any) -> list[Any] | None:
    """The messages whose JSON text a prompt is; None for any other prompt. Raises ValueError for Python's spelling."""
    text = prompt.strip() if isinstance(prompt, str) else ""
    if text[:1] != "[" or text[-1:] != "]":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if text[1:].lstrip()[:1] == "{" and ("'role':" in text or "'from':" in text):
            raise ValueError(
                f"the prompt is the text of a Python list of messages ({text[:60]!r}); store it as a list or as JSON"
            ) from None
        return None
    is_chat = isinstance(found, list) and all(isinstance(m, dict) and {"role", "from"} & m.keys() for m in found)
    return found if is_chat and found else None


def _values(value: Any) -> list[Any]:
    """The media of a column: none, one, or a list, which may be written as its JSON text."""
    if is_empty(value):
        return []
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _columns(row: Mapping[str, Any], columns: Columns, used: set[str | None]) -> str:
    """What a person needs to know to say where the media are."""
    likely = [name for name in media_like(row) if name not in used]
    there = f"; columns there: {', '.join(str(name) for name in row)}"
    if not likely:
        return there
    return there + f"; {' and '.join(repr(name) for name in likely)} may hold them: name it in columns.images or videos"


def _alternatives(texts: tuple[str, ...], more: Any, where: str) -> list[Any]:
    if more is not None and not isinstance(more, list):
        raise UnusableSample(
            f"{where}: column {ANSWERS_KEY!r} must be a list of accepted answers, got {str(more)[:60]!r}; rename it, "
            "or name the reference in columns.answer",
            "row malformed",
        )
    return [*texts, *(more or [])]
