"""Everything a run is made of, built from its config."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmcredit.components import Needs, build, build_all
from mmcredit.credit import Pipeline
from mmcredit.policy.views import Views, furnish_views
from mmcredit.prepare import held_out_samples, load_samples, make_pool, seed_everything
from mmcredit.seeds import derive
from mmcredit.signals.plan import ScorePlan, plan_scores
from mmcredit.train.sharing import OneEngine, SharedEngine, SharedPool, SharedVerifying
from mmcredit.train.update import Updater, signals_for_update, update_passes
from mmcredit.verifiers.background import Verifying
from mmcredit.verifiers.base import RunContext

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.rewards.pool import RewardPool
    from mmcredit.rollout.engine import RolloutEngine
    from mmcredit.rollout.strategies.base import Strategy
    from mmcredit.train.engine import TrainingEngine
    from mmcredit.verifiers.base import Verifier
    from mmcredit.world import World


@dataclass
class Parts:
    """The rooms of a run, furnished."""

    world: World  # the processes of the run
    policy: Policy
    engine: RolloutEngine
    pool: RewardPool
    pipeline: Pipeline
    objective: Objective
    trainer: TrainingEngine
    updater: Updater
    plan: ScorePlan  # passes of an ordinary step
    first_plan: ScorePlan  # of the first step: the checks want the clean log-probs
    samples: Sequence[Sample]
    held_out: Sequence[Sample]
    strategies: list[Strategy]  # around plain sampling, outermost first
    verifying: Verifying  # the run's verifiers, asked beside the step
    views: Views  # masked and corrupted prompts of the current step


def furnish(config: RunConfig, world: World) -> Parts:
    """Build every part of a training run. Raises ValueError for what the config gets wrong."""
    from mmcredit.policy.policy import Policy

    training: Any = build("train_engine", config.train.engine)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    seed_everything(config.run.seed)
    samples = load_samples(config, config.data.train)
    held_out = held_out_samples(config)
    policy = Policy.load(config.model, derive(config.run.seed, "model") % 2**32, config.data.media)
    policy.encoder.render.check()  # before it is said once per sample
    policy.world = world
    pipeline = Pipeline(config.credit)
    objective = config.build_objective()
    temperature = config.rollout.sampling.temperature
    if temperature == 0:
        raise ValueError("rollout.sampling.temperature is 0: all responses of a group would be the same; use 1.0")
    train = config.train
    strategies: list[Strategy] = build_all("strategy", config.rollout.strategies)  # type: ignore[assignment]
    needs = pipeline.needs() | objective.needs()
    for strategy in strategies:
        needs = needs | strategy.needs()
    needs = needs | Needs(signals=(*signals_for_update(objective.needs()), *config.log.signals))
    checks = config.check.parity or config.check.image_probe
    verifiers: list[Verifier] = build_all("verifier", config.verifiers)  # type: ignore[assignment]
    given = frozenset(name for s in strategies for name in s.gives) | {name for v in verifiers for name in v.gives}
    on_policy = train.mini_batches == 1 and train.epochs == 1
    plan = plan_scores(needs, on_policy, given=given)
    first_plan = plan_scores(needs, on_policy, check_mismatch=checks, given=given)
    views = {*plan.views, *(p.view for p in update_passes(objective)[1])}
    if not policy.starts_at_base and any(view.weights == "reference" for view in views):
        policy.keep_reference()  # the weights as loaded; with a new adapter they are there with it off
    # Before the training engine, which may spread the weights over the ranks.
    sampler: Any = build("engine", config.rollout.engine)
    once = world.size > 1 and getattr(sampler, "once", False)  # one engine for all ranks
    rollout: Any = _opened_once(sampler, policy, world) if once else sampler.open(policy)
    pool: Any = make_pool(config, Path(config.run.dir))
    updates = config.run.steps * train.mini_batches * train.epochs
    trainer: TrainingEngine = training.open(policy, train, updates, world)
    if world.size > 1:
        rollout = (OneEngine if once else SharedEngine)(rollout, world, trainer.whole)
        pool = SharedPool(pool, world)
    updater = Updater(
        policy,
        trainer,
        pipeline,
        objective,
        mini_batches=train.mini_batches,
        epochs=train.epochs,
        token_budget=train.token_budget,
        temperature=temperature,
        seed=config.run.seed,
    )
    context = RunContext(policy.tokenizer, Path(config.run.dir), config.run.seed, config.data.media)
    verifying: Any = Verifying(verifiers if world.writes else [], context)
    if world.size > 1:
        verifying = SharedVerifying(verifying, world, bool(verifiers))
    return Parts(
        world=world,
        policy=policy,
        engine=rollout,
        pool=pool,
        pipeline=pipeline,
        objective=objective,
        trainer=trainer,
        updater=updater,
        plan=plan,
        first_plan=first_plan,
        samples=samples,
        held_out=held_out,
        strategies=strategies,
        verifying=verifying,
        views=furnish_views(policy, needs.views, config.run.seed),
    )


def _opened_once(sampler: Any, policy: Policy, world: World) -> RolloutEngine | None:
    """The engine on rank 0, None on the others; an error of rank 0 is raised on all."""
    opened: list[RolloutEngine] = []
    world.from_first(lambda: opened.append(sampler.open(policy)))
    return opened[0] if opened else None


def rng_state() -> dict[str, Any]:
    """State of the global generators, as plain data and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Take back what `rng_state` gave."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def versions() -> dict[str, Any]:
    """What a run was made with."""
    packages = ("mmcredit", "torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow", "peft", "vllm")
    found: dict[str, Any] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _processor() -> str:
    """The name of the CPU; `platform` knows the architecture only on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def _commit() -> str | None:
    """Git commit of this package's checkout, if it is one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
