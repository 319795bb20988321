"""Degenerate batches through every recipe: a defined result, finite in value and gradient, never NaN."""

import pytest
import torch

from mmcredit import Objective, Rollouts, config, config_files
from mmcredit.credit import Pipeline

WIDTH = 12
RECIPES = sorted(config_files.recipes())
# Credit that does not come from comparing responses of a group: it may live in a group of one or of equal rewards.
NOT_BY_GROUP = {"reinforce_pp", "opd", "nsr", "spo_chain", "spo_tree"}
PENALTY_STAYS = {"ucas"}  # its certainty penalty does not ask how the group did (`zero_constant_groups`)


def batch(lengths, rewards, group, **fields):
    """Every signal of the contract on ragged rows; lengths of 0 are empty responses."""
    torch.manual_seed(0)
    b, t = len(lengths), WIDTH
    mask = torch.arange(t) < torch.tensor(lengths)[:, None]
    old = -torch.rand(b, t)
    return Rollouts(
        tokens=torch.randint(0, 30, (b, t)),
        mask=mask,
        group=torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        sampler_logprobs=fields.pop("sampler_logprobs", old.clone()),
        old_logprobs=old,
        signals={
            **{
                name: torch.rand(b, t)
                for name in ("entropy", "visual_kl", "self_certainty", "attention_entropy", "divergence")
            },
            **{
                name: old + 0.3 * torch.randn(b, t)
                for name in ("blind_logprobs", "masked_logprobs", "ref_logprobs", "teacher_logprobs")
            },
            "sampled_logit": torch.randn(b, t),
            "head_input": torch.randn(b, t, 6),
            "replayed": torch.zeros(b, dtype=torch.bool),
            "step_id": (torch.arange(t) // 4).expand(b, t).contiguous(),
            "step_accuracy": torch.rand(b, 3),
            "step_confidence": torch.rand(b, 3),
            # the prompt, the token before the last one of longer responses, and an unused slot
            "boundary_index": torch.tensor([[-1, n - 2 if n > 2 else -2, -2] for n in lengths]),
            "boundary_value": torch.rand(b, 3),
            "parent_value": torch.rand(b),
            "child_value": torch.rand(b),
            "sibling_std": torch.rand(b),
        },
        **fields,
    )


CASES = {
    "a group of one": batch([5], [1.0], [0]),
    "groups of one": batch([5, 3, 7], [1.0, 0.0, 1.0], [0, 1, 2]),
    "constant groups": batch([5, 3, 7, 2], [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]),
    "all truncated": batch([WIDTH] * 4, [1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1], truncated=torch.ones(4, dtype=torch.bool)),
    "every response empty": batch([0, 0, 0, 0], [1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1]),
    "some responses empty": batch([0, 4, 6, 0], [1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1]),
    "one token each": batch([1, 1, 1, 1], [1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1]),
}


def parts(recipe):
    """The pipeline and the objective of a recipe, as a run would build them."""
    content = config_files.read_yaml(config_files.find(recipe, "configs/methods"))
    run = config.load("easy_vqa", recipe)
    assert run.credit == content["credit"]
    return Pipeline(run.credit), run.build_objective()


def through(recipe, rollouts):
    """Loss and gradient of one optimizer mini-batch, slightly off-policy."""
    pipeline, objective = parts(recipe)
    torch.manual_seed(1)
    credit = pipeline(rollouts, 3, 10)
    logprobs = (rollouts.old_logprobs + 0.2 * torch.randn(rollouts.tokens.shape)).requires_grad_()
    if pipeline.updates_at_update:
        credit = pipeline.at_update(credit, rollouts, logprobs.detach(), rollouts.signal("entropy"))
    passes = {}
    for name in objective.needs().passes:
        views = (2,) if name == "view_logprobs" else ()
        passes[name] = rollouts.signals.get(name, torch.rand(*views, *rollouts.tokens.shape) - 1)
    out = objective(logprobs, rollouts, credit, passes)
    out.loss.backward()
    return credit, out, logprobs.grad


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_degenerate_batches_have_a_defined_result(recipe, case):
    rollouts = CASES[case]
    credit, out, gradient = through(recipe, rollouts)
    assert torch.isfinite(credit.advantages).all()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(gradient).all()
    assert not gradient[~rollouts.mask].any()
    if "group" in case and recipe not in NOT_BY_GROUP and not (case == "constant groups" and recipe in PENALTY_STAYS):
        assert not credit.advantages.any()


@pytest.mark.parametrize("kind", ["token_tis", "sequence_tis", "token_mask", "sequence_mask", "geometric_mask"])
def test_nan_in_the_samplers_logprobs_weighs_one_and_is_counted(kind):
    clean = batch([5, 3, 7, 2], [1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1])
    sampled = clean.old_logprobs.clone()
    sampled[1, :3] = torch.nan
    sampled[2, 1] = torch.inf
    broken = clean.replace(sampler_logprobs=sampled)
    credit = Pipeline(["grpo"])(broken)
    logprobs = clean.old_logprobs.clone().requires_grad_()
    objective = Objective(mismatch={"kind": kind})
    out = objective(logprobs, broken, credit)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(logprobs.grad).all()
    plain = clean.old_logprobs.clone().requires_grad_()
    Objective()(plain, clean, credit).loss.backward()
    assert torch.allclose(logprobs.grad[1], plain.grad[1])  # nothing is known of this response: weight 1
    counted = [value for name, value in out.metrics.items() if "missing" in name or "finite" in name]
    assert counted
    assert max(counted) > 0


def test_a_method_whose_signal_no_strategy_gives_is_one_line():
    with pytest.raises(ValueError, match=r"add 'spo_chain' to rollout.strategies"):
        config.load("easy_vqa", overrides=["credit=[spo_chain]"])
