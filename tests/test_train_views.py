"""Corrupted and masked views in an update: gradients, passes, tower calls, and the identities in real runs."""

import json

import pytest
import torch
from policy_cases import make_policy, rollouts_for, samples
from runs import metrics, parse

from mmcredit import Objective
from mmcredit.config import TrainBlock
from mmcredit.credit import Pipeline
from mmcredit.policy.passes import CLEAN, MASKED, Pass, View, corrupted
from mmcredit.policy.views import furnish_views
from mmcredit.rollouts import Credit
from mmcredit.seeds import derive
from mmcredit.train.engines.local import LocalEngine
from mmcredit.train.loop import Trainer
from mmcredit.train.update import Updater
from mmcredit.train.view_passes import VIEW_PASSES
from mmcredit.views.images import CorruptedView


def batch(family="qwen2_5_vl", **options):
    """A policy, prompts with one, no, one and two images, and eleven responses, six of them right."""
    policy = make_policy(family, **options)
    known = samples(family)
    prompts = [policy.encode(s) for s in known]
    rollouts = rollouts_for(policy, 4, [[5, 3, 6], [4, 2], [6, 1, 4], [3, 5, 2]]).replace(samples=tuple(known))
    right = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1])
    return policy, prompts, rollouts.replace(rewards=right, reward_parts={"accuracy": right})


def updater(policy, objective, budget=60, **options):
    """An updater that keeps the gradients of its last step in `gradients` and changes no weights."""
    config = TrainBlock(learning_rate=1e-9, max_grad_norm=None)
    engine = LocalEngine(policy.trainable_parameters(), config, 10)
    settings = {"mini_batches": 1, "epochs": 1, "token_budget": budget, "temperature": 0.9, "seed": 7} | options
    found = Updater(policy, engine, Pipeline(["grpo"]), objective, **settings)
    take = engine.step

    def step():
        found.gradients = [None if p.grad is None else p.grad.clone() for p in engine.parameters]
        return take()

    engine.step = step
    return found


def old_values(policy, prompts, rollouts):
    """Old log-probs and view signals a little off the present policy, so that ratios differ from 1."""
    asked = [Pass(v, frozenset({"logprobs"})) for v in (CLEAN, corrupted(0), corrupted(1))]
    found = policy.score(prompts, rollouts, asked, temperature=0.9)
    noise = torch.Generator().manual_seed(5)
    values = [found[p.view]["logprobs"] for p in asked]
    values = [v + 0.3 * torch.randn(v.shape, generator=noise) for v in values]
    return rollouts.replace(old_logprobs=values[0], signals={"view_logprobs": torch.stack(values[1:])})


def at_once(policy, objective, prompts, rollouts, credit, views):
    """Gradient of the loss with every view in one graph."""
    generator = torch.Generator().manual_seed(derive(7, "regularizers", 0, 0, 0))
    weights = objective.weights(rollouts, credit)
    prepared = objective.prepare(rollouts, credit, weights, 0.5, generator)
    outputs = {VIEW_PASSES[name] for name in objective.needs().passes}
    asked = [Pass(CLEAN, frozenset({"logprobs"})), *(Pass(corrupted(k), frozenset(outputs)) for k in range(views))]
    found = policy.forward(prompts, rollouts, range(len(rollouts)), asked, temperature=0.9)
    passes = {
        name: torch.stack([found[corrupted(k)][VIEW_PASSES[name]] for k in range(views)])
        for name in objective.needs().passes
    }
    out = objective(found[CLEAN]["logprobs"], rollouts, credit, passes, weights, 0.5, prepared)
    policy.model.zero_grad()
    out.loss.backward()
    gradients = [p.grad.clone() for p in policy.trainable_parameters().values()]
    policy.model.zero_grad()
    return gradients, float(out.loss.detach())


SWITCHES = [
    {},
    {"kl": {"coef": 0.3, "view_max": "sample"}},
    {"kl": {"coef": 0.3, "view_max": "batch"}},
    {"kl": {"coef": 0.3, "view_max": "logsumexp"}, "aux": {"coef": 0.2, "view": "worst"}},
    {"kl": {"coef": 0.3, "grad": "both"}, "aux": {"coef": 0.2, "form": "ratio_clean"}},
    {"kl": {"coef": 0.3, "grad": "clean"}, "aux": {"coef": 0.2, "form": "ratio_view", "mask": "all"}},
    {"kl": {"coef": 0.3, "estimator": "full"}},
    {"views": 1},
    {"views": 1, "kl": {"coef": 0.3, "grad": "both"}},
    {"views": 3, "kl": 0.0},
    {"aux": 0.0},
]


@pytest.mark.parametrize("budget", [60, 400])
@pytest.mark.parametrize("fields", SWITCHES, ids=json.dumps)
def test_views_in_turn_and_together_have_the_gradient_of_one_graph(fields, budget):
    """The small budget holds no prompt twice (views in turn), the large one several (together, in micro-batches)."""
    policy, prompts, rollouts = batch()
    fields = {"kl": 0.3, "aux": 0.2, "severity": [4, 5]} | fields
    objective = Objective(regularizers=[{"roma": fields}])
    views = fields.get("views", 2)
    furnish_views(policy, objective.needs().views, seed=3)
    if fields["aux"] != 0.0 and views == 2:
        rollouts = old_values(policy, prompts, rollouts)
    credit = Pipeline(["grpo"])(rollouts, 0, 10)
    wanted, loss = at_once(policy, objective, prompts, rollouts, credit, views)
    plain, _ = at_once(policy, Objective(), prompts, rollouts, credit, 0)
    one = updater(policy, objective, budget)
    found, _ = one(prompts, rollouts, credit, 0, 0.5)
    assert found["policy/loss"] == pytest.approx(loss, abs=1e-5)
    for got, want in zip(one.gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    # and the regularizer does something at all
    assert max(float((w - p).abs().max()) for w, p in zip(wanted, plain, strict=True)) > 1e-4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("entropy", ["sampled", "full"])
def test_papo_in_micro_batches_has_the_gradient_of_the_whole(family, entropy):
    policy, prompts, rollouts = batch(family)
    objective = Objective(regularizers=[{"papo": {"gamma": 0.5, "entropy": entropy}}])
    furnish_views(policy, objective.needs().views, seed=3)
    credit = Pipeline(["grpo"])(rollouts, 0, 10)
    weights = objective.weights(rollouts, credit)
    outputs = frozenset({"logprobs", "entropy"})
    asked = [Pass(CLEAN, outputs), Pass(MASKED, outputs)]
    found = policy.forward(prompts, rollouts, range(len(rollouts)), asked, temperature=0.9)
    passes = {
        "masked_logprobs": found[MASKED]["logprobs"],
        "masked_entropy": found[MASKED]["entropy"],
        "entropy": found[CLEAN]["entropy"],
    }
    objective(found[CLEAN]["logprobs"], rollouts, credit, passes, weights, 0.5).loss.backward()
    wanted = [p.grad.clone() for p in policy.trainable_parameters().values()]
    policy.model.zero_grad()
    one = updater(policy, objective, budget=150)
    one(prompts, rollouts, credit, 0, 0.5)
    for got, want in zip(one.gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def tokens_of(rollouts, rows):
    return int(rollouts.valid[rows].sum())


@pytest.mark.parametrize(
    ("fields", "budget", "forwards", "times"),
    [
        ({}, 10_000, [1, 1], 2),
        ({}, 80, None, None),  # in turn: values first, and of the gradients only those that are not 0
        ({"kl": {"coef": 0.3, "view_max": "sample"}}, 10_000, None, 3),  # cheap: one view with gradient per response
        ({"views": 1}, 10_000, [1], 1),
        ({"views": 1}, 60, [3], 1),
    ],
    ids=str,
)
def test_only_right_answers_about_images_run_the_view_passes(fields, budget, forwards, times):
    policy, prompts, rollouts = batch()
    objective = Objective(regularizers=[{"roma": {"kl": 0.3, "aux": 0.2} | fields}])
    furnish_views(policy, objective.needs().views, seed=3)
    credit = Pipeline(["grpo"])(rollouts, 0, 10)
    policy.costs.reset()
    updater(policy, objective, budget)(prompts, rollouts, credit, 0, 0.5)
    cost = policy.costs.read()
    rows = [i for i in range(11) if rollouts.rewards[i] == 1 and prompts[int(rollouts.group[i])].media_keys]
    assert rows == [0, 2, 6, 7, 10]
    viewed = [c for name, c in cost.items() if name.startswith("corrupted")]
    positions, once = sum(c["positions"] for c in viewed), tokens_of(rollouts, rows)
    if times is None:
        assert 2 * once < positions <= 4 * once
    else:
        assert positions == times * once
    if forwards is not None:
        assert [c["forwards"] for c in viewed] == forwards
    assert cost["clean"]["positions"] <= tokens_of(rollouts, range(11))


def test_no_success_no_views():
    policy, prompts, rollouts = batch()
    wrong = torch.zeros(11)
    rollouts = rollouts.replace(rewards=wrong, reward_parts={"accuracy": wrong})
    advantages = torch.where(rollouts.mask, 1.0, 0.0)
    objective = Objective(regularizers=["roma"])
    furnish_views(policy, objective.needs().views, seed=3)
    policy.costs.reset()
    found, _ = updater(policy, objective)(prompts, rollouts, Credit(advantages, rollouts.mask), 0, 0.5)
    assert set(policy.costs.read()) == {"clean"}
    assert found["policy/roma_kl"] == found["policy/roma_aux"] == 0


def run(tmp_path, name, **changes):
    """A run in its own folder, and the weights it ended with."""
    folder = tmp_path / name
    folder.mkdir()
    trainer = Trainer(parse(folder, **{"check__parity": False, "check__image_probe": False} | changes))
    trainer.run()
    return trainer, {n: p.detach().clone() for n, p in trainer.parts.policy.model.named_parameters()}


SOME = {"success": {"threshold": 0.1}, "warmup_frac": 0.0}  # the vowels reward is above it for some responses
ROMA = {"roma": SOME}


@pytest.mark.parametrize("frozen", [True, False])
def test_methods_share_their_passes(tmp_path, frozen):
    """PGPO + VPPO + ROMA: one blind and one masked pass, K views, and none of them twice."""
    trainer, _ = run(
        tmp_path,
        "all",
        run__steps=2,
        model__freeze_vision=frozen,
        credit=["grpo", "pgpo", "vppo"],
        objective__regularizers=[ROMA],
    )
    cost = trainer.parts.policy.costs.read()
    steps = 2
    assert set(cost) == {"rollout", "clean", "blind", "masked", "corrupted", "corrupted#1"}
    forwards = {name: cost[name]["forwards"] / steps for name in cost}
    # clean: old log-probs and update
    assert forwards.pop("rollout") > 0  # prefill and decode steps
    assert forwards == {"clean": 2, "blind": 1, "masked": 1, "corrupted": 1, "corrupted#1": 1}
    towers = {name: cost[name]["tower_calls"] / steps for name in cost}
    if frozen:  # an image once for every view; the clean ones were encoded for the sampler
        assert towers["clean"] == towers["blind"] == 0
        assert [towers[name] for name in ("masked", "corrupted", "corrupted#1")] == [1, 1, 1]
        # as many patches as the clean images have: per prompt, not per response
        assert cost["masked"]["patches"] == cost["corrupted"]["patches"] == cost["corrupted#1"]["patches"]
        assert cost["masked"]["patches"] == 4 * steps * 16  # four prompts of 64 x 64 pixels
    else:  # with gradient a trained tower runs for the update, too
        assert towers == {"rollout": 1, "clean": 1, "blind": 0, "masked": 1, "corrupted": 1, "corrupted#1": 1}


def test_features_of_the_last_step_are_forgotten(tmp_path):
    trainer, _ = run(tmp_path, "one", run__steps=3, model__freeze_vision=True, objective__regularizers=[ROMA])
    vision = trainer.parts.policy.body.vision
    viewed = [key for _, key in vision._cache if "|corrupted" in key]
    assert 0 < len(viewed) <= 4 * 2
    trainer.parts.views.begin(3)
    assert not [key for _, key in vision._cache if "|corrupted" in key]
    assert vision._held == sum(feature.bytes for feature in vision._cache.values())


IDENTITIES = {
    "roma off": {"objective__regularizers": [{"roma": {"kl": 0, "aux": 0}}]},
    "no view": {"objective__regularizers": [{"roma": {"views": 0}}]},
    "identical views": {"objective__regularizers": [{"roma": {"kl": 1.0, "aux": 0, "severity": [0, 0]} | SOME}]},
    "no patch is black": {"credit": ["grpo", {"vppo": {"keep": 1, "bmin": 1, "probability": 0.0}}]},
    "papo off": {"objective__regularizers": [{"papo": {"gamma": 0, "eta_ori": 0, "eta_aug": 0}}]},
    "pgpo off": {"credit": ["grpo", {"pgpo": {"tau": 0, "beta": 0}}]},
}


def test_identities_in_a_run(tmp_path):
    """Switched off, or with nothing to see, every method is GRPO, bit for bit."""
    _, plain = run(tmp_path, "grpo", train__mini_batches=2)
    for name, changes in IDENTITIES.items():
        _, weights = run(tmp_path, name, train__mini_batches=2, **changes)
        assert all(torch.equal(plain[n], weights[n]) for n in plain), name
    changed = {"objective__regularizers": [{"roma": {"kl": 1.0, "aux": 0} | SOME}]}
    _, weights = run(tmp_path, "on", train__mini_batches=2, **changed)
    assert not all(torch.equal(plain[n], weights[n]) for n in plain)


def test_prompts_without_images_in_a_run(tmp_path):
    """A vision-language model on text: no view has anything to show, and GRPO is left."""
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i} + {i} =", "answer": str(2 * i)}) + "\n" for i in range(20))
    )
    source = {"jsonl": {"path": str(tmp_path / "train.jsonl")}}
    _, plain = run(tmp_path, "grpo", data__train=source)
    every = {"credit": ["grpo", "pgpo", "vppo"], "objective__regularizers": [ROMA, {"papo": {"eta_ori": 0}}]}
    every["objective__regularizers"][1]["papo"]["probability"] = 0.5  # as VPPO's: one masked view for both
    trainer, weights = run(tmp_path, "all", data__train=source, **every)
    assert {n for n, c in trainer.parts.policy.costs.read().items() if c["forwards"]} == {"clean", "rollout"}
    assert all(torch.allclose(plain[n], weights[n], atol=1e-7) for n in plain)
    alone = {"credit": ["grpo", "pgpo", "vppo"], "objective__regularizers": [ROMA]}
    _, weights = run(tmp_path, "three", data__train=source, **alone)
    assert all(torch.equal(plain[n], weights[n]) for n in plain)


def test_a_run_resumes_bit_for_bit(tmp_path):
    changes = {"run__steps": 4, "objective__regularizers": [ROMA, "papo"], "credit": ["grpo", "pgpo"]}
    _, whole = run(tmp_path, "whole", **changes, checkpoint__every=2)
    folder = tmp_path / "parts"
    folder.mkdir()
    settings = {"check__parity": False, "check__image_probe": False, "checkpoint__every": 2} | changes
    config = parse(folder, **settings)
    trainer = Trainer(config)
    for step in range(2):
        trainer._one_step(step)
        trainer.step += 1
    trainer.save()
    trainer.close()
    Trainer(config, resume=True).run()
    resumed = Trainer(config, resume=True)
    found = dict(resumed.parts.policy.model.named_parameters())
    resumed.close()
    assert all(torch.equal(whole[n], found[n].detach()) for n in whole)


def test_metrics_say_what_the_views_did(tmp_path):
    run(tmp_path, "one", objective__regularizers=[ROMA, "papo"])
    row = metrics(tmp_path / "one" / "run")[-1]
    assert 0 < row["policy/roma_success"] <= 1
    assert row["policy/roma_worst_0"] + row["policy/roma_worst_1"] == pytest.approx(1.0)
    assert row["policy/roma_divergence_0"] > 0
    assert row["policy/papo_masked_entropy"] > 0


def test_disagreement_about_a_view_is_a_config_error(tmp_path):
    with pytest.raises(ValueError, match=r"want the view 'masked' with different settings: probability=0.5 .*0.6"):
        parse(tmp_path, credit=["grpo", "vppo"], objective__regularizers=["papo"])
    parse(tmp_path, credit=["grpo", "vppo"], objective__regularizers=[{"papo": {"probability": 0.5}}])
    with pytest.raises(ValueError, match=r"reads reward part 'accuracy'; this run has \['function'\]"):
        parse(tmp_path, objective__regularizers=[{"roma": {"success": {"key": "accuracy"}}}])


def test_settings_reach_the_views(tmp_path):
    config = parse(
        tmp_path,
        credit=["grpo", {"vppo": {"probability": 0.25, "patch_size": 7}}],
        objective__regularizers=[{"roma": {"operators": ["jpeg"], "severity": [2, 2]}}],
    )
    trainer = Trainer(config)
    views = trainer.parts.views
    trainer.close()
    assert (views.settings["masked"].probability, views.settings["masked"].patch_size) == (0.25, 7)
    assert views.settings["corrupted"] == CorruptedView(operators=["jpeg"], severity=(2, 2))
    assert views.draw(View("corrupted", 1), "x").label == "jpeg:2"
