"""Sample tables: responses with the credit of each token (parquet), and their images, each stored once."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.report import files
from mmcredit.report.files import replace_file

if TYPE_CHECKING:
    import pyarrow
    from PIL.Image import Image

_STEP_FILE = re.compile(r"step-(\d+)\.parquet")
_PER_TOKEN = ("pieces", "token_ids", "advantages", "logprobs", "mask")


@dataclass(frozen=True)
class SpanRow:
    """One thing that a verifier says is wrong in a response."""

    text: str
    fate: str  # located, or why it marks no token
    rung: str  # how it was found
    tokens: Sequence[tuple[int, int]]  # ranges [start, end) in the row's tokens


@dataclass(frozen=True)
class VerdictRow:
    """What a verifier says of a response, for the table."""

    verifier: str
    status: str
    reason: str
    detail: str
    spans: Sequence[SpanRow]

    @classmethod
    def of(cls, verifier: str, verdict: Any) -> VerdictRow:
        """From a `mmcredit.verifiers.base.Verdict`."""
        spans = [SpanRow(s.text, s.fate, s.rung, list(s.tokens)) for s in verdict.spans]
        return cls(verifier, verdict.status, verdict.reason, verdict.detail, spans)


@dataclass(frozen=True)
class InsertedRow:
    """What was put into a response: `count` tokens from `at` on, and what they show."""

    at: int
    count: int
    media: Sequence[str]  # file names that `MediaStore.put` returned
    times: Sequence[float | None] = ()  # seconds of each of `media` in its video


@dataclass(frozen=True)
class WindowRow:
    """A stretch of the video that a response asks for or should: name (asked, gold), seconds, frames a second, what
    became of it, and the `count` tokens from `at` on that ask for it (-1: none do)."""

    name: str
    start: float
    end: float
    rate: float | None = None
    status: str = ""
    at: int = -1
    count: int = 0


@dataclass(frozen=True)
class SampleRow:
    """One response of a sample table. T tokens; every per-token list has that length.

    Raises ValueError, naming the field, where one has not.
    """

    sample_id: str
    member: int  # position in the group
    question: str
    response: str  # decoded text
    pieces: Sequence[str]  # text of each token, see `token_pieces`
    token_ids: Sequence[int]
    advantages: Sequence[float]
    logprobs: Sequence[float]  # nats
    mask: Sequence[bool]  # False: not sampled by the policy, carries no credit
    reward: float
    answer: str | None = None  # reference answer
    parts: Mapping[str, float] = field(default_factory=dict)  # reward part -> value
    media: Sequence[str] = ()  # file names that `MediaStore.put` returned
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)  # method -> factor on each token
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)  # signal -> value at each token
    truncated: bool = False
    verdicts: Sequence[VerdictRow] = ()  # one per verifier of the run
    prompt: str = ""  # as the model read it: template, system turn, places of the media
    inserted: Sequence[InsertedRow] = ()
    times: Sequence[float | None] = ()  # seconds of each of `media` in its video; None: no frame of a video
    duration: float | None = None  # seconds of the video
    windows: Sequence[WindowRow] = ()

    def __post_init__(self) -> None:
        count = len(self.token_ids)
        lists = {name: getattr(self, name) for name in _PER_TOKEN}
        lists |= {f"weights[{name!r}]": values for name, values in self.weights.items()}
        lists |= {f"signals[{name!r}]": values for name, values in self.signals.items()}
        for name, values in lists.items():
            if len(values) != count:
                raise ValueError(
                    f"sample {self.sample_id} member {self.member}: {name} has {len(values)} entries for {count} tokens"
                )


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    streams = pa.list_(pa.struct([("name", pa.string()), ("values", pa.list_(pa.float32()))]))
    weights = pa.list_(pa.struct([("method", pa.string()), ("values", pa.list_(pa.float32()))]))
    spans = pa.list_(
        pa.struct(
            [
                ("text", pa.string()),
                ("fate", pa.string()),
                ("rung", pa.string()),
                ("tokens", pa.list_(pa.list_(pa.int32(), 2))),
            ]
        )
    )
    place = [("at", pa.int32()), ("count", pa.int32())]
    times = pa.list_(pa.float32())
    inserted = pa.list_(pa.struct([*place, ("media", pa.list_(pa.string())), ("times", times)]))
    seconds = [(name, pa.float32()) for name in ("start", "end", "rate")]
    windows = pa.list_(pa.struct([("name", pa.string()), *seconds, ("status", pa.string()), *place]))
    words = [(name, pa.string()) for name in ("verifier", "status", "reason", "detail")]
    return pa.schema(
        [
            ("step", pa.int64()),
            ("sample_id", pa.string()),
            ("member", pa.int32()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("media", pa.list_(pa.string())),
            ("response", pa.string()),
            ("pieces", pa.list_(pa.string())),
            ("token_ids", pa.list_(pa.int64())),
            ("advantages", pa.list_(pa.float32())),
            ("weights", weights),
            ("signals", streams),
            ("logprobs", pa.list_(pa.float32())),
            ("mask", pa.list_(pa.bool_())),
            ("reward", pa.float32()),
            ("parts", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float32())]))),
            ("truncated", pa.bool_()),
            ("prompt", pa.string()),
            ("verdicts", pa.list_(pa.struct([*words, ("spans", spans)]))),
            ("inserted", inserted),
            ("times", times),
            ("duration", pa.float32()),
            ("windows", windows),
        ]
    )


class SampleWriter:
    """`samples/step-000010.parquet`: one row per response. Tables from `resume_step` on are removed on opening."""

    def __init__(self, run_dir: Path, resume_step: int = 0) -> None:
        self.run_dir = Path(run_dir)
        self.removed = 0
        for step, path in self.find(self.run_dir).items():
            if step >= resume_step:
                path.unlink()
                self.removed += 1

    @staticmethod
    def find(run_dir: Path) -> dict[int, Path]:
        """The sample tables of a run directory: step -> file, in step order."""
        folder = Path(run_dir) / files.SAMPLES
        found = [(m, p) for p in folder.glob("step-*.parquet") if (m := _STEP_FILE.fullmatch(p.name))]
        return dict(sorted((int(match[1]), path) for match, path in found))

    def write(self, step: int, rows: Sequence[SampleRow]) -> Path:
        """The table of one step, written aside and renamed. Raises OSError if the disk is full."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema()
        table = pa.Table.from_pylist([_record(step, row) for row in rows], schema=schema)
        path = self.run_dir / files.SAMPLES / f"step-{step:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            pq.write_table(table, aside, compression="zstd")
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        return path


def _record(step: int, row: SampleRow) -> dict[str, Any]:
    return {
        "step": step,
        "sample_id": _text(row.sample_id),
        "member": row.member,
        "question": _text(row.question),
        "answer": None if row.answer is None else _text(row.answer),
        "media": list(row.media),
        "response": _text(row.response),
        "pieces": [_text(piece) for piece in row.pieces],
        "token_ids": [int(i) for i in row.token_ids],
        "advantages": [float(x) for x in row.advantages],
        "weights": [{"method": k, "values": [float(x) for x in v]} for k, v in row.weights.items()],
        "signals": [{"name": k, "values": [float(x) for x in v]} for k, v in row.signals.items()],
        "logprobs": [float(x) for x in row.logprobs],
        "mask": [bool(x) for x in row.mask],
        "reward": float(row.reward),
        "parts": [{"name": k, "value": float(v)} for k, v in row.parts.items()],
        "truncated": bool(row.truncated),
        "prompt": _text(row.prompt),
        "verdicts": [_verdict(verdict) for verdict in row.verdicts],
        "inserted": [
            {"at": one.at, "count": one.count, "media": list(one.media), "times": list(one.times)}
            for one in row.inserted
        ],
        "times": list(row.times),
        "duration": row.duration,
        "windows": [asdict(window) for window in row.windows],
    }


def _verdict(verdict: VerdictRow) -> dict[str, Any]:
    spans = [
        {"text": _text(s.text), "fate": s.fate, "rung": s.rung, "tokens": [[int(a), int(b)] for a, b in s.tokens]}
        for s in verdict.spans
    ]
    words = {name: _text(getattr(verdict, name)) for name in ("verifier", "status", "reason", "detail")}
    return {**words, "spans": spans}


def _text(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate (from a lossy decode) becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_samples(path: Path) -> pyarrow.Table:
    """A sample table. Raises ValueError naming the file if it is damaged or lacks a column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    needed = ("sample_id", "member", "response", "pieces", "token_ids", "advantages", "reward")
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: columns {missing} are missing; is it a sample table?")
    return table


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of a sample table as written. Raises ValueError as `open_samples` does."""
    return open_samples(path).to_pylist()


class MediaStore:
    """`media/`: images of the sample tables, each stored once under its content key."""

    def __init__(self, run_dir: Path, max_side: int = 1024) -> None:
        self.folder = Path(run_dir) / files.MEDIA
        self.max_side = max_side  # pixels; larger images are scaled down: the store is for looking, not for training

    def put(self, key: str, image: Image) -> str:
        """Store `image` under `key` unless it is there already, and return the file name for `SampleRow.media`."""
        stem = key if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) else hashlib.sha256(key.encode()).hexdigest()[:32]
        for suffix in (".png", ".jpg"):
            if (self.folder / (stem + suffix)).is_file():
                return stem + suffix
        data, suffix = encode_image(image, self.max_side)
        replace_file(self.folder / (stem + suffix), data)
        return stem + suffix


def encode_image(image: Image, max_side: int) -> tuple[bytes, str]:
    """The image as file content and its suffix: PNG up to 256 pixels or with transparency, else JPEG."""
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side))
    transparent = "A" in image.getbands() or "transparency" in image.info
    buffer = io.BytesIO()
    if transparent or max(image.size) <= 256:
        image.convert("RGBA" if transparent else "RGB").save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), ".png"
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), ".jpg"
