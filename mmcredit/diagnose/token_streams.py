"""`mmcredit diagnose tokens`: token premiums on parallel text, and the statistics of prompts and rollouts."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mmcredit.statistics import token_streams as streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console


def read_parallel(path: Path) -> dict[str, list[str]]:
    """Per language the sentences of a JSON lines file whose rows are {language: sentence}.

    Raises ValueError naming file and line for a row without one of the languages of the first, or without text.
    """
    found: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--parallel {path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not valid JSON: {error}") from None
        if not isinstance(row, dict) or not row or not all(isinstance(v, str) and v.strip() for v in row.values()):
            raise ValueError(f"{path}:{number}: a row is {{language: sentence}} with text in each, got {line[:60]!r}")
        if found and row.keys() != found.keys():
            raise ValueError(f"{path}:{number} has the languages {sorted(row)}, the first row {sorted(found)}")
        for language, sentence in row.items():
            found.setdefault(language, []).append(sentence)
    if not found:
        raise ValueError(f"--parallel {path} holds no row")
    return found


def premiums(texts: dict[str, list[str]], tokenizer: Any, reference: str, limit: int) -> dict[str, dict[str, float]]:
    """Per language: sentences, tokens, premium over the reference, and the limit that is as fair as `limit` there."""
    counts = {
        language: [len(ids) for ids in tokenizer(list(own), add_special_tokens=False)["input_ids"]]
        for language, own in texts.items()
    }
    found = streams.premium(counts, reference)
    limits = streams.fair_limit(limit, found)
    return {
        language: {
            "sentences": len(counts[language]),
            "tokens": sum(counts[language]),
            "premium": value,
            "limit": limits[language],
        }
        for language, value in found.items()
    }


def statistics(
    parts: Mapping[str, Sequence[Sequence[int]]], vocabulary: int, reference: str
) -> dict[str, dict[str, float]]:
    """Per named part its stream statistics, and its drift from the part `reference`."""
    found = {}
    for name, own in parts.items():
        found[name] = streams.stream_statistics(own, vocabulary)
        if name != reference:
            found[name] |= streams.drift(parts[reference], own)
    return found


def show(title: str, rows: dict[str, dict[str, float]], console: Console) -> None:
    """A table of numbers by name."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table(title, *columns)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.6g}" if key in row else "" for key in columns))
    console.print(table)


def run(config: Any, options: Namespace, console: Console, bar: Any) -> dict[str, Any]:
    """The result of the command, printed: premiums where texts are given, statistics of prompts and rollouts."""
    from mmcredit.diagnose.models import load_frozen, questions
    from mmcredit.diagnose.run_samples import stretches

    policy = load_frozen(config, config.model.path)
    result: dict[str, Any] = {"model": config.model.path}
    if options.parallel is not None:
        limit = config.rollout.sampling.max_new_tokens
        result["premiums"] = premiums(read_parallel(options.parallel), policy.tokenizer, options.reference, limit)
        show(f"tokens against {options.reference!r}", result["premiums"], console)
    _, prompts, dropped = questions(config, policy, options.questions)
    parts = {"prompts": [prompt.tokens[~prompt.visual].tolist() for prompt in prompts]}
    if options.run_dir is not None:
        parts["rollouts"] = stretches(options.run_dir)[1]
    result["streams"] = statistics(parts, policy.body.vocabulary, "prompts")
    result["dropped"] = dict(dropped.counts)
    show("stream, bits", result["streams"], console)
    return result
