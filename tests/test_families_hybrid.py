"""Qwen3.5: layers of linear attention beside softmax layers; padded layout, blind view, states in the sampler."""

from __future__ import annotations

import pytest
import torch
from family_cases import own_logprobs
from policy_cases import ALL, batch, gradients, tower_calls
from runs import metrics, parse
from tiny import save, tiny_vl

from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.policy.views import furnish_views
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.hf.component import HF
from mmcredit.train.loop import train

FAMILY = "qwen3_5_vl"


def test_passes_are_the_models_own_forward_and_packing_is_refused() -> None:
    policy, prompts, rollouts = batch(FAMILY)
    with pytest.warns(UserWarning, match=r"Qwen3_5\w+: .*linear attention would read the packed row as one text"):
        assert policy.layout(prompts, rollouts) == "padded"
    found = policy.score(prompts, rollouts, [Pass(CLEAN, ALL), Pass(BLIND, ALL)], temperature=1.0)
    for row, group in enumerate(rollouts.group.tolist()):
        tokens = rollouts.tokens[row][rollouts.valid[row]]
        expected = own_logprobs(policy, prompts[group], tokens)
        torch.testing.assert_close(found[CLEAN]["logprobs"][row, : len(tokens)], expected, atol=2e-5, rtol=0)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    moved = (found[BLIND]["logprobs"] - found[CLEAN]["logprobs"]).abs().amax(1)
    assert float(moved[sees].min()) > 1e-3
    assert float(moved[~sees].max()) <= 1e-6


def test_the_blind_view_does_not_depend_on_pixels_and_runs_no_tower() -> None:
    policy, prompts, rollouts = batch(FAMILY, layout="padded")
    calls = tower_calls(policy)
    blind = policy.score(prompts, rollouts, [Pass(BLIND, ALL)], temperature=1.0)[BLIND]["logprobs"]
    assert calls == []
    views = furnish_views(policy, {}, 1)
    from mmcredit.policy.passes import MASKED

    others = [views(MASKED, p) for p in prompts]
    assert any(o is not p for o, p in zip(others, prompts, strict=True))
    again = policy.score(others, rollouts, [Pass(BLIND, ALL)], temperature=1.0)[BLIND]["logprobs"]
    torch.testing.assert_close(blind, again, atol=1e-6, rtol=0)


def test_the_sampler_carries_states() -> None:
    """Prompts of several lengths, rows that leave early, several rows a prompt: as the own forward has it."""
    policy, prompts, _ = batch(FAMILY, layout="padded")
    engine = HF().open(policy)
    requests = [Request(p, (1, 2, 3), tag=i, limit=4 + 5 * i) for i, p in enumerate(prompts)]
    for response in engine.generate(requests, Sampling(max_new_tokens=24)):
        tokens = torch.tensor(response.tokens)
        expected = own_logprobs(policy, prompts[response.tag], tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=2e-5, rtol=0)
    with pytest.raises(ValueError, match="a response is to be continued"):
        engine.generate([Request(prompts[0], (1,), prefix=(20, 21))], Sampling(max_new_tokens=2))


def test_gradients_reach_the_tower() -> None:
    policy, prompts, rollouts = batch(FAMILY, layout="padded")
    found = gradients(policy, prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))])
    reached = [n for n, g in found.items() if "visual" in n and float(g.abs().max()) > 1e-7]
    assert len(reached) > 10


def test_two_training_steps(tmp_path) -> None:
    folder = tmp_path / FAMILY
    save(*tiny_vl(FAMILY), folder)
    small = {"rollout__prompts": 2, "rollout__group": 3, "rollout__sampling": {"max_new_tokens": 6}}
    with pytest.warns(UserWarning, match="using padded"):
        train(parse(tmp_path, model__path=str(folder), run__steps=2, credit=["grpo", "pgpo"], **small))
    rows = metrics(tmp_path / "run")
    assert len(rows) == 2
    assert all(row["policy/grad_norm"] > 0 for row in rows)
