"""The facts at the top of a report: what the run was, what it reached, what went wrong, what it cost."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mmcredit.report.records import Run

EVALUATION_KEYS = ("accuracy", "low", "high", "n", "format", "gain_low", "gain_high")
Z95 = 1.959963984540054  # two-sided 95 % point of the standard normal


@dataclass(frozen=True)
class Verdict:
    """One sentence, and its colour: good, bad, open."""

    tone: str
    text: str
    detail: str


def at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of the config, or None."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def entry_name(entry: Any) -> str:
    """The name of a component entry: `name` or `{name: fields}`."""
    return str(next(iter(entry), "")) if isinstance(entry, Mapping) else str(entry)


def method_names(run: Run) -> list[str]:
    """The credit methods of the run, in order."""
    entries = at(run.config, "credit")
    return [entry_name(e) for e in entries] if isinstance(entries, list) else []


def right_part(config: Mapping[str, Any]) -> str | None:
    """The reward part that says right or wrong, by a run's config: `evaluate.reward`, or the first reward's label."""
    named = at(config, "evaluate.reward")
    if isinstance(named, str):
        return named
    rewards = at(config, "rewards")
    if not isinstance(rewards, list) or not rewards:
        return None
    name = entry_name(rewards[0])
    fields = rewards[0].get(name) if isinstance(rewards[0], Mapping) else None
    label = fields.get("label") if isinstance(fields, Mapping) else None
    return str(label) if label else name


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def header(run: Run) -> list[tuple[str, str]]:
    """Label and value of each fact about the run."""
    steps = [row["step"] for row in run.metrics]
    planned = at(run.config, "run.steps")
    done = f"{len(steps)}" + (f" of {planned}" if planned else "")
    # In the order of writing: an evaluation after `step` steps comes before the line of that step. A clock that is put
    # back takes nothing away.
    written = [(row["step"] + 0.5, row.get("time")) for row in run.metrics]
    written += [(row["step"], row.get("time")) for row in run.evaluations]
    times = [t for _, t in sorted(written, key=lambda w: w[0]) if isinstance(t, int | float) and math.isfinite(t)]
    taken = sum(max(0.0, after - before) for before, after in itertools.pairwise(times))
    facts = [
        ("model", str(at(run.config, "model.path") or "unknown")),
        ("weights", _trained(run)),
        ("credit", " + ".join(method_names(run)) or "unknown"),
        ("data", entry_name(at(run.config, "data.train") or "unknown")),
        ("steps", done),
        ("wall time", duration(taken) if len(times) > 1 else "unknown"),
    ]
    group, prompts = at(run.config, "rollout.group"), at(run.config, "rollout.prompts")
    if group and prompts:
        facts.append(("batch", f"{prompts} prompts × {group} responses"))
    device = run.versions.get("device")
    if device:
        facts.append(("device", str(device)))
    if times:
        facts.append(("last write", datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return facts


def _trained(run: Run) -> str:
    """The type of the weights, and the adapter where there is one."""
    model = at(run.config, "model")
    model = model if isinstance(model, Mapping) else {}
    lora = model.get("lora")
    parts = [str(run.versions.get("dtype") or model.get("dtype") or "float32")]
    if isinstance(lora, Mapping):
        parts.append(f"LoRA, rank {lora.get('rank', lora.get('r', '?'))}")
    else:
        parts.append("no LoRA")
    return ", ".join(parts)


def unfinished(run: Run) -> str | None:
    """A sentence if the run has not done all its steps, else None."""
    planned = at(run.config, "run.steps")
    if isinstance(planned, int) and len(run.metrics) < planned:
        return (
            f"{len(run.metrics)} of {planned} steps are written: the run is still going, or it was stopped. "
            "Render the report again to see more."
        )
    return None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def before_after(run: Run) -> list[dict[str, Any]]:
    """First and last evaluation of each (name, mode) that has a usable accuracy, with the gain and its interval.

    Without a recorded paired interval the two evaluations are treated as independent: the standard error of the gain
    is sqrt(p0(1-p0)/n0 + p1(1-p1)/n1).
    """
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in run.evaluations:
        if number(row.get("accuracy")) is not None:
            known = {key: number(row.get(key)) for key in EVALUATION_KEYS} | {"step": row["step"]}
            series.setdefault((str(row.get("name", "test")), str(row.get("mode", ""))), []).append(known)
    result = []
    for (name, mode), rows in series.items():
        first, last = rows[0], rows[-1]
        low: float | None
        high: float | None
        item: dict[str, Any] = {"name": name, "mode": mode, "first": first, "last": last, "rows": rows, "paired": False}
        if len(rows) > 1:
            gain = last["accuracy"] - first["accuracy"]
            low, high = last["gain_low"], last["gain_high"]
            item["paired"] = low is not None and high is not None
            if not item["paired"] and first["n"] and last["n"]:
                spread = sum(r["accuracy"] * (1 - r["accuracy"]) / r["n"] for r in (first, last))
                half = Z95 * math.sqrt(max(0.0, spread))
                low, high = gain - half, gain + half
            item |= {"gain": gain, "gain_low": low, "gain_high": high}
        result.append(item)
    return result


def verdict(run: Run) -> Verdict:
    """What training did, from the held-out evaluations; from the reward only where there are none, and said so."""
    reward = reward_change(run)
    pairs = [item for item in before_after(run) if "gain" in item]
    if not pairs:
        detail = reward or "No reward is written yet."
        if run.evaluations:
            return Verdict("open", "Only one held-out evaluation so far: no change can be stated.", detail)
        return Verdict("open", "No held-out evaluation is recorded, so nothing is proven.", detail)
    item = pairs[0]
    first, last = item["first"], item["last"]
    gain, low, high = (None if item[k] is None else 100 * item[k] for k in ("gain", "gain_low", "gain_high"))
    words = f"from {100 * first['accuracy']:.1f} % to {100 * last['accuracy']:.1f} %"
    if low is None or high is None:
        return Verdict("open", f"Held-out accuracy went {words}; without counts no interval can be given.", reward)
    how = "paired over the same questions" if item["paired"] else "the two evaluations taken as independent"
    detail = f"Gain {gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f} ({how}). {reward}".strip()
    on = f" on {int(last['n']):,} questions" if last["n"] else ""
    if low > 0:
        return Verdict("good", f"Held-out accuracy rose {words}{on}.", detail)
    if high < 0:
        return Verdict("bad", f"Held-out accuracy fell {words}{on}.", detail)
    return Verdict("open", f"Held-out accuracy went {words}{on}: no clear change, the interval holds 0.", detail)


def reward_change(run: Run) -> str:
    """First tenth of the steps against the last tenth, mean reward. Empty if there are fewer than two steps."""
    values = [v for row in run.metrics if (v := number(row.get("reward/mean"))) is not None]
    if len(values) < 2:
        return ""
    window = max(1, len(values) // 10)
    start, end = statistics.fmean(values[:window]), statistics.fmean(values[-window:])
    over = "step" if window == 1 else f"{window} steps"
    return f"Training reward: {start:.3f} over the first {over}, {end:.3f} over the last."


def alarms(events: Sequence[Mapping[str, Any]]) -> str | None:
    """How many errors and warnings there were, or None."""
    counts = {level: sum(event.get("level") == level for event in events) for level in ("error", "warning")}
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return f"{' and '.join(said)} during the run." if said else None


_DIGITS = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


def event_table(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events that differ only in numbers, put together: level, kind, an example, how often, first and last step."""
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event in events:
        message, data = str(event.get("message", "")), event.get("data")
        level, kind = str(event.get("level", "info")), str(event.get("kind", "note"))
        key = (level, kind, _DIGITS.sub("#", message))
        row = table.setdefault(
            key, {"level": level, "kind": kind, "times": 0, "amount": 0, "first": event["step"], "counted": False}
        )
        row["times"] += 1
        count = number(data.get("count")) if isinstance(data, Mapping) else None
        row["counted"] |= count is not None
        row["amount"] += 1 if count is None else int(count)
        row |= {"last": event["step"], "message": message, "data": data if isinstance(data, Mapping) else {}}
    order = {"error": 0, "warning": 1}
    return sorted(table.values(), key=lambda r: (order.get(r["level"], 2), r["kind"] == "checkpoint", r["first"]))


def cost_tables(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Stages, passes and methods as rows with shares. A key that is missing gives an empty table."""

    def rows(key: str, base: float | None = None) -> list[dict[str, Any]]:
        block = cost.get(key)
        items = [(str(k), v) for k, v in block.items() if isinstance(v, Mapping)] if isinstance(block, Mapping) else []
        total = base if base else sum(number(v.get("seconds")) or 0.0 for _, v in items)
        out = []
        for name, value in items:
            seconds = number(value.get("seconds"))
            tokens = number(value.get("tokens"))
            out.append(
                {
                    "name": name,
                    "share": seconds / total if seconds is not None and total > 0 else None,
                    "rate": tokens / seconds if seconds and tokens is not None else None,
                    "seconds": seconds,
                    "tokens": tokens,
                    "counters": {str(k): number(v) for k, v in value.items() if k != "seconds"},
                }
            )
        return out

    stages = rows("stages")
    total = sum(row["seconds"] or 0.0 for row in stages)
    return {
        "stages": stages,
        "passes": (passes := rows("passes", total)),
        "counters": list(dict.fromkeys(name for row in passes for name in row["counters"])),
        "methods": rows("methods", total),
        "seconds": total,
        "peak_memory_mb": number(cost.get("peak_memory_mb")),
        "steps": number(cost.get("steps")),
    }
