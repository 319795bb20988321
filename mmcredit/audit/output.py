"""What an audit leaves behind: the leaderboard, `audit.json`, `audit.parquet`, `tokens.parquet`, `audit.html`."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from mmcredit.audit.measures import Number
from mmcredit.report.files import replace_file, write_json
from mmcredit.report.page import fill
from mmcredit.report.pieces import token_pieces

if TYPE_CHECKING:
    from mmcredit.audit.board import Board, Row
    from mmcredit.audit.command import Audit

PAGE, NUMBERS, TABLE, TOKENS = "audit.html", "audit.json", "audit.parquet", "tokens.parquet"


def write(found: Audit, made: Board, folder: Path) -> list[Path]:
    """All files. Raises OSError if the disk is full."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet(table: Any, path: Path) -> Path:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        replace_file(path, sink.getvalue())
        return path

    numbers = {
        "facts": made.facts,
        "rows": [asdict(r) for r in made.rows],
        "not_audited": found.refused,
        "notes": made.notes,
        "verdict": made.verdict,
    }
    write_json(folder / NUMBERS, numbers)
    flat = [{"label": r.label, "kind": r.kind, **_flat(r)} for r in made.rows]
    context = {"board": made, "refused": found.refused, "cells": [cells(r) for r in made.rows], "heads": HEADS}
    replace_file(folder / PAGE, fill("audit.html", ("common.js", "sort.js"), {"samples": []}, context))
    return [
        parquet(pa.Table.from_pylist(flat), folder / TABLE),
        parquet(pa.Table.from_pydict(_tokens(found)), folder / TOKENS),
        folder / NUMBERS,
        folder / PAGE,
    ]


def _flat(row: Row) -> dict[str, Any]:
    out: dict[str, Any] = {"noise": row.noise, "sampled": row.sampled, "seconds": row.seconds}
    out["passes"] = ", ".join(row.passes)
    named = {"gradient_cosine": row.gradient, "gradient_over_grpo": row.gradient_over_grpo, **vars(row.agreement)}
    for name, value in named.items():
        if isinstance(value, Number):
            out |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            out[name] = value
    return out


def _tokens(found: Audit) -> dict[str, Any]:
    """Columns of tokens.parquet: one row per sampled token."""
    tokenizer = found.model.policy.tokenizer
    out: dict[str, list[Any]] = {}

    def add(name: str, values: Any) -> None:
        out.setdefault(name, []).append(np.asarray(values))

    pieces: list[str] = []
    samples: list[str] = []
    for batch in found.batches:
        rollouts, truth = batch.frozen.rollouts, batch.truth
        assert rollouts.samples is not None
        ids = rollouts.tokens.numpy()[truth.row, truth.column]
        pieces += token_pieces(tokenizer, ids.tolist())
        samples += [rollouts.samples[g].id for g in rollouts.group.numpy()[truth.row].tolist()]
        add("step", np.full(len(ids), batch.frozen.step))
        add("response", truth.row)
        add("place", truth.column)
        add("token_id", ids)
        add("reward", rollouts.rewards.numpy()[truth.row])
        for name in ("value", "error", "low", "high"):
            add("truth" if name == "value" else f"truth_{name}", getattr(truth.advantages, name))
        for label in found.labels:
            add(f"credit:{label}", batch.credit[label])
    joined = {name: np.concatenate(parts) for name, parts in out.items()}
    clean = [p.encode("utf-8", "backslashreplace").decode("utf-8") for p in pieces]
    return {"sample_id": samples, "piece": clean, **joined}


HEADS = (
    (
        "gradient cosine",
        "to the gradient under the true advantages, all prompts as one on-policy batch; corrected for noise in the "
        "truth, so it may exceed 1",
    ),
    ("over GRPO", "paired difference of the gradient cosine (of the correlation, without gradients)"),
    ("correlation", "Pearson, over all tokens, with the truth"),
    ("corrected", "the same divided by the square root of the truth's reliability"),
    ("within", "Pearson with each response's mean taken out on both sides; – : equal within every response"),
    ("rank", "Spearman, over all tokens"),
    ("rank within", "of these ranks, with each response's mean taken out on both sides"),
    ("rank significant", "Spearman at tokens whose true advantage has an interval without 0"),
    ("significant", "Pearson at tokens whose true advantage has an interval without 0"),
    ("sign", "of those, where there is credit: share with the sign of the truth"),
    ("PR area", "of |credit| for finding the significant tokens; a credit without information has their share"),
    ("noise", "standard deviation of the gradient over resampled groups of the same prompts, over its mean's length"),
    ("extra passes", "score passes over an on-policy GRPO run"),
    ("sampled", "further tokens sampled per response token"),
    ("s/batch", "credit and its own passes"),
)


def cells(row: Row) -> dict[str, str]:
    """The numbers of a row as text, by the names of `HEADS`."""
    a = row.agreement

    def number(value: Number | None) -> str:
        if value is None or value.value is None:
            return "–"
        around = "" if value.low is None else f" [{value.low:.2f}, {value.high:.2f}]"
        return f"{value.value:.3f}{around}"

    def plain(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    over = row.gradient_over_grpo if row.gradient_over_grpo is not None else a.over_grpo
    return {
        "method": row.label,
        "gradient cosine": number(row.gradient),
        "over GRPO": f"{number(over)} {row.against_grpo}".strip() if row.against_grpo else "–",
        "correlation": number(a.correlation),
        "corrected": plain(a.correlation_corrected, 3),
        "within": number(a.within),
        "rank": number(a.rank),
        "rank within": number(a.rank_within),
        "rank significant": number(a.rank_significant),
        "significant": number(a.significant),
        "sign": number(a.sign),
        "PR area": f"{number(a.precision)}",
        "noise": plain(row.noise),
        "extra passes": ", ".join(row.passes) or "none",
        "sampled": plain(row.sampled, 1) if row.sampled else "0",
        "s/batch": plain(row.seconds, 3),
    }


def terminal(made: Board) -> Table:
    """A short leaderboard."""
    names = ("gradient cosine", "over GRPO", "correlation", "within", "PR area", "noise")
    facts = made.facts
    title = (
        f"{facts['prompts']} prompts, {facts['responses']} responses, {facts['tokens']} tokens; true advantages by "
        f"{facts['mode']}, mean standard error {facts['error_mean']:.3f}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("method", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for row in made.rows:
        shown = cells(row)
        table.add_row(row.label, *(shown[name] for name in names))
    return table


def verdict_sentence(made: Board) -> str:
    """Where uniform GRPO credit is as good, in one sentence."""

    def listed(kind: str) -> str:
        return ", ".join(made.verdict[kind]) or "none"

    return (
        f"Against uniform GRPO credit (95 % intervals, same prompts) — nearer to the truth: {listed('better')}; "
        f"GRPO is as good as: {listed('as good')}; GRPO is nearer than: {listed('worse')}."
    )
