"""NoisyRollout: the noise schedule, what the sampler sees, and what is trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runs import metrics, settings
from strategy_runs import make

from mmcredit import config
from mmcredit.corruptions.operators.noise import diffusion_level
from mmcredit.credit import Pipeline
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.vision import items
from mmcredit.rollout.strategies.noisy_rollout import NoisyRollout
from mmcredit.rollouts import Rollouts


def test_diffusion_steps_of_both_recipes():
    geometry = NoisyRollout()  # counts steps from 1: step 40 of the paper is 39 here
    expected = {1: 499, 20: 499, 30: 496, 40: 250, 50: 3, 60: 0}
    assert {step: geometry.level(step - 1, 60) for step in expected} == expected
    k12 = NoisyRollout(alpha=450, lam=60, mid=1 / 3)
    expected = {1: 449, 20: 449, 30: 446, 40: 225, 50: 3, 60: 0, 120: 0}
    assert {step: k12.level(step - 1, 120) for step in expected} == expected
    assert [NoisyRollout(schedule="linear").level(s, 4) for s in range(4)] == [375, 250, 125, 0]
    assert [NoisyRollout(schedule="power", c=2).level(s, 4) for s in range(4)] == [468, 375, 218, 0]
    assert [NoisyRollout(schedule="exp", c=0.5).level(s, 3) for s in range(3)] == [375, 250, 0]
    assert NoisyRollout(schedule="constant", alpha=1000).level(0, 2) == 999


def test_rewards_of_a_group_are_normalised_jointly():
    rewards = torch.tensor([1.0, 1, 0, 1, 0, 0, 1, 0])
    mask = torch.ones(8, 1, dtype=torch.bool)
    tokens = torch.zeros(8, 1, dtype=torch.int64)
    credit = Pipeline(["grpo"])(Rollouts(tokens, mask, torch.zeros(8, dtype=torch.int64), rewards))
    assert credit.advantages[:, 0].tolist() == pytest.approx(
        [0.935413 * (2 * r - 1) for r in rewards.tolist()], abs=1e-5
    )


def test_the_sampler_sees_noise_and_the_trainer_does_not(tmp_path):
    trainer = make(tmp_path, "vlm", rollout__strategies=[{"noisy_rollout": {"noisy": 1, "schedule": "constant"}}])
    asked, batches = [], []
    sample, run = trainer.stage.sample, trainer.stage.run

    def watched(asks, sampling=None):
        asked.extend(asks)
        return sample(asks, sampling)

    trainer.stage.sample = watched
    trainer.stage.run = lambda step: batches.append(run(step)) or batches[-1]
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert [row["rollout/noisy_rollout/k"] for row in rows] == [500] * 3
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    # Sampler log-probs of noised rows are those of another input: not compared, and said so.
    assert all(row["mismatch/kl"] < 1e-6 and row["mismatch/not_finite"] > 0 for row in rows)
    policy, pixels = trainer.parts.policy, Pixels(trainer.parts.policy.processor)
    assert len(asked) == 2 * 4 * 3
    for clean, noised in zip(asked[::2], asked[1::2], strict=True):
        assert clean.prompt is noised.prompt
        assert (len(clean.seeds), len(noised.seeds)) == (3, 1)
        assert clean.shown is None
        assert len(noised.shown) == len(clean.prompt)
        assert torch.equal(noised.shown.positions, clean.prompt.positions)
        before, after = (
            np.asarray(pixels.frames(items(p)[0], "x")[0], dtype=np.float64) / 255 for p in (clean.prompt, noised.shown)
        )
        factor, sigma = diffusion_level(500)
        inside = (after > 0) & (after < 1)  # not clipped
        noise = (after - factor * before)[inside & (abs(factor * before - 0.5) < 0.05)]
        assert sigma == pytest.approx(0.5052, abs=1e-4)
        if noise.size > 300:  # a normal number cut off at +-0.5 = 0.99 sigma
            assert noise.std() == pytest.approx(0.537 * sigma, rel=0.15)
    different = {noised.shown.media_keys for noised in asked[1::2]}
    assert len(different) == 12  # another draw for every prompt and step
    for batch in batches:
        assert batch.rollouts.group.bincount().tolist() == [4] * 4
        foreign = batch.rollouts.sampler_logprobs.isnan().any(1)
        assert foreign.tolist() == [False, False, False, True] * 4
        assert all("|noise" not in key for prompt in batch.prompts for key in prompt.media_keys)
    # What is remembered of a noised image goes with its step.
    cache = policy.body.vision._cache
    assert not any("noise" in str(key) for key in cache)


def test_noised_rows_are_scored_on_the_clean_image(tmp_path):
    strategy = {"noisy_rollout": {"schedule": "constant"}}
    trainer = make(tmp_path, "vlm", rollout__strategies=[strategy], train__mini_batches=2, run__steps=1)
    seen = []
    score = trainer._score
    trainer._score = lambda batch, step: seen.append((batch, *score(batch, step))) or seen[-1][1:]
    policy = trainer.parts.policy
    weights = {name: p.detach().clone() for name, p in policy.trainable_parameters().items()}
    trainer.run()
    batch, rollouts, _ = seen[0]
    policy.load_state_dict(weights)
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    again = policy.score(batch.prompts, rollouts, wanted, temperature=1.0)[CLEAN]["logprobs"]
    assert torch.allclose(rollouts.old_logprobs, again, atol=1e-6)


def test_prompts_without_an_image_are_sampled_as_they_are(tmp_path):
    plain, noisy = (make(tmp_path / name, "text", rollout__strategies=layers) for name, layers in
                    (("a", []), ("b", ["noisy_rollout"])) if (tmp_path / name).mkdir() is None)  # fmt: skip
    plain.run()
    noisy.run()
    a, b = metrics(tmp_path / "a" / "run"), metrics(tmp_path / "b" / "run")
    assert [row.pop("rollout/noisy_rollout/prompts_without_media") for row in b] == [4, 4, 4]
    assert [row.pop("rollout/noisy_rollout/k") for row in b] == [NoisyRollout().level(s, 3) for s in range(3)]
    assert a == b


def test_the_default_noises_half_of_the_group_and_none_is_plain_sampling(tmp_path):
    for name, strategies in (("a", []), ("b", [{"noisy_rollout": {"noisy": 0}}]), ("c", ["noisy_rollout"])):
        (tmp_path / name).mkdir()
        make(tmp_path / name, "vlm", rollout__strategies=strategies, run__steps=2).run()
    a, b, c = (metrics(tmp_path / name / "run") for name in "abc")
    assert [row["reward/mean"] for row in a] == [row["reward/mean"] for row in b]
    assert [row["policy/grad_norm"] for row in a] == [row["policy/grad_norm"] for row in b]
    assert a[0]["mismatch/not_finite"] == 0
    assert c[0]["mismatch/not_finite"] == pytest.approx(c[0]["response/tokens"] / 2, rel=0.2)
    assert not math.isclose(a[0]["reward/mean"], c[0]["reward/mean"])


def test_contract(tmp_path):
    with pytest.raises(ValueError, match=r"noisy=5 exceeds rollout.group=4"):
        config.parse(settings(tmp_path, rollout__strategies=[{"noisy_rollout": {"noisy": 5}}]))
    with pytest.raises(ValueError, match="schedule"):
        config.parse(settings(tmp_path, rollout__strategies=[{"noisy_rollout": {"schedule": "cosine"}}]))
