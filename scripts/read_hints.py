"""Hints for the credit method `opd`, read by a judge model out of the turn that followed each response.

    python scripts/read_hints.py turns.jsonl --judge builtin:tiny-qwen3 --output hinted.jsonl
    python scripts/read_hints.py turns.jsonl --judge NAME --url http://127.0.0.1:8000/v1 --output hinted.jsonl

Rows: `prompt` (text or chat messages), `response`, `next_turn`, and `role` of it (user or tool; default user). Each row
is written with a `hint` where one was found; train on them with `opd`, which shows `hint` to the teacher.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.judge import Ask, Judge, JudgeConfig
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.seeds import derive
from mmcredit.views.hints import QUESTION, best_hint


def conversation(prompt: Any) -> str:
    """A prompt as text."""
    if isinstance(prompt, str):
        return f"user: {prompt}"
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def from_here(asked: list[tuple[str, tuple[int, ...]]], options: argparse.Namespace) -> list[list[str]]:
    """Replies of a model in this process."""
    policy = Policy.load(ModelConfig(path=options.judge), 0)
    engine = build("engine", "hf").open(policy)
    requests = [
        Request(policy.encode(Sample(f"row {number}", ({"role": "user", "content": words},))), seeds, tag=number)
        for number, (words, seeds) in enumerate(asked)
    ]
    sampling = Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens)
    replies: list[list[str]] = [[] for _ in asked]
    for response in engine.generate(requests, sampling):
        replies[response.tag].append(policy.decode(response.tokens))
    return replies


def from_address(asked: list[tuple[str, tuple[int, ...]]], options: argparse.Namespace) -> list[list[str]]:
    """Replies of a model behind an OpenAI-compatible address."""
    judge = Judge(
        JudgeConfig(
            base_url=options.url,
            model=options.judge,
            api_key_env=options.api_key_env,
            temperature=options.temperature,
            max_tokens=options.max_new_tokens,
        )
    )
    questions = [
        Ask(words, sample=f"row {n}", seed=seed % 2**31) for n, (words, seeds) in enumerate(asked) for seed in seeds
    ]
    every = judge.ask(questions)
    for error in judge.first_errors:
        print(error)
    return [[r for r in every[i : i + options.votes] if r is not None] for i in range(0, len(every), options.votes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("turns", type=Path, help="JSON lines")
    parser.add_argument(
        "--judge", required=True, help="model that reads: a folder, builtin:NAME or hub id; with --url its name"
    )
    parser.add_argument("--url", help="OpenAI-compatible address, up to and with /v1")
    parser.add_argument("--api-key-env", help="environment variable with the key of --url")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--votes", type=int, default=1, help="replies per row; the longest hint is kept")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.turns.read_text(encoding="utf-8").splitlines() if line.strip()]
    asked: list[tuple[str, tuple[int, ...]]] = []
    for number, row in enumerate(rows):
        if missing := [key for key in ("prompt", "response", "next_turn") if not row.get(key)]:
            raise SystemExit(f"{options.turns}:{number + 1} has no {missing[0]}")
        words = QUESTION.format(
            conversation=conversation(row["prompt"]),
            response=row["response"],
            role=row.get("role", "user"),
            next_turn=row["next_turn"],
        )
        seeds = tuple(derive(0, "hint", number, vote) for vote in range(options.votes))
        asked.append((words, seeds))
    replies = from_address(asked, options) if options.url else from_here(asked, options)
    found = [best_hint(own) for own in replies]
    with options.output.open("w", encoding="utf-8") as file:
        for row, hint in zip(rows, found, strict=True):
            file.write(json.dumps(row if hint is None else {**row, "hint": hint}, ensure_ascii=False) + "\n")
    print(f"{sum(hint is not None for hint in found)} of {len(rows)} rows have a hint: {options.output}")


if __name__ == "__main__":
    main()
