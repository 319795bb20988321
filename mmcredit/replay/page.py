"""`replay.html`: the numbers of a replay, and responses with their tokens coloured by each method's credit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.data.media import content_key, load_image
from mmcredit.replay.files import records
from mmcredit.report.files import replace_file
from mmcredit.report.gallery import PAGE_SIDE, pack_response
from mmcredit.report.page import PAGE_BUDGET, fill
from mmcredit.report.samples import encode_image
from mmcredit.report.summary import right_part

if TYPE_CHECKING:
    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Sample
    from mmcredit.replay.compare import Replay

SCRIPTS = ("common.js", "tokens.js", "response.js", "replay.js")

MEANING = (
    ("non-zero", "share of the sampled tokens that have credit"),
    ("sign flips", "share of the sampled tokens whose credit has the opposite sign of GRPO's (both non-zero)"),
    ("silenced, added", "share without credit where GRPO gives some; with credit where GRPO gives none"),
    (
        "cosine",
        "of the credit vectors over all sampled tokens: 1 = equal up to a scale, 0 = unrelated; zero credit counts",
    ),
    ("rank", "Spearman's rank correlation over the same tokens, ties sharing their mean rank"),
    (
        "gradient cosine, norm",
        "gradient of the loss (without regularizers) in the trained parameters of the model, all responses as one "
        "mini-batch: its angle to GRPO's, and its length divided by GRPO's",
    ),
    (
        "extra passes",
        "what the method alone would add to an on-policy GRPO run, which scores nothing before its update",
    ),
    ("credit s", "seconds the credit took for one batch, signals at hand"),
    ("passes s", "seconds of the forwards of its views here; a pass that several methods share was run once"),
    ("–", "not defined: one side is zero or constant, or the signals came with the rollouts"),
)


def write_page(found: Replay, path: Path, groups_per_batch: int = 8, budget: int = PAGE_BUDGET) -> Path:
    """Write the page. Groups with GRPO credit come first, at most `groups_per_batch` of each batch, up to `budget`
    bytes of samples and images in all; what is left out is said on the page."""
    groups, media, notes = _gallery(found, groups_per_batch, budget)
    part = right_part(found.batches[0].frozen.config)
    data = {"methods": found.labels, "groups": groups, "media": media, "samples": [], "right_part": part}
    context = {
        "source": str(found.source.name or found.source),
        "rows": found.rows,
        "refused": found.refused,
        "matrices": [
            ("Cosine of the credit", found.cosines),
            ("Rank correlation of the credit (Spearman)", found.ranks),
        ],
        "labels": found.labels,
        "batches": found.batches,
        "tokens": found.tokens,
        "responses": sum(len(b.frozen.rollouts) for b in found.batches),
        "notes": [*found.notes, *notes],
        "meaning": MEANING,
        "groups": groups,
    }
    replace_file(path, fill("replay.html", SCRIPTS, data, context))
    return path


def _gallery(found: Replay, groups_per_batch: int, budget: int) -> tuple[list[dict[str, Any]], list[Any], list[str]]:
    by_group: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in records(found):
        by_group.setdefault((record["step"], record["group"]), []).append(record)
    samples = {b.frozen.step: b.frozen.rollouts.samples for b in found.batches}
    reference = found.labels[0]
    order = sorted(by_group, key=lambda key: (key[0], not any(any(r["credit"][reference]) for r in by_group[key])))
    pictures = _Pictures(found.model.setting.media)
    groups: list[dict[str, Any]] = []
    used = left_out = 0
    per_batch: dict[int, int] = {}
    for key in order:
        step, number = key
        rows = by_group[key]
        sample_of = samples[step]
        assert sample_of is not None
        sample = sample_of[number]
        item = {
            "id": sample.id,
            "step": step,
            "question": rows[0]["question"],
            "answer": sample.answer,
            "members": [_pack(record, reference) for record in rows],
        }
        size = len(json.dumps(item, separators=(",", ":"))) + pictures.cost(sample)
        if per_batch.get(step, 0) >= groups_per_batch or used + size > budget:
            left_out += 1
            continue
        per_batch[step] = per_batch.get(step, 0) + 1
        used += size
        groups.append(item | {"media": pictures.add(sample)})
    notes = [f"{left_out} of {len(order)} groups are not on this page; replay.parquet has all."] if left_out else []
    return groups, pictures.uris, notes + pictures.problems


def _pack(record: dict[str, Any], reference: str) -> dict[str, Any]:
    """A response as the scripts read it: the reference's credit as its advantage, the others by label."""
    others = [{"name": k, "values": v} for k, v in record["credit"].items() if k != reference]
    parts = [{"name": k, "value": v} for k, v in record["parts"].items()]
    return pack_response({**record, "advantages": record["credit"][reference], "signals": others, "parts": parts})


class _Pictures:
    """Images of the page, each embedded once; videos are named only."""

    def __init__(self, limits: MediaLimits) -> None:
        self.limits = limits
        self.uris: list[str | None] = []
        self.problems: list[str] = []
        self._made: dict[str, str | None] = {}
        self._places: dict[str, int] = {}

    def cost(self, sample: Sample) -> int:
        """Bytes that showing this sample would add."""
        keys = {content_key(m): m for m in sample.media if m.kind == "image"}
        return sum(len(self._uri(k, m) or "") for k, m in keys.items() if k not in self._places)

    def add(self, sample: Sample) -> list[int]:
        """Places of the sample's images in `uris`."""
        places = []
        for item in sample.media:
            if item.kind != "image":
                continue
            key = content_key(item)
            if key not in self._places:
                self._places[key] = len(self.uris)
                self.uris.append(self._uri(key, item))
            places.append(self._places[key])
        return places

    def _uri(self, key: str, item: Any) -> str | None:
        if key not in self._made:
            try:
                data, suffix = encode_image(load_image(item, self.limits), PAGE_SIDE)
                kind = "png" if suffix == ".png" else "jpeg"
                self._made[key] = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
            except ValueError as error:
                self.problems.append(f"An image cannot be shown: {error}")
                self._made[key] = None
        return self._made[key]
