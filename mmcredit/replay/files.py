"""What a replay leaves behind: `replay.parquet`, `replay.json`, and the table in the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mmcredit.data.sample import last_text
from mmcredit.report.files import write_json
from mmcredit.report.pieces import token_pieces

if TYPE_CHECKING:
    from mmcredit.replay.compare import Replay, Row

TABLE, NUMBERS, PAGE = "replay.parquet", "replay.json", "replay.html"
ONE_TABLE = 150


def records(found: Replay) -> Iterator[dict[str, Any]]:
    """One record per response: who it is, its tokens, and a list per method with the credit of each token.

    Lists have one entry per real token of the response (`Rollouts.valid`), in order; `mask` says which the policy
    sampled.
    """
    tokenizer = found.model.policy.tokenizer
    for batch in found.batches:
        rollouts = batch.frozen.rollouts
        assert rollouts.samples is not None
        seen: dict[int, int] = {}
        for row, group in enumerate(rollouts.group.tolist()):
            sample, keep = rollouts.samples[group], rollouts.valid[row]
            member = seen[group] = seen.get(group, -1) + 1
            ids = rollouts.tokens[row][keep].tolist()
            yield {
                "step": batch.frozen.step,
                "group": group,
                "sample_id": sample.id,
                "member": member,
                "question": last_text(sample),
                "answer": sample.answer,
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "pieces": token_pieces(tokenizer, ids),
                "token_ids": ids,
                "mask": rollouts.mask[row][keep].tolist(),
                "reward": float(rollouts.rewards[row]),
                "parts": {name: float(value[row]) for name, value in rollouts.reward_parts.items()},
                "truncated": bool(rollouts.truncated[row]),
                "credit": {label: batch.credit[label][row][keep].float().tolist() for label in found.labels},
            }


def write_parquet(found: Replay, path: Path) -> Path:
    """One row per response. Columns `credit:LABEL` hold lists, one number per token of `token_ids`; pandas reads them
    as arrays. Written aside and renamed. Raises OSError if the disk is full."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.list_(pa.float32())
    schema = pa.schema(
        [
            ("step", pa.int64()),
            ("group", pa.int64()),
            ("sample_id", pa.string()),
            ("member", pa.int32()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("response", pa.string()),
            ("pieces", pa.list_(pa.string())),
            ("token_ids", pa.list_(pa.int64())),
            ("mask", pa.list_(pa.bool_())),
            ("reward", pa.float32()),
            ("truncated", pa.bool_()),
            *[(f"credit:{label}", numbers) for label in found.labels],
        ]
    )
    rows = []
    for record in records(found):
        credit = {f"credit:{label}": values for label, values in record["credit"].items()}
        rows.append({key: _storable(value) for key, value in record.items() if key in schema.names} | credit)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside, compression="zstd")
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return path


def _storable(value: Any) -> Any:
    """Text that UTF-8 can hold: a lone surrogate (from a lossy decode) becomes its escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return [_storable(v) for v in value] if isinstance(value, list) else value


def write_numbers(found: Replay, path: Path) -> Path:
    """Everything but the tokens, as JSON."""
    rows = [asdict(row) for row in found.rows]
    batches = [
        {
            "step": b.frozen.step,
            "path": b.frozen.path.name,
            "responses": len(b.frozen.rollouts),
            "tokens": int(b.frozen.rollouts.mask.sum()),
            "weights": b.weights,
            "kl_sampler_model": b.kl,
            "passes": list(b.passes),
            "pass_seconds": b.seconds,
            "gradients": {label: asdict(d) for label, d in b.directions.items() if label in found.labels},
        }
        for b in found.batches
    ]
    value = {
        "methods": rows,
        "not_replayable": found.refused,
        "agreement": {"order": found.labels, "cosine": found.cosines, "rank_correlation": found.ranks},
        "batches": batches,
        "notes": found.notes,
    }
    write_json(path, value)
    return path


def terminal_tables(found: Replay, width: int) -> list[Table]:
    """The numbers of each method: one table, or two where the terminal has fewer than `ONE_TABLE` columns."""
    where = ("non-zero", "flips", "silenced", "added", "cosine", "rank")
    effect = ("gradient cosine", "gradient norm", "extra passes", "credit s", "passes s")
    parts = [(*where, *effect)] if width >= ONE_TABLE else [where, effect]
    title = f"{len(found.batches)} frozen batches, {found.tokens} sampled tokens; compared with {found.labels[0]}"
    tables: list[Table] = []
    for columns in parts:
        table = Table(title=None if tables else title, title_justify="left")
        table.add_column("method", overflow="fold")
        for name in columns:
            table.add_column(name, justify="left" if name == "extra passes" else "right", overflow="fold")
        for row in found.rows:
            cells = _cells(row)
            table.add_row(row.label, *(cells[name] for name in columns))
        tables.append(table)
    return tables


def _cells(row: Row) -> dict[str, str]:
    s = row.shares
    return {
        "non-zero": f"{100 * s.nonzero:.1f} %",
        "flips": f"{100 * s.flips:.1f} %",
        "silenced": f"{100 * s.silenced:.1f} %",
        "added": f"{100 * s.added:.1f} %",
        "cosine": _number(row.cosine),
        "rank": _number(row.rank),
        "gradient cosine": _number(row.gradient_cosine),
        "gradient norm": _number(row.gradient_norm),
        "extra passes": ", ".join(row.passes) or "none",
        "credit s": f"{row.credit_seconds:.4f}",
        "passes s": "–" if row.pass_seconds is None else f"{row.pass_seconds:.2f}",
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
