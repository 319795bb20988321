"""What an evaluation was made with: the cells it goes through, and everything that decides its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.corruptions.base import Corruption
from mmcredit.corruptions.suite import SEEN, UNSEEN, Suite, imagenet_c, operator
from mmcredit.evaluate.ask.cells import CLEAN, Cell
from mmcredit.evaluate.ask.questions import Target, listed
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.fingerprint import folder_fingerprint
from mmcredit.settings import defaults_of

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.judge import JudgeConfig
    from mmcredit.rollout.engine import Sampling

CORRUPTION_SEED = 0  # one for every evaluation: models of differently seeded runs see the same pixels
VERSION = 1


def suite_of(config: RunConfig | None) -> Suite:
    """Operators that training saw, and the others: what the config's methods corrupt with, the built-in split if they
    do not corrupt."""
    if config is None:
        return Suite()
    from mmcredit.components import build_all
    from mmcredit.credit import Pipeline

    needs = Pipeline(config.credit).needs() | config.build_objective().needs()
    for strategy in build_all("strategy", config.rollout.strategies):
        needs = needs | strategy.needs()
    view = needs.views.get("corrupted")
    if view is None:
        return Suite()
    seen = tuple(view.operators)
    titles = {each.title for each in seen}
    return Suite(seen=seen, unseen=tuple(operator(n) for n in (*SEEN, *UNSEEN) if n not in titles))


def cells_of(corrupt: str | None, severity: str | None, suite: Suite) -> list[Cell]:
    """The cells of `--corrupt` and `--severity`: clean first, then every operator at every severity.

    `corrupt`: all, seen, unseen, imagenet_c (its 15 operators as published), or operators as in a config.
    Raises ValueError for unknown operators or severities.
    """
    if corrupt is None:
        if severity is not None:
            raise ValueError("--severity says how strong --corrupt is; name the operators there (all, seen, unseen)")
        return [CLEAN]
    chosen: list[Corruption] = []
    for entry in listed(corrupt):
        if entry in ("seen", "unseen", "all"):
            chosen += [*(suite.seen if entry != "unseen" else ()), *(suite.unseen if entry != "seen" else ())]
        elif entry == "imagenet_c":
            chosen += imagenet_c()
        else:
            known = {each.title: each for each in (*suite.seen, *suite.unseen)}
            chosen.append(known[entry] if isinstance(entry, str) and entry in known else operator(entry))
    titles = [each.title for each in chosen]
    if twice := sorted({t for t in titles if titles.count(t) > 1}):
        raise ValueError(f"--corrupt names {twice[0]} twice; give one of them a label ({{{twice[0]}: {{label: ...}}}})")
    severities = suite.eval_severities if severity is None else _severities(severity)
    return [CLEAN, *(Cell(each, s) for each in chosen for s in severities)]


def _severities(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if any(word not in ("1", "2", "3", "4", "5") for word in words) or len(set(words)) < len(words):
        raise ValueError(f"--severity takes different whole numbers from 1 to 5 with commas between, got {text!r}")
    return [int(word) for word in words]


def settings_of(
    config: RunConfig, target: Target, cells: Sequence[Cell], sampling: Sampling, judge: JudgeConfig | None
) -> dict[str, Any]:
    """Everything that decides the rows of a target, as plain values."""
    model = config.model
    return {
        "version": VERSION,
        "questions": dict(target.spec),
        "model": {
            **model.model_dump(
                mode="json",
                include={
                    *("path", "dtype", "min_pixels", "max_pixels", "chat_template", "template_variables", "lora"),
                    "trust_remote_code",
                },
            ),
            "fingerprint": fingerprint(model.path, model.base),
        },
        "sampling": sampling.model_dump(mode="json"),
        "attempts": config.evaluate.samples,
        "seed": config.run.seed,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "engine": config.rollout.engine,
        "corruption_seed": CORRUPTION_SEED,
        "cells": {c.label: None if c.operator is None else c.operator.spec() for c in cells},
        "judge": None if judge is None or target.benchmark is None else {"model": judge.model},
    }


def setting_defaults() -> dict[str, Any]:
    """What a setting of `settings_of` counts as in answers that were made before it existed."""
    from mmcredit.rollout.engine import Sampling

    return {"model": defaults_of(ModelConfig), "sampling": defaults_of(Sampling), "decoding": None}


def fingerprint(path: str, base: str | None = None) -> str | None:
    """A hash that differs between two sets of weights at one path (an adapter: together with its base); None for a hub
    id. See `folder_fingerprint`."""
    from mmcredit.policy.adapters import chain
    from mmcredit.policy.load import resolve_path

    below, adapters = chain(resolve_path(path), resolve_path, base)
    folders = [Path(below), *(each.folder for each in adapters)]
    found = [folder_fingerprint(folder) for folder in folders if folder.is_dir()]
    return "+".join(found) or None
