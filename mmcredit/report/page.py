"""`report.html`: one page about one run that opens anywhere, without a network and without a server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mmcredit.report import files, summary
from mmcredit.report.files import read_json, replace_file
from mmcredit.report.gallery import build_gallery, short
from mmcredit.report.glossary import GLOSSARY, meaning_of
from mmcredit.report.records import Run, load_run

PAGE_BUDGET = 8_000_000  # bytes of samples and images
MAX_POINTS = 1500  # points of one curve; longer series are thinned
SCRIPTS = (
    "common.js",
    "curves.js",
    "tokens.js",
    "heat.js",
    "response.js",
    "timeline.js",
    "list.js",
    "samples.js",
    "start.js",
)


def render(run_dir: str | Path, budget: int = PAGE_BUDGET) -> Path:
    """Write `report.html` into the run directory and return its path. Works while the run is going.

    `budget`: bytes of samples and images on the page. Raises ValueError for a directory that is no run, or a config
    that cannot be parsed; damaged lines, tables and images are counted on the page instead.
    """
    run = load_run(run_dir)
    path = run.path / files.REPORT
    replace_file(path, page(run, budget))
    return path


def page(run: Run, budget: int = PAGE_BUDGET, watch: dict[str, Any] | None = None) -> str:
    """The HTML text of the report. `watch`: {"state", "seconds"} of a page that is served and asks for changes."""
    gallery = build_gallery(run.path, run.sample_files, budget)
    heat = _heat(run)
    data = {
        "curves": curves(run),
        "evaluations": evaluation_curves(run),
        "samples": gallery.steps,
        "media": gallery.media,
        "right_part": summary.right_part(run.config),
        "heat": heat,
        **({} if watch is None else {"watch": watch}),
    }
    context = {
        "name": run_name(run),
        "facts": summary.header(run),
        "verdict": summary.verdict(run),
        "unfinished": summary.unfinished(run),
        "alarms": summary.alarms(run.events),
        "accuracy": summary.before_after(run),
        "events": summary.event_table(run.events),
        "notes": [f"{file}: {count} unreadable lines left out" for file, count in run.unreadable.items()],
        "heat": heat,
        "gallery": gallery,
        "cost": summary.cost_tables(run.cost),
        "config": run.config_text,
        "versions": _flat(run.versions),
        "glossary": GLOSSARY,
        "points": MAX_POINTS,
        "thinned": len(run.metrics) > MAX_POINTS,
    }
    if watch is None:
        return fill("page.html", SCRIPTS, data, context)
    return fill("page.html", (*SCRIPTS, "watch.js"), data, context, connect=True)


def _heat(run: Run) -> dict[str, Any]:
    """What `mmcredit report --heatmaps` left: {"weights", "maps": {"step/member/sample id": map}}; {} without."""
    found = read_json(run.path / files.HEATMAPS)
    maps = found.get("maps")
    if not isinstance(maps, list):
        return {}
    kept = ("rows", "columns", "values")
    return {
        "weights": str(found.get("weights")),
        "maps": {f"{m['step']}/{m['member']}/{m['sample_id']}": {key: m[key] for key in kept} for m in maps},
    }


def run_name(run: Run) -> str:
    """What the run is called: `run.name` of its config, or its directory."""
    return str(summary.at(run.config, "run.name") or run.path.resolve().name)


def fill(
    template: str, scripts: Sequence[str], data: dict[str, Any], context: dict[str, Any], connect: bool = False
) -> str:
    """A page from its template: style, scripts and data inside, every value of the context escaped. `connect`: it may
    ask the server that it came from."""
    return fill_text(_read(template), scripts, data, context, connect=connect)


def fill_text(
    template: str,
    scripts: Sequence[str],
    data: dict[str, Any],
    context: dict[str, Any],
    *,
    more: str = "",
    connect: bool = False,
) -> str:
    """`fill` for a page of another package: the text of its `template`, and `more` script after those of this one."""
    script = "\n".join([*(_read(name) for name in scripts), *([more] if more else [])])
    inside = {"style": Markup(_read("page.css")), "script": Markup(script), "data": Markup(embed(data))}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    environment.filters |= {"duration": summary.duration, "number": format_number, "percent": format_percent}
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment.from_string(template).render(context | inside | {"policy": content_policy(script, connect)})


def _visible(value: Any) -> Any:
    """Characters that turn the direction of the text around them (and may hide what it says), by their number."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return re.sub("[\u202a-\u202e\u2066-\u2069]", lambda match: f"⟨U+{ord(match[0]):X}⟩", value)
    return value


def embed(value: Any) -> str:
    """JSON that may stand inside a <script> element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_policy(script: str, connect: bool = False) -> str:
    """The page's Content-Security-Policy: its own script by hash, embedded images, and no connection to anywhere
    (`connect`: but to its own server)."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    own = "; connect-src 'self'" if connect else ""
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    return f"default-src 'none'; script-src 'sha256-{digest}'; {rest}{own}"


def curves(run: Run) -> dict[str, Any]:
    """Steps, and a value or null per step for every metric, with what the metric means."""
    names = list(dict.fromkeys(name for row in run.metrics for name in row if name not in ("step", "time")))
    steps = [row["step"] for row in run.metrics]
    series = {name: [summary.number(row.get(name)) for row in run.metrics] for name in names}
    width = -(-len(steps) // MAX_POINTS) if steps else 1
    if width > 1:
        steps = steps[width - 1 :: width] + ([steps[-1]] if len(steps) % width else [])
        series = {name: thin(values, width, peak=name.endswith("_max")) for name, values in series.items()}
    entries = {name: entry for name in names if (entry := meaning_of(name)) is not None}
    return {
        "steps": steps,
        "series": {name: [short(v) for v in values] for name, values in series.items()},
        "meaning": {name: [entry.meaning, entry.wrong] for name, entry in entries.items()},
    }


def thin(values: Sequence[float | None], width: int, peak: bool = False) -> list[float | None]:
    """Every `width` values in one: their mean, or their maximum if peaks are what counts; null if none is finite."""
    result: list[float | None] = []
    for start in range(0, len(values), width):
        block = [v for v in values[start : start + width] if v is not None]
        result.append(None if not block else max(block) if peak else sum(block) / len(block))
    return result


def evaluation_curves(run: Run) -> list[dict[str, Any]]:
    """Accuracy over steps for each evaluated set, with its interval."""
    keys = ("step", "accuracy", "low", "high", "format", "n")
    return [
        {
            "name": item["name"],
            "mode": item["mode"],
            "points": [{key: row[key] for key in keys} for row in item["rows"]],
        }
        for item in summary.before_after(run)
    ]


def format_number(value: float | None) -> str:
    """Three digits with a thousands separator or a unit prefix; an en dash for nothing."""
    if value is None:
        return "–"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """A share as percent; an en dash for nothing."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested versions as rows of a table."""
    if not isinstance(value, dict):
        return [(prefix, str(value))]
    return [row for key, item in value.items() for row in _flat(item, f"{prefix}.{key}" if prefix else str(key))]


def _read(name: str) -> str:
    text = package_files("mmcredit.report").joinpath(name).read_text(encoding="utf-8")
    assert not (name.endswith((".js", ".css")) and re.search(r"</(script|style)|<!--", text, re.IGNORECASE)), name
    return text
