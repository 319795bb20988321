"""Sampled ids of a finished run, from its sample tables."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from mmcredit.report.samples import SampleWriter

if TYPE_CHECKING:
    from pathlib import Path


def stretches(run_dir: Path) -> tuple[list[str], list[list[int]]]:
    """Sample ids and sampled ids, one entry per stretch between insertions (mostly the whole response).

    Raises ValueError if the run has no sample tables.
    """
    import pyarrow.parquet as pq

    names: list[str] = []
    ids: list[list[int]] = []
    for path in SampleWriter.find(run_dir).values():
        table = pq.read_table(path, columns=["sample_id", "token_ids", "mask"]).to_pydict()
        for name, tokens, mask in zip(table["sample_id"], table["token_ids"], table["mask"], strict=True):
            for sampled, part in groupby(zip(mask, tokens, strict=True), key=lambda pair: pair[0]):
                if sampled:
                    names.append(name)
                    ids.append([token for _, token in part])
    if not ids:
        raise ValueError(f"{run_dir} holds no sampled responses (samples/step-*.parquet); see log.samples_every")
    return names, ids
