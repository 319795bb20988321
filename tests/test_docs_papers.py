"""docs/papers.md: a row for every paper, and every name in it is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import prm.components  # noqa: F401 (as the entry point does, where the install is older than it)
import video.components  # noqa: F401
from mmcredit import components, config
from mmcredit.cli import parser

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/papers.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| paper ")
]
KINDS = {
    "credit": "credit", "strategy": "strategy", "strategies": "strategy", "signal": "signal", "signals": "signal",
    "regularizer": "regularizer", "ratio": "ratio", "aggregate": "aggregate", "clip": "clip", "loss": "preference",
    "decoding": "decoding", "selection": "selection", "source": "source", "reward": "reward",
}  # fmt: skip
FILES = {"cost.json"}


def commands() -> set[str]:
    """Our sub-commands, and those that `prm` brings."""
    return set(parser(more=False)._subparsers._group_actions[0].choices) | {"prm-train", "refine"}  # type: ignore[union-attr]


def resolve(name: str, before: str) -> bool:
    """Whether what stands between backquotes exists; `before`: the words in front of it."""
    if name.startswith("mmcredit "):
        words = name.split()
        return words[1] in commands() and all(option_there(words[1], w) for w in words if w.startswith("--"))
    if name.startswith("mmcredit."):
        return importable(name)
    if name.startswith("scripts/"):
        return (ROOT / name).is_file()
    if name.startswith("model."):
        return name.removeprefix("model.") in config.RunConfig.model_fields["model"].annotation.model_fields
    if name in FILES or name == "benchmarks/" or "/" in name:
        return True
    if name in ("prm", "video"):
        return (ROOT / name).is_dir()
    kind = next((KINDS[w] for w in reversed(re.findall(r"[a-z]+", before)) if w in KINDS), None)
    if kind is not None and name in components.names(kind):
        return True
    if "recipe" in before and (ROOT / f"configs/methods/{name}.yaml").is_file():
        return True
    stats = importlib.import_module("mmcredit.statistics.token_streams")
    return hasattr(stats, name)


def importable(name: str) -> bool:
    parts = name.split(".")
    for cut in (len(parts), len(parts) - 1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        return cut == len(parts) or hasattr(module, parts[-1])
    return False


def option_there(command: str, option: str) -> bool:
    top = parser(more=False)
    choices = top._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    return option in choices[command]._option_string_actions


def test_every_paper_has_a_row_and_what_is_named_is_there() -> None:
    assert len(ROWS) == 45
    missing = []
    for paper, where, verified in ROWS:
        if where.startswith("outside"):
            assert verified == "—", paper
            continue
        assert "not built" not in where, paper
        assert verified not in ("", "—"), paper
        names = list(re.finditer(r"`([^`]+)`", where))
        assert names, paper
        missing += [(paper, m[1]) for m in names if not resolve(m[1], where[: m.start()])]
    assert not missing, missing


def test_a_name_that_is_not_there_is_found() -> None:
    assert not resolve("no_such_method", "credit ")
    assert not resolve("mmcredit no-such-command", "")
    assert not resolve("mmcredit evaluate --no-such-option", "")
    assert not resolve("mmcredit.no_such_module", "")
    assert not resolve("pgpo", "signals ")
