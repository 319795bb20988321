"""`refine.html`: accuracy against generated tokens, and single traces beside their pictures."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample, last_text
from prm.rows import TRACES, read_rows

COLORS = ("#444444", "#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#ff7f0e", "#8c564b")
WIDTH, HEIGHT, MARGIN = 860, 420, 60


def write_page(
    folder: Path,
    about: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
    limits: MediaLimits,
    most: int,
) -> Path:
    """Write the page of a results folder. Traces with cuts come first, in the order of the questions."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "refine.html").read_text(encoding="utf-8"))
    facts = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in about.items()}
    traces = _traces(folder, {s.id: s for s in samples}, limits, most)
    path = folder / "refine.html"
    path.write_text(
        template.render(facts=facts, summary=summary, plot=Markup(plot(summary)), traces=traces), encoding="utf-8"
    )
    return path


def plot(summary: Sequence[Mapping[str, Any]]) -> str:
    """An SVG: mean generated tokens per question, the verifier's included, against accuracy with 95 % bars."""
    if not summary:
        return ""
    xs = [max(1.0, row["generated_tokens"]) for row in summary]
    low, high = min(row["low"] for row in summary), max(row["high"] for row in summary)
    left, right = min(xs) * 0.9, max(xs) * 1.1

    def x(value: float) -> float:
        span = math.log(right / left) or 1.0
        return MARGIN + (WIDTH - 2 * MARGIN) * math.log(max(value, left) / left) / span

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / ((high - low) or 1.0)

    parts = [f'<svg viewBox="0 0 {WIDTH + 150} {HEIGHT}" role="img" aria-label="accuracy against generated tokens">']
    for i in range(5):
        value = low + (high - low) * i / 4
        tokens = left * (right / left) ** (i / 4)
        parts.append(
            f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{MARGIN - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.1f}</text>')
        parts.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{tokens:.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">generated tokens per question</text>')
    parts.append(f'<text x="14" y="{MARGIN - 25}">accuracy, %</text>')
    names = list(dict.fromkeys(row["strategy"] for row in summary))
    for n, name in enumerate(names):
        color = COLORS[n % len(COLORS)]
        rows = sorted((r for r in summary if r["strategy"] == name), key=lambda r: r["generated_tokens"])
        points = " ".join(f"{x(r['generated_tokens']):.1f},{y(r['accuracy']):.1f}" for r in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        for r in rows:
            cx, cy = x(r["generated_tokens"]), y(r["accuracy"])
            title = f"{name}, k={r['k']}: {100 * r['accuracy']:.1f} %, {r['generated_tokens']:.1f} tokens"
            parts.append(
                f'<line x1="{cx:.1f}" x2="{cx:.1f}" y1="{y(r["low"]):.1f}" y2="{y(r["high"]):.1f}" stroke="{color}" '
                f'opacity=".4"/><circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="{color}"><title>{escape(title)}</title>'
                "</circle>"
            )
        parts.append(f'<text x="{WIDTH - MARGIN + 15}" y="{MARGIN + 20 * n}" fill="{color}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _traces(folder: Path, samples: Mapping[str, Sample], limits: MediaLimits, most: int) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(folder / TRACES) if row["id"] in samples]
    rows.sort(key=lambda row: not any(cycle["cut"] is not None for cycle in row["cycles"]))
    found = []
    for row in rows[:most]:
        sample = samples[row["id"]]
        steps = [
            {
                **cycle,
                "pieces": _pieces(cycle["text"], cycle["cut"], cycle["claim"]),
                "next": row["texts"][i + 1] if i + 1 < len(row["texts"]) else None,
            }
            for i, cycle in enumerate(row["cycles"])
        ]
        found.append(
            {
                "id": row["id"],
                "seed": row["seed"],
                "mode": row["mode"],
                "stop": row["stop"],
                "question": last_text(sample),
                "reference": sample.answer,
                "images": [image for media in sample.media if (image := _image(media, limits))],
                "steps": steps,
                "last": row["texts"][-1],
            }
        )
    return found


def _pieces(text: str, cut: int | None, claim: str) -> list[tuple[str, str]]:
    """(kind, text): what stays, what was flagged first, what went with it."""
    if cut is None:
        return [("kept", text)]
    start = text.find(claim, cut)
    if start < 0:
        return [("kept", text[:cut]), ("gone", text[cut:])]
    end = start + len(claim)
    return [("kept", text[:cut]), ("gone", text[cut:start]), ("flagged", text[start:end]), ("gone", text[end:])]


def _image(media: Any, limits: MediaLimits) -> str | None:
    try:
        image = load_image(media, limits)
    except UnusableSample:
        return None
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
