"""`mmcredit dpo CONFIG`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from mmcredit.components import build
from mmcredit.data.chosen import Chosen
from mmcredit.data.dropped import Dropped
from mmcredit.preference.from_run import from_run, split
from mmcredit.preference.known import Scoring
from mmcredit.preference.lesson import DPOLesson, Pairs
from mmcredit.preference.pairs import EncodedPair, from_rows, load_rows, numbered
from mmcredit.seeds import derive
from mmcredit.supervised.command import open_engine, open_policy, show
from mmcredit.supervised.loop import Fit, LossProgress, total_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.preference.base import Preference
    from mmcredit.preference.config import DPOConfig


def run(config: DPOConfig, options: Namespace, console: Console, bar: Any) -> int:
    """Train on pairs as the config says; print held-out loss, accuracy and margin before and after."""
    dropped = Dropped()
    loss: Preference = build("preference", config.loss)  # type: ignore[assignment]
    with console.status("loading the model and the pairs"):
        world, policy = open_policy(config)
        train, held_out = read_pairs(config, policy, dropped)
    if world.writes:
        console.print(
            f"{config.run.name}: {config.model.path}, loss {loss.name}, {len(train)} pairs, {len(held_out)} held out"
            + (f"; left out: {dropped}" if dropped else ""),
            highlight=False,
        )
    with bar("reference pass, once per pair", None) as advance:
        known = [scored(pairs, policy, config, loss, advance) for pairs in (train, held_out)]
    steps = total_steps(config, len(train))
    engine = open_engine(config, policy, steps)
    lesson = DPOLesson(
        policy,
        loss,
        *known,
        seed=config.run.seed,
        token_budget=config.train.token_budget,
        max_prompt_tokens=config.data.max_prompt_tokens,
    )
    fit = Fit(config, policy, engine, lesson, steps, resume=options.resume, progress=LossProgress(console))
    found = fit.run()
    if world.writes:
        show(found, console)
        console.print(f"run directory: {config.run.dir}", highlight=False, soft_wrap=True)
    world.leave()
    return 0


def read_pairs(config: DPOConfig, policy: Policy, dropped: Dropped) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """The pairs to train on and the held-out ones, each numbered from 0. What cannot be used is counted."""
    import numpy as np

    data, seed = config.data, config.run.seed
    if data.from_run is not None:
        train, held_out = split(from_run(data.from_run, policy, seed, dropped), data.from_run.held_out, seed)
        if not train:
            raise ValueError(f"data.from_run.held_out {data.from_run.held_out} leaves no pair to train on")
        return numbered(train), numbered(held_out[: config.evaluate.limit])
    limits = data.max_prompt_tokens, data.max_tokens
    train = from_rows(load_rows(data.train, data.media), policy, dropped, *limits)
    if data.evaluate is None:
        return train, []
    rows: Sequence[Sample] = load_rows(data.evaluate, data.media)
    order = np.random.RandomState(derive(seed, "held-out") % 2**32).permutation(len(rows))
    rows = Chosen(rows, [int(i) for i in order[: config.evaluate.limit]])
    return train, from_rows(rows, policy, dropped, *limits)


def scored(
    pairs: Sequence[EncodedPair],
    policy: Policy,
    config: DPOConfig,
    loss: Preference,
    advance: Callable[[int], None] | None = None,
) -> Pairs:
    """The pairs with everything that is computed once: before the first step, with the weights as loaded."""
    from mmcredit.policy.policy import Policy

    def load(path: str) -> Policy:
        return Policy.load(config.model.at(path, lora=None), 0, config.data.media)

    scoring = Scoring(pairs, policy, load, config.data.max_prompt_tokens, advance)
    known = scoring.known(config.reference)
    return Pairs(pairs, known, loss.values(pairs, known, scoring) if len(pairs) else None)
