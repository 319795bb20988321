"""`mmcredit prm-evaluate`: a verifier on annotated responses."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmcredit import components
from mmcredit.data.media import MediaLimits
from mmcredit.policy.offsets import TokenOffsets
from mmcredit.verifiers.base import RunContext
from prm.components import verifier_of
from prm.datasets import load
from prm.evaluate import exchanged, judge, measures
from prm.parse import Verification
from prm.spans import words
from prm.ticker import Ticker
from prm.verifier import ScriptedVerifier

console = Console(markup=False)


def run(options: Namespace) -> int:
    """Load, ask, measure, write."""
    for path in options.plugin:
        components.load_plugin(path)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    component = verifier_of(options.prm)
    tokenise = words
    tokenizer: Any = None
    if options.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        offsets = TokenOffsets(tokenizer)

        def tokenise(text: str) -> Any:
            return offsets.sampled(tokenizer(text, add_special_tokens=False)["input_ids"])

    loaded = load(yaml.safe_load(options.data))
    for reason, count in loaded.dropped.items():
        console.print(f"left out: {count} x {reason}, first at {loaded.first[reason]}", highlight=False, soft_wrap=True)
    samples = loaded.samples[: options.limit] if options.limit else loaded.samples
    if not samples:
        raise ValueError(f"{options.data}: no sample is left; dropped: {dict(loaded.dropped)}")
    root = options.images_root
    context = RunContext(tokenizer, folder, 0, MediaLimits() if root is None else MediaLimits(root=root))
    backend = component.backend(context)
    try:
        ticker = Ticker(console, "verified", len(samples) * (2 if options.exchange else 1))
        found = judge(samples, backend, progress=ticker)
        results = {component.name: measures(found, tokenise)}
        nothing = ScriptedVerifier(lambda query: Verification())
        results["flags nothing"] = measures(judge(samples, nothing), tokenise)
        if options.exchange:
            results["exchanged pictures"] = measures(judge(exchanged(samples), backend, progress=ticker), tokenise)
    finally:
        backend.close()
    about = {"verifier": component.spec(), "data": options.data, "dropped": dict(loaded.dropped)}
    (folder / "prm-evaluate.json").write_text(json.dumps({"about": about, "results": results}, indent=1))
    with (folder / "verifications.jsonl").open("w", encoding="utf-8") as file:
        for each in found:
            row = {
                "id": each.sample.id,
                "response": each.sample.response,
                "gold": each.gold,
                "predicted": each.predicted,
                "status": each.said.status,
                "strings": each.said.strings,
                "think": each.said.think,
                "error": each.said.error,
            }
            file.write(json.dumps(row) + "\n")
    console.print(table(results))
    broken = [each for each in found if each.said.status == "prm_error"]
    if broken:
        said = f"{len(broken)} of {len(found)} responses have no verification, first {broken[0].sample.id}: "
        said += broken[0].said.error[:300]
        if len(broken) == len(found):
            raise ValueError(said)
        console.print(f"[yellow]{escape(said)}[/yellow]", highlight=False, soft_wrap=True)
    console.print(f"results: {folder}", highlight=False, soft_wrap=True)
    return 0


def table(results: dict[str, dict[str, Any]]) -> Table:
    found = Table("measure", *results)
    rows = [
        ("samples", ("samples",)),
        ("parse errors", ("parse_error_rate",)),
        ("verifier errors", ("prm_error_rate",)),
        ("token macro-IoU", ("spans", "macro_iou")),
        ("span precision", ("spans", "precision")),
        ("span recall", ("spans", "recall")),
        ("span F1", ("spans", "f1")),
        ("response accuracy", ("response", "accuracy")),
        ("response AUROC", ("response", "auroc")),
        ("majority", ("response", "majority")),
    ]
    for name, path in rows:
        cells = []
        for result in results.values():
            value: Any = result
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            cells.append("-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}")
        found.add_row(name, *cells)
    return found
