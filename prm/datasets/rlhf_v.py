"""RLHF-V (arXiv 2312.00849): responses and their human corrections; the differences are the hallucinations."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from mmcredit.data.sample import Media
from prm.datasets.base import LabelledSpan, Loaded, SpanSample

_TOKEN = re.compile(r"\w+|[^\w\s]")


def load_rlhf_v(path: str, shortest_match: int = 3, chosen: bool = True) -> Loaded:
    """Parquet files (one, or all of a folder): `text` holds question, chosen and rejected as JSON, `image` the bytes.

    Spans of a rejected response are the words that its correction does not share; matching runs shorter than
    `shortest_match` words count as changed too. With `chosen` the corrections come along as clean responses.
    """
    import pyarrow.parquet

    files = sorted(Path(path).glob("**/*.parquet")) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise ValueError(f"{path} holds no parquet file")
    loaded = Loaded()
    for file in files:
        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as parquet: {error}") from None
        for number, row in enumerate(rows):
            place = f"{file}, row {number}"
            try:
                text = json.loads(row["text"]) if isinstance(row.get("text"), str) else row["text"]
                question, good, bad = (str(text[name]) for name in ("question", "chosen", "rejected"))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{place}: 'text' must be JSON with question, chosen and rejected ({error})") from None
            data = (row.get("image") or {}).get("bytes")
            image = Media("image", data=data, name=str(row.get("image_path", ""))) if data else None
            spans = changed_spans(good, bad, shortest_match)
            name = f"rlhf_v/{row.get('idx', number)}"
            if spans:
                loaded.samples.append(SpanSample(f"{name}/rejected", image, question, bad, spans, True, "rlhf_v"))
            else:
                loaded.drop("rejected equals chosen", place)
                continue
            if chosen:
                loaded.samples.append(SpanSample(f"{name}/chosen", image, question, good, (), False, "rlhf_v"))
    return loaded


def changed_spans(good: str, bad: str, shortest_match: int) -> tuple[LabelledSpan, ...]:
    """What of `bad` has no counterpart in `good`, in runs of words."""
    places = [match.span() for match in _TOKEN.finditer(bad)]
    ours, theirs = [bad[a:b] for a, b in places], _TOKEN.findall(good)
    same = [False] * len(ours)
    for block in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        # A whole response that is shorter than a run is compared as it is.
        if block.size >= min(shortest_match, len(ours), len(theirs)):
            same[block.a : block.a + block.size] = [True] * block.size
    return tuple(LabelledSpan(a, b, bad[a:b]) for a, b in _runs(places, same))


def _runs(places: Sequence[tuple[int, int]], same: Sequence[bool]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    before = True
    for (start, end), is_same in zip(places, same, strict=True):
        if not is_same:
            if before:
                runs.append((start, end))
            else:
                runs[-1] = (runs[-1][0], end)
        before = is_same
    return runs
