"""What training, evaluation and diagnosis all build from a run config: seeds, samples, reward workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmcredit.components import build, build_all
from mmcredit.data.chosen import Chosen
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.rewards.pool import RewardPool


def seed_everything(seed: int) -> None:
    """Seed the global generators. Only dropout and third parties draw from them; ours are derived by purpose."""
    random.seed(derive(seed, "python") % 2**32)
    np.random.seed(derive(seed, "numpy") % 2**32)
    torch.manual_seed(derive(seed, "torch"))


def load_samples(config: RunConfig, entry: Any) -> Sequence[Sample]:
    """The samples of a source entry. Raises ValueError for an empty or unreadable one."""
    return build("source", entry).load(config.data.media)  # type: ignore[attr-defined]


def held_out_samples(config: RunConfig) -> Sequence[Sample]:
    """The evaluation questions: the first `evaluate.limit` of a seeded shuffle. Each is read when it is asked for."""
    if config.data.evaluate is None:
        return ()
    samples = load_samples(config, config.data.evaluate)
    order = np.random.RandomState(derive(config.run.seed, "held-out") % 2**32).permutation(len(samples))
    return Chosen(samples, [int(i) for i in order[: config.evaluate.limit]])


def make_pool(config: RunConfig, run_dir: Path | None = None) -> RewardPool:
    """The reward workers of a run."""
    from mmcredit.rewards.base import Reward
    from mmcredit.rewards.pool import RewardPool

    rewards = build_all("reward", config.rewards)
    assert all(isinstance(r, Reward) for r in rewards)
    return RewardPool(
        rewards,  # type: ignore[arg-type]
        workers=config.reward_workers.count,
        memory_limit_mb=config.reward_workers.memory_limit_mb,
        keep_env=config.reward_workers.keep_env,
        seed=derive(config.run.seed, "rewards") % 2**32,
        max_error_share=config.check.max_reward_error_share,
        log=None if run_dir is None else run_dir / "rewards.log",
    )
