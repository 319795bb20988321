"""One row of a data set -> `Sample`, without options for the conventions of TRL, EasyR1 and verl.

Prompt: `prompt` (text, or chat messages with text or parts as content), else `problem`, else `question`. Plain text
becomes one user turn. Media: `images` or `image`, `videos` or `video`, each one value or a list; they replace the
literal `<image>` / `<video>` of the text in order, fill the bare image parts of the messages, or go to the front of the
first user turn. Reference answer: `answer`, `ground_truth`, `reward_model.ground_truth`, `solution`, the first that has
a value; none is allowed. All other columns go to `Sample.meta`, in a form that JSON can hold.

Sources: TRL "Dataset formats" and `prepare_multimodal_messages`; EasyR1 `verl/utils/dataset.py`; verl "Prepare data".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmcredit.data import messages as chat
from mmcredit.data.columns import Columns, Part, answer_text, is_empty, pick, plain
from mmcredit.data.dropped import UnusableSample, reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.data.templates import render
from mmcredit.data.values import Kind, to_media

if TYPE_CHECKING:
    from jinja2 import Template

PARTS: dict[Kind, Part] = {"image": "images", "video": "videos"}


@dataclass(frozen=True)
class Reading:
    """How rows are read: column names where they differ from the known ones, what is put around the question."""

    limits: MediaLimits
    columns: Columns = field(default_factory=Columns)
    system: str | None = None
    template: Template | None = None


def to_sample(row: Mapping[str, Any], id: str, reading: Reading, place: str = "") -> Sample:
    """The sample that `row` describes, under the id `id`.

    `place` says where the row stands ("train.jsonl, line 7"), for messages. Raises ValueError naming sample and place.
    """
    where = f"sample {id}" + (f" ({place})" if place else "")
    prompt_column, prompt = pick(row, reading.columns, "prompt", where)
    if prompt_column is None or is_empty(prompt) or (isinstance(prompt, str) and not prompt.strip()):
        raise UnusableSample(f"{where} has no prompt (columns there: {', '.join(row) or 'none'})", "prompt missing")
    answer_column, answer = pick(row, reading.columns, "answer", where)
    used = {prompt_column, answer_column}

    media: dict[Kind, list[Media]] = {}
    for kind in chat.KINDS:
        column, value = pick(row, reading.columns, PARTS[kind], where)
        used.add(column)
        values = [] if is_empty(value) else list(value) if isinstance(value, list | tuple) else [value]
        media[kind] = [to_media(item, kind, f"{column}[{i}]", id, reading.limits) for i, item in enumerate(values)]
    meta = {name: plain(value) for name, value in row.items() if name not in used}

    def inline(value: Any, kind: Kind, part: str) -> Media:
        return to_media(value, kind, part, id, reading.limits)

    def question(content: str) -> str:
        assert reading.template is not None
        return render(reading.template, content, row)

    try:
        drafts = chat.parse(prompt, inline)
        if reading.template is not None:
            chat.map_question(drafts, question)
        if reading.system is not None:
            drafts = chat.set_system(drafts, reading.system)
        placed, ordered = chat.place(drafts, media)
    except ValueError as error:
        raise UnusableSample(f"{where}: {error}", reason_of(error, "row malformed")) from error
    return Sample(id=id, messages=placed, media=ordered, answer=answer_text(answer), meta=meta)
