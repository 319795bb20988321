"""Training rows with retrieval calls, for `mmcredit sft`: from public rows, checked by the parser that sampling uses.

A row has the question, the video and the target text (`completion`) with its call. The frames are not in the row: they
are inserted behind the call when it is taught, by the code that inserts them when a policy samples. Readers of
qwen-vl-utils messages get the same as `messages`, with the window as a video part of the assistant's turn.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video.retrieval import Call, format_call, parse_calls
from video.rewards import answer_of

VIDEO = "<video>"


class Unfit(ValueError):
    """A row that cannot be taught. `reason` is a few words to count by."""

    def __init__(self, place: str, why: str, reason: str) -> None:
        super().__init__(f"{place}: {why}")
        self.reason = reason


@dataclass
class Built:
    """Rows that can be taught, and what was left out, by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason -> the first message


def build(rows: Iterable[Mapping[str, Any]], name: str = "rows", widen: float = 0.0, seed: int = 0) -> Built:
    """Training rows of a set in the format of DM-CoT (`from_dm_cot`); what cannot be taught is counted."""
    made = Built()
    for number, row in enumerate(rows):
        try:
            found = from_dm_cot(row, f"{name}[{number}]")
            if widen:
                found = widened(found, widen, random.Random(f"{seed} {number}"))
            made.rows.append(found)
        except Unfit as error:
            made.dropped[error.reason] += 1
            made.examples.setdefault(error.reason, str(error))
    return made


def from_dm_cot(row: Mapping[str, Any], place: str = "row") -> dict[str, Any]:
    """One row of arXiv 2605.26680's SFT data as a training row.

    The row has `video` (a path, or a list of one path repeated) and `conversations` of a human and a gpt turn; in the
    latter the placeholder `<video>` follows each call. A bad window is a row that is left out (the release's loader
    shows the whole video instead). Raises Unfit.
    """
    videos = row.get("video")
    paths = list(dict.fromkeys([videos] if isinstance(videos, str) else videos or []))
    if len(paths) != 1 or not isinstance(paths[0], str):
        raise Unfit(place, f"one video is wanted, got {videos!r:.80}", "video missing")
    turns = row.get("conversations")
    if not isinstance(turns, list) or [t.get("from") for t in turns if isinstance(t, Mapping)] != ["human", "gpt"]:
        raise Unfit(place, "a human and a gpt turn are wanted", "turns differ")
    question, target = str(turns[0].get("value", "")), str(turns[1].get("value", ""))
    if question.count(VIDEO) != 1:
        raise Unfit(
            place, f"the question has {question.count(VIDEO)} {VIDEO} placeholders, 1 is wanted", "placeholders"
        )
    calls = [call for call in parse_calls(target) if call.status != "none"]
    for call in calls:
        if not call.ok:
            raise Unfit(place, f"its call is {call.status} ({call.reason})", f"call {call.status}")
    after = [target[call.finish : call.finish + len(VIDEO)] for call in calls]
    if target.count(VIDEO) != len(calls) or any(text != VIDEO for text in after):
        raise Unfit(place, f"{VIDEO} must follow each call, and nothing else", "placeholders")
    text = target.replace(VIDEO, "")
    return training_row(question.replace(VIDEO, "").strip(), paths[0], text, place)


def training_row(question: str, video: str, completion: str, place: str = "row") -> dict[str, Any]:
    """The row of a question, a video's path and a target text. Raises Unfit for a text without thought or answer."""
    answer = answer_of(completion)
    if not completion.startswith("<think>") or "</think>" not in completion or answer is None:
        raise Unfit(place, "a target is <think>...</think><answer>...</answer>", "format")
    calls = [call for call in parse_calls(completion) if call.ok]
    row: dict[str, Any] = {"question": question, "video": video, "completion": completion, "answer": answer}
    if calls:
        row |= {"span": [calls[0].start, calls[0].end], "fps": int(calls[0].fps)}
    return row


def widened(row: Mapping[str, Any], share: float, draw: random.Random) -> dict[str, Any]:
    """The row with its first window widened on each side by up to `share` of its length, as drawn.

    In the released rows the window equals the answer, so that a model learns to copy the one into the other.
    """
    if "span" not in row:
        return dict(row)
    call = next(call for call in parse_calls(row["completion"]) if call.ok)
    length = call.end - call.start
    start = max(0.0, round(call.start - draw.random() * share * length, 2))
    end = round(call.end + draw.random() * share * length, 2)
    text = row["completion"]
    spelled = format_call(start, end, int(call.fps))
    return {
        **row,
        "completion": text[: call.begin] + spelled + text[call.finish :],
        "span": [start, end],
    }


def messages(row: Mapping[str, Any], media: str | None = None) -> list[dict[str, Any]]:
    """A training row as qwen-vl-utils messages: the answered windows are video parts of the assistant's turn."""
    video = media or row["video"]
    parts: list[dict[str, Any]] = []
    at = 0
    for call in answered(row["completion"]):
        parts.append({"type": "text", "text": row["completion"][at : call.finish]})
        window = {"video_start": call.start, "video_end": call.end, "fps": call.fps}
        parts.append({"type": "video", "video": video, **window})
        at = call.finish
    parts.append({"type": "text", "text": row["completion"][at:]})
    user = [{"type": "video", "video": video}, {"type": "text", "text": row["question"]}]
    return [{"role": "user", "content": user}, {"role": "assistant", "content": parts}]


def answered(text: str, max_retrievals: int | None = None) -> list[Call]:
    """The calls of a text behind which frames stand."""
    return [call for call in parse_calls(text, max_retrievals) if call.ok]


def event_rows(source: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Clips of the source `video_events` with these fields, their files written to `folder`."""
    from mmcredit.components import build as component

    rows = component("source", {"video_events": dict(source)}).rows()  # type: ignore[attr-defined]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(rows)):
        row = rows.read(number)
        path = folder / f"{number:06d}.mp4"
        path.write_bytes(row["video"])
        made = training_row(row["question"], path.name, row["completion"], rows.place(number))
        yield {**made, **{key: row[key] for key in ("kind", "duration", "split")}}


def write(rows: Iterable[Mapping[str, Any]], path: Path, as_messages: bool = False) -> int:
    """JSON lines; returns how many. With `as_messages` a row is its messages and labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            line = dict(row)
            if as_messages:
                rest = {key: value for key, value in row.items() if key not in ("question", "video", "completion")}
                line = {"messages": messages(row), **rest}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def read(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a JSON list or of JSON lines. Raises ValueError naming the file."""
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(t) for t in text.splitlines() if t.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON rows: {error}") from None
    if not all(isinstance(row, dict) for row in data):
        raise ValueError(f"{path}: every row must be a JSON object")
    return data
