"""Reasoning steps of a response: split at a separator, as step-level verifiers and routers read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SEPARATOR = "\n\n"


def split_steps(text: str, separator: str = SEPARATOR) -> list[str]:
    """The steps of a text, without their separators; joined by it they are the text again."""
    if not separator:
        raise ValueError("a step separator must not be empty (sep)")
    return text.split(separator)


def annotate(steps: Sequence[str], writers: Sequence[int]) -> list[str]:
    """Steps with the model that wrote them in front: "Model 0: " is the draft, "Model 1: " the target."""
    if len(steps) != len(writers):
        raise ValueError(f"{len(steps)} steps have {len(writers)} writers")
    return [f"Model {writer}: {step}" for step, writer in zip(steps, writers, strict=True)]


def step_ids(
    problem: str, response: str, tokenizer: Any, separator: str = SEPARATOR, *, bos: bool = False
) -> list[int]:
    """Input of a step-level scorer: ids of problem and new line, then per piece its ids and the last id of the
    separator (`prepare_input_router`; with `bos` in front, `prepare_input`: the input of the reward model)."""
    return _step_ids(problem, response, tokenizer, separator, bos)[0]


def step_places(
    problem: str, response: str, tokenizer: Any, separator: str = SEPARATOR, *, bos: bool = False
) -> list[int]:
    """Places of the separators in `step_ids`, where a reward model scores the steps."""
    return _step_ids(problem, response, tokenizer, separator, bos)[1]


def _step_ids(problem: str, response: str, tokenizer: Any, separator: str, bos: bool) -> tuple[list[int], list[int]]:
    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    end = encode(separator)[-1]
    first = getattr(tokenizer, "bos_token", None) if bos else None
    ids = encode(f"{first or ''}{problem}\n")
    places = []
    for piece in split_steps(response, separator):
        ids += [*(encode(piece) if piece else []), end]
        places.append(len(ids) - 1)
    return ids, places
