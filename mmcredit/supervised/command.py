"""`mmcredit sft CONFIG`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table

from mmcredit.components import build
from mmcredit.data.chosen import Chosen
from mmcredit.data.dropped import Dropped
from mmcredit.policy.policy import Policy
from mmcredit.prepare import seed_everything
from mmcredit.seeds import derive
from mmcredit.supervised.loop import Fit, Fitted, LossProgress, total_steps
from mmcredit.supervised.sft import SFT, Examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mmcredit.data.sample import Sample
    from mmcredit.supervised.config import FitConfig, SFTConfig
    from mmcredit.train.engine import TrainingEngine


def run(config: SFTConfig, options: Namespace, console: Console) -> int:
    """Train on examples as the config says; print the held-out loss before and after."""
    with console.status("loading the model and the data"):
        world, policy = open_policy(config)
        samples: Sequence[Sample] = build("source", config.data.train).load(config.data.media)  # type: ignore[attr-defined]
        examples = Examples(policy, config.data)
        dropped = Dropped()
        held_out = examples.all(chosen(config, config.data.evaluate), dropped)
        selection: Any = None if config.selection is None else build("selection", config.selection)
        steps = total_steps(config, len(samples))
        if selection is not None:
            selection.open(policy, config.run.seed, steps)
        engine = open_engine(config, policy, steps)
        lesson = SFT(
            policy,
            samples,
            examples,
            seed=config.run.seed,
            token_budget=config.train.token_budget,
            average=config.average,
            selection=selection,
            held_out=held_out,
        )
        fit = Fit(config, policy, engine, lesson, steps, resume=options.resume, progress=LossProgress(console))
    if world.writes:
        name = "all target tokens" if selection is None else f"tokens of {selection.name}"
        console.print(
            f"{config.run.name}: {config.model.path}, {name}, {len(samples)} samples in batches of "
            f"{config.train.batch}, {steps} steps, {len(held_out)} held-out examples",
            highlight=False,
        )
        if dropped:
            console.print(f"held-out examples left out: {dropped}", highlight=False)
    found = fit.run()
    if world.writes:
        show(found, console)
        if lesson.stream.dropped:
            console.print(f"left out in training: {lesson.stream.dropped}", highlight=False)
        console.print(f"run directory: {config.run.dir}", highlight=False, soft_wrap=True)
    world.leave()
    return 0


def open_policy(config: FitConfig) -> tuple[Any, Policy]:
    """The processes of a run, and the policy that is trained. Raises ValueError as `Policy.load`."""
    world = build("train_engine", config.train.engine).world()  # type: ignore[attr-defined]
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    seed_everything(config.run.seed)
    media = getattr(getattr(config, "data", None), "media", None)
    policy = Policy.load(config.model, derive(config.run.seed, "model") % 2**32, media)
    policy.encoder.render.check()
    policy.world = world
    return world, policy


def open_engine(config: FitConfig, policy: Policy, steps: int) -> TrainingEngine:
    """The training engine, after whatever else reads the weights: it may spread them over the processes."""
    if policy.world.size > config.train.batch:
        raise ValueError(f"train.batch {config.train.batch} is under the number of processes, {policy.world.size}")
    engine: TrainingEngine = build("train_engine", config.train.engine).open(  # type: ignore[attr-defined]
        policy, config.train, steps, policy.world
    )
    return engine


def chosen(config: FitConfig, entry: Any) -> Sequence[Sample]:
    """The held-out samples: the first `evaluate.limit` of a seeded shuffle."""
    if entry is None:
        return ()
    samples: Sequence[Sample] = build("source", entry).load(config.data.media)  # type: ignore[attr-defined]
    order = np.random.RandomState(derive(config.run.seed, "held-out") % 2**32).permutation(len(samples))
    return Chosen(samples, [int(i) for i in order[: config.evaluate.limit]])


def show(found: Fitted, console: Console) -> None:
    """The held-out measures before and after, and their paired change."""
    if not found.after:
        return
    table = Table("held-out", "value", "95 % interval", "examples")
    for name, after in found.after.items():
        rows = [("after", after.interval())]
        if name in found.before:
            before = found.before[name]
            rows = [("before", before.interval()), *rows, ("change (paired)", after.change(before))]
        for when, own in rows:
            table.add_row(f"{name} {when}", f"{own.value:.4f}", f"{own.low:.4f} .. {own.high:.4f}", str(own.n))
    console.print(table)
