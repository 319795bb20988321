"""Every vision family: our passes against the model's own forward, the two layouts, views, and the sampler."""

from __future__ import annotations

import pytest
import torch
from families import TILED
from family_cases import family_batch, own_logprobs
from policy_cases import ALL, assert_close, both, gradients, tower_calls

from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.policy.views import furnish_views
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.hf.component import HF

LOGPROBS = frozenset({"logprobs"})


@pytest.mark.parametrize("family", TILED)
def test_passes_are_the_models_own_forward(family: str) -> None:
    policy, prompts, rollouts = family_batch(family)
    shared, padded = both(
        policy,
        lambda: policy.score(
            prompts, rollouts, [Pass(CLEAN, ALL | {"kl_to:blind"}), Pass(BLIND, ALL)], temperature=1.0
        ),
    )
    found = padded[CLEAN]["logprobs"]
    for row, group in enumerate(rollouts.group.tolist()):
        tokens = rollouts.tokens[row][rollouts.valid[row]]
        expected = own_logprobs(policy, prompts[group], tokens)
        torch.testing.assert_close(found[row, : len(tokens)], expected, atol=2e-5, rtol=0)
    for view in shared:
        for name, value in shared[view].items():
            torch.testing.assert_close(value, padded[view][name], atol=2e-5, rtol=1e-5)
    moved = (shared[BLIND]["logprobs"] - shared[CLEAN]["logprobs"]).abs().amax(1)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    assert float(moved[sees].min()) > 1e-4
    assert float(moved[~sees].max()) <= 1e-6


@pytest.mark.parametrize("family", TILED)
def test_gradients_of_both_layouts_reach_tower_and_projector_alike(family: str) -> None:
    policy, prompts, rollouts = family_batch(family)
    calls = tower_calls(policy)
    policy._layout = "shared"
    passes = [Pass(CLEAN, LOGPROBS), Pass(BLIND, LOGPROBS)]
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, passes))
    assert len(calls) <= 4  # one call a pass, two where images differ in kind; each image once
    assert_close(a, b, 2e-5)
    vision = [n for n in a if "language_model" not in n and "text_model" not in n and "lm_head" not in n]
    reached = [n for n in vision if float(a[n].abs().max()) > 1e-7]
    assert len(reached) > 0.6 * len(vision)
    assert any("projector" in n or "connector" in n for n in reached)


@pytest.mark.parametrize("family", TILED)
def test_sampler_and_trainer_agree(family: str) -> None:
    policy, prompts, _ = family_batch(family)
    engine = HF().open(policy)
    requests = [Request(p, (1, 2, 3), tag=str(i)) for i, p in enumerate(prompts)]
    responses = engine.generate(requests, Sampling(max_new_tokens=12))
    from mmcredit.rollout.collate import collate  # noqa: F401  (the run's own path is in the tests of a family's run)

    for response in responses:
        tokens = torch.tensor(response.tokens)
        expected = own_logprobs(policy, prompts[int(response.tag)], tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", TILED)
def test_masked_and_corrupted_views(family: str) -> None:
    from mmcredit.policy.passes import MASKED, corrupted

    policy, prompts, rollouts = family_batch(family)
    furnish_views(policy, {}, 1)
    passes = [Pass(CLEAN, LOGPROBS), Pass(MASKED, LOGPROBS), Pass(corrupted(0), LOGPROBS)]
    found = policy.score(prompts, rollouts, passes, temperature=1.0)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    for view in (MASKED, corrupted(0)):
        moved = (found[view]["logprobs"] - found[CLEAN]["logprobs"]).abs().amax(1)
        assert float(moved[sees].max()) > 1e-4
        assert float(moved[~sees].max()) <= 1e-6
