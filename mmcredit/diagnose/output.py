"""What a diagnosis prints and writes: terminal tables, JSON, parquet."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow
    from rich.console import Console

    from mmcredit.data.dropped import Dropped
    from mmcredit.data.sample import Sample
    from mmcredit.diagnose.cross_sampling import CurvePoint
    from mmcredit.policy.tokenisation import DriftSummary


def print_divergence(result: dict[str, Any], console: Console) -> None:
    """Tables of `sparsity.summarise` and what goes with it."""
    table = Table("divergence, base to trained", "")
    table.add_row("tokens, responses", f"{result['tokens']}, {result['responses']}")
    table.add_row("mean JS (truncated, full)", f"{result['mean']['js']:.4f}, {result['mean']['js_full']:.4f}")
    kl = f"{result['mean']['kl_base_trained']:.4f}, {result['mean']['kl_trained_base']:.4f}"
    table.add_row("mean KL(base||trained), KL(trained||base)", kl)
    table.add_row("mean total variation", f"{result['mean']['tv']:.4f}")
    for threshold, share in result["above"].items():
        bounds = f"[{100 * share['low']:.2f}, {100 * share['high']:.2f}]"
        table.add_row(f"tokens with JS > {threshold}", f"{share['value']:.2%} {bounds}")
    for mass, share in result["sparsity"].items():
        table.add_row(f"tokens holding {float(mass):.0%} of all JS", f"{share:.2%}")
    correlation = result["rank_correlation"]
    ranks = f"{correlation['entropy_base']:.2f}, {correlation['entropy_trained']:.2f}"
    table.add_row("rank correlation with entropy (base, trained)", ranks)
    moved = result["reranking"]
    table.add_row(f"places with JS > {moved['threshold']:g}", str(moved["places"]))
    if moved["places"]:
        overlap = ", ".join(f"{k}: {v:.2f}" for k, v in moved["overlap"].items())
        table.add_row("  overlap of the k most likely tokens", overlap)
        ranked = ", ".join(f"{k}: {v:.0%}" for k, v in moved["top1_in_base_top"].items())
        table.add_row("  trained favourite among the base's first k", ranked)
        table.add_row("  trained favourite below 1 % in the base", f"{moved['top1_below_0.01']:.1%}")
    console.print(table)
    places = Table("response position (0 to 1)", "mean JS", "tokens")
    for row in result["by_position"]:
        places.add_row(f"{row['key']:.2f}", f"{row['mean']:.4f}", str(row["tokens"]))
    console.print(places)
    words = Table("token", "share of all JS", "mean JS", "places")
    for row in result["top_tokens"][:10]:
        words.add_row(_shown(row["token"]), f"{row['share']:.1%}", f"{row['mean']:.4f}", str(row["places"]))
    console.print(words)
    if result["checkpoints"]:
        steps = Table("checkpoint", "JS > 0.1", "median", "95th", "99th", "Jaccard with the trained one's places")
        for row in result["checkpoints"]:
            at = row["percentiles"]
            steps.add_row(
                _shown(row["path"]), f"{row['above']:.2%}", f"{at['50']:.4f}", f"{at['95']:.4f}", f"{at['99']:.4f}",
                f"{row['jaccard']:.2f}",
            )  # fmt: skip
        console.print(steps)


def curve_row(direction: str, point: CurvePoint) -> dict[str, Any]:
    """A point of the budget curve as plain numbers; an unlimited budget is ``all``."""
    found, gain = point.evaluation.accuracy, point.gain
    return {
        "direction": direction,
        "budget": budget_name(point.budget),
        "switch": point.switch,
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "switches": point.switches,
        "effective": point.effective,
        "effective_share": point.effective_share,
        "length": point.evaluation.mean_length,
        "truncated": point.evaluation.truncated,
    }


def response_rows(
    direction: str, point: CurvePoint, samples: Sequence[Sample], per_question: int
) -> list[dict[str, Any]]:
    """One row per cross-sampled response."""
    right = [hit for a in point.evaluation.attempts for hit in ([None] * per_question if a is None else list(a.right))]
    return [
        {
            "direction": direction,
            "budget": budget_name(point.budget),
            "switch": point.switch,
            "sample_id": samples[i // per_question].id,
            "member": i % per_question,
            "response": text,
            "right": hit,
            "tokens": crossed.response.tokens,
            "switches": crossed.switches,
            "effective": list(crossed.effective),
            "compared": crossed.compared,
        }
        for i, (text, hit, crossed) in enumerate(zip(point.evaluation.responses, right, point.crossed, strict=True))
    ]


def print_curve(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The budget curve, a table per direction."""
    writers = {"forward": "base writes, trained intervenes", "backward": "trained writes, base intervenes"}
    for direction, title in writers.items():
        mine = [row for row in rows if row["direction"] == direction]
        if not mine:
            continue
        table = Table("budget", "where", "accuracy, %", "gain (paired)", "effective", title=f"{direction}: {title}")
        for row in mine:
            table.add_row(
                row["budget"],
                "JS" if row["switch"] == "divergence" else row["switch"],
                f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
                f"{100 * row['gain']:+.1f} [{100 * row['gain_low']:+.1f}, {100 * row['gain_high']:+.1f}]",
                f"{row['effective']:.2f} ({row['effective_share']:.1%})",
            )
        console.print(table)
    console.print("effective: tokens per response (share of tokens) that differ from the primary's own draw")


def print_drift(found: DriftSummary, rate: object, meanings: dict[str, str], boundary: bool, console: Console) -> None:
    """Rates, and the mismatching regions by class. `boundary`: whether prompts were looked at."""
    table = Table("tokenisation", "value", "meaning")
    table.add_row("responses", str(found.responses), "sampled stretches of text")
    table.add_row("drift", str(rate), "ids differ from those of their own text")
    table.add_row("matched", f"{found.matched:.2%}", "sampled tokens found again at their bytes")
    table.add_row("length gap", f"{found.length_gap:+.2f}", "sampled minus new tokens per response")
    table.add_row("common prefix", f"{found.prefix:.1f}", "tokens before the first difference, drifting responses")
    table.add_row("boundary", f"{found.boundary:.2%}" if boundary else "not known", "merge with the prompt's end")
    for name, meaning in meanings.items():
        if found.classes.get(name):
            table.add_row(f"  {name}", str(found.classes[name]), meaning)
    console.print(table)


def print_dropped(dropped: Dropped | None, console: Console) -> None:
    """What was left out, if anything was."""
    if dropped:
        console.print(str(dropped), highlight=False, markup=False)


def budget_name(budget: float) -> str:
    """`all` for an unlimited budget."""
    return "all" if math.isinf(budget) else str(int(budget))


def write_parquet(rows: list[dict[str, Any]], path: Path, schema: pyarrow.Schema | None = None) -> Path:
    """Rows as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    return path


def drift_schema() -> pyarrow.Schema:
    """Of the table of responses with their mismatching regions (there may be none to tell the types from)."""
    import pyarrow as pa

    region = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("class", pa.string()), ("text", pa.string())])
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("drifted", pa.bool_()),
            *((name, pa.int64()) for name in ("tokens", "again", "prefix", "matched")),
            ("text", pa.string()),
            ("regions", pa.list_(region)),
        ]
    )


def write_json(result: dict[str, Any], path: Path) -> Path:
    """Plain numbers as JSON; NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(result), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(text: str) -> str:
    """Text for a table cell: no console markup, line breaks visible."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("\n", "\\\\n")
