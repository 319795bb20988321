"""`refine.html`: accuracy against generated tokens, and single traces beside their pictures."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, get_args

from markupsafe import Markup

from mmcredit.data.dropped import UnusableSample
from mmcredit.data.media import MediaLimits, load_image
from mmcredit.data.sample import Sample, last_text
from mmcredit.report.files import replace_file
from mmcredit.report.page import fill_text
from prm.refine import Stop
from prm.rows import TRACES, read_rows
from prm.strategies import STRATEGIES

WIDTH, HEIGHT, MARGIN = 760, 380, 56
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "12 3", "2 6")  # lines are told apart without colours, too
STOPS: dict[str, str] = {
    "clean": "the verifier flags nothing any more",
    "budget": "k is used up, something is still flagged",
    "unlocatable": "what is flagged does not stand in the response, or may not be cut",
    "length": "the response is as long as it may be",
    "prm_error": "the verifier could not be asked, or its answer could not be read",
}
ENDS = {"samples": "k responses were sampled", "vote": "all chains have ended; they are counted"}  # not of one chain
assert set(STOPS) == set(get_args(Stop))


def write_page(
    folder: Path,
    about: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    samples: Sequence[Sample],
    limits: MediaLimits,
    most: int,
) -> Path:
    """Write the page of a results folder. At most `most` traces, those with cuts first, then as the questions come."""
    rows = _trace_rows(folder, {s.id: s for s in samples})
    traces = [_trace(row, sample, limits) for row, sample in rows[:most]]
    sentence, detail = verdict(summary)
    used = {row["strategy"] for row in summary}
    verifier = about.get("verifier")
    facts = {
        "questions": about["questions"],
        "left out": ", ".join(f"{why}: {n}" for why, n in about["skipped"].items()) or "none",
        "seeds": ", ".join(map(str, about["seeds"])),
        "verifier": next(iter(verifier)) if verifier else "none",
        "k": ", ".join(map(str, about["k"])),
    }
    context = {
        "title": about["policy"],
        "sentence": sentence,
        "detail": detail,
        "facts": facts,
        "about": about,
        "summary": summary,
        "plot": Markup(plot(summary)),
        "legend": Markup(legend(summary)),
        "meanings": {**{n: text.replace("`", "") for n, text in STRATEGIES.items() if n in used}, **STOPS, **ENDS},
        "traces": traces,
        "all_traces": len(rows),
        "stops": sorted({t["stop"] for t in traces}),
        "modes": sorted({t["mode"] for t in traces}),
    }
    own = Path(__file__).parent
    script = (own / "refine.js").read_text(encoding="utf-8")
    html = (own / "refine.html").read_text(encoding="utf-8")
    path = folder / "refine.html"
    replace_file(path, fill_text(html, ("common.js", "sort.js"), {}, context, more=script))
    return path


def verdict(summary: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What came out, in a sentence, and its numbers: the best strategy with a verifier against the best without."""
    with_, without = (
        [r for r in summary if (r["prm_calls"] > 0) is asked and r["strategy"] != "greedy"] for asked in (True, False)
    )
    greedy = next((r for r in summary if r["strategy"] == "greedy"), None)

    def words(row: Mapping[str, Any]) -> str:
        k = f", k = {row['k']}" if row["strategy"] != "greedy" else ""
        return (
            f"{row['strategy']}{k}: {100 * row['accuracy']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}] at "
            f"{row['generated_tokens']:.0f} tokens a question"
        )

    best = [max(rows, key=lambda r: r["accuracy"]) for rows in (with_, without) if rows]
    shown = [words(row) for row in [*([greedy] if greedy else []), *best]]
    if not shown:
        return "No question was answered.", ""
    if not with_ or greedy is None:
        return "The strategies side by side.", "; ".join(shown)
    gain = 100 * (best[0]["accuracy"] - greedy["accuracy"])
    kind = "more" if gain > 0 else "fewer"
    return (
        f"The verifier's best strategy ({best[0]['strategy']}, k = {best[0]['k']}) answers {abs(gain):.1f} points "
        f"{kind} of the questions right than one greedy response."
        if gain
        else "No strategy with the verifier answers more questions right than one greedy response."
    ), "; ".join(shown)


def _names(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["strategy"] for row in summary))


def _style(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    return f'class="line c{number % 8}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def legend(summary: Sequence[Mapping[str, Any]]) -> str:
    """A list: the line of each strategy, and its name."""
    items = "".join(
        f'<li><svg viewBox="0 0 36 12" aria-hidden="true"><path d="M0 6H36" {_style(n)}/></svg>{escape(name)}</li>'
        for n, name in enumerate(_names(summary))
    )
    return f'<ul class="legend" aria-label="Lines of the chart">{items}</ul>'


def plot(summary: Sequence[Mapping[str, Any]]) -> str:
    """An SVG: mean generated tokens per question, the verifier's included, against accuracy with 95 % bars."""
    if not summary:
        return ""
    xs = [max(1.0, row["generated_tokens"]) for row in summary]
    low, high = min(row["low"] for row in summary), max(row["high"] for row in summary)
    left, right = min(xs) * 0.9, max(xs) * 1.1

    def x(value: float) -> float:
        span = math.log(right / left) or 1.0
        return MARGIN + (WIDTH - 1.4 * MARGIN) * math.log(max(value, left) / left) / span

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 1.6 * MARGIN) * (value - low) / ((high - low) or 1.0)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Accuracy against generated tokens, one line per '
        'strategy; the table below has the numbers">'
    ]
    for i in range(5):
        value = low + (high - low) * i / 4
        tokens = left * (right / left) ** (i / 4)
        parts.append(
            f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - 0.4 * MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{MARGIN - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.1f}</text>')
        parts.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{tokens:.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">generated tokens per question</text>')
    parts.append('<text x="8" y="14">accuracy, %</text>')
    for n, name in enumerate(_names(summary)):
        rows = sorted((r for r in summary if r["strategy"] == name), key=lambda r: r["generated_tokens"])
        points = "L".join(f"{x(r['generated_tokens']):.1f} {y(r['accuracy']):.1f}" for r in rows)
        parts.append(f'<path d="M{points}" {_style(n)}/>')
        for r in rows:
            cx, cy = x(r["generated_tokens"]), y(r["accuracy"])
            title = f"{name}, k={r['k']}: {100 * r['accuracy']:.1f} %, {r['generated_tokens']:.1f} tokens"
            parts.append(
                f'<path class="line whisker c{n % 8}" d="M{cx:.1f} {y(r["low"]):.1f}V{y(r["high"]):.1f}"/>'
                f'<circle class="line dot c{n % 8}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5"><title>{escape(title)}</title>'
                "</circle>"
            )
    return "".join([*parts, "</svg>"])


def _trace_rows(folder: Path, samples: Mapping[str, Sample]) -> list[tuple[dict[str, Any], Sample]]:
    rows = [row for row in read_rows(folder / TRACES) if row["id"] in samples]
    rows.sort(key=lambda row: not _was_cut(row))
    return [(row, samples[row["id"]]) for row in rows]


def _was_cut(row: Mapping[str, Any]) -> bool:
    return any(cycle["cut"] is not None for cycle in row["cycles"])


def _trace(row: Mapping[str, Any], sample: Sample, limits: MediaLimits) -> dict[str, Any]:
    return {
        "id": row["id"],
        "seed": row["seed"],
        "mode": row["mode"],
        "stop": row["stop"],
        "cut": _was_cut(row),
        "question": last_text(sample),
        "reference": sample.answer if isinstance(sample.answer, str) else json.dumps(sample.answer),
        "images": [Markup(image) for media in sample.media if (image := _image(media, limits))],
        "steps": [{**each, "pieces": _pieces(each["text"], each["cut"], each["claim"])} for each in row["cycles"]],
        "last": row["texts"][-1],
    }


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
