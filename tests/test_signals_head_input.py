"""DelTA on real passes: the proxy is the gradient of the model's own head, and the weights follow from it."""

from __future__ import annotations

import pytest
import torch
from policy_cases import batch
from test_credit_b_gradients import squared_distance_weights

from mmcredit import Credit
from mmcredit.components import build
from mmcredit.credit import Step
from mmcredit.policy.passes import CLEAN, Pass

OUTPUTS = frozenset({"logprobs", "head_input"})


def scored(family, temperature=1.0):
    policy, prompts, rollouts = batch(family)
    found = policy.score(prompts, rollouts, [Pass(CLEAN, OUTPUTS)], temperature=temperature)[CLEAN]
    rollouts = rollouts.replace(old_logprobs=found["logprobs"]).with_signals({"head_input": found["head_input"]})
    return policy, prompts, rollouts


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl"])
def test_proxy_is_the_gradient_of_the_sampled_tokens_row(family):
    """d log p / d W[token] = (1 - p) h / temperature, by autograd through the model's head."""
    temperature = 0.8
    policy, prompts, rollouts = scored(family, temperature)
    weight = policy.body.head.weight
    for row, column in ((0, 0), (0, 3), (3, 2), (len(rollouts) - 1, 0)):
        out = policy.forward(prompts, rollouts, [row], [Pass(CLEAN, OUTPUTS)], temperature=temperature)[CLEAN]
        (gradient,) = torch.autograd.grad(out["logprobs"][0, column], weight)
        h = rollouts.signal("head_input")[row, column]
        p = rollouts.old_logprobs[row, column].exp()
        found = gradient[rollouts.tokens[row, column]]
        torch.testing.assert_close(found, (1 - p) * h / temperature, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_vl"])
def test_delta_equals_the_squared_distance_form_on_real_states(family):
    _, _, rollouts = scored(family)
    signs = torch.tensor([1.0, -0.5, 0.0])[torch.arange(len(rollouts)) % 3]
    credit = Credit(signs[:, None] * rollouts.mask, rollouts.mask)
    after = build("credit", "delta")(credit, rollouts, Step())
    expected = squared_distance_weights(rollouts, credit, 1)
    torch.testing.assert_close(after.advantages.double(), expected, atol=1e-4, rtol=0)
    weights = (after.advantages / credit.advantages)[credit.advantages != 0]
    assert float(weights.max() - weights.min()) > 0.05  # it does tell tokens apart


def test_head_input_does_not_depend_on_layout_order_or_micro_batch():
    policy, prompts, rollouts = scored("qwen3_vl")
    expected = rollouts.signal("head_input")
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(1))
    for layout in ("shared", "padded"):
        policy._layout = layout
        for budget in (60, 16384):
            found = policy.score(
                prompts, rollouts.select(order), [Pass(CLEAN, OUTPUTS)], temperature=1.0, budget=budget
            )
            torch.testing.assert_close(found[CLEAN]["head_input"], expected[order], atol=1e-4, rtol=1e-4)
