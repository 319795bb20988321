"""Strategies that sample more, in real runs of a text model and a vision-language model."""

from __future__ import annotations

import json

import pytest
import torch
from runs import metrics
from strategy_runs import make, run_config

from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.rollout.batch import Ask, join
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.strategies.base import Strategy
from mmcredit.rollout.strategies.spo_chain import SPOChainContinuations
from mmcredit.train.loop import Trainer

CHAIN = {"spo_chain": {"interval": 2, "samples": 3, "unfinished": None}}
TREE = {"spo_tree": {"branching": [3, 2], "edges_per_prompt": 4}}
# No step of an untrained model ends with an empty line: here a step ends with a vowel of its text.
PROBES = {"spae_probes": {"mark": "e", "closing": "", "samples": 2, "probe_tokens": 3, "accuracy": "reward"}}
RUNS = [
    (CHAIN, {"spo_chain": {"whiten": "none"}}, ("boundaries", "states", "responses", "tokens")),
    (TREE, {"spo_tree": {"advantage": "grpo"}}, ("segments", "leaves", "tokens")),
    (PROBES, "spae", ("contexts", "responses", "tokens", "scored")),
]
KINDS = ["text", "vlm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("strategy", "credit", "amounts"), RUNS, ids=["chain", "tree", "probes"])
def test_a_run_trains_and_says_what_it_spent(tmp_path, kind, strategy, credit, amounts):
    trainer = make(tmp_path, kind, rollout__strategies=[strategy], credit=[credit], rollout__sampling__top_p=0.9)
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert len(rows) == 3
    assert all(row["policy/grad_norm"] > 0 and row["credit/nonzero_fraction"] > 0 for row in rows)
    assert all(row["mismatch/kl"] < 1e-6 for row in rows if "spo_tree" not in strategy or row["step"] == 0)
    name = next(iter(strategy))
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    spent = cost["stages"][f"rollout/{name}"]
    for amount in amounts:
        noted = [row[f"rollout/{name}/{amount}"] for row in rows]
        assert min(noted) > 0
        assert spent[amount] == sum(noted)
    assert spent["tokens"] <= cost["stages"]["rollout"]["tokens"]  # the whole stage, extra rollouts included
    if name == "spae_probes":
        assert cost["passes"]["probes"]["forwards"] > 0
        assert cost["stages"]["probes"]["seconds"] > 0


@pytest.mark.parametrize("strategy", [CHAIN, TREE, PROBES], ids=["chain", "tree", "probes"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path, strategy):
    name = next(iter(strategy))
    credit = ["spae" if name == "spae_probes" else name]
    folders = {}
    for mode in ("whole", "cut"):
        folder = folders[mode] = tmp_path / mode
        folder.mkdir()
        changes = {
            "credit": credit,
            "rollout__strategies": [strategy],
            "run__steps": 4,
            "rollout__prompts": 2,
            "checkpoint__every": 2,
        }
        trainer = make(folder, "text", **changes)
        if mode == "whole":
            trainer.run()
            continue
        run = trainer.stage.run

        def stopped(step, run=run):
            if step == 3:
                raise KeyboardInterrupt
            return run(step)

        trainer.stage.run = stopped
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        Trainer(run_config(folder, "text", **changes), resume=True).run()
    expected = metrics(folders["whole"] / "run")
    assert metrics(folders["cut"] / "run") == expected
    if name == "spo_tree":  # what waited in the checkpoint was trained on afterwards
        assert expected[1]["rollout/spo_tree/waiting_edges"] > 0
        assert expected[3]["rollout/spo_tree/waiting_edges"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_continuations_score_as_they_were_sampled(tmp_path, kind):
    """Log-probs of tokens behind a prefix, as the sampler reports them, are those of the score pass."""
    trainer = make(tmp_path, kind)
    stage, policy = trainer.stage, trainer.parts.policy
    batch = stage.run(0)
    tokens = batch.rollouts.tokens
    asks = []
    for row, length in ((0, 3), (1, 5), (5, 1)):
        group = int(batch.rollouts.group[row])
        prefix = tuple(tokens[row, :length].tolist())
        asks.append(Ask(batch.samples[group], batch.prompts[group], (7, 8, 9), prefix=prefix))
    found = stage.sample(asks)
    rollouts = found.rollouts
    scored = policy.score(found.prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    torch.testing.assert_close(
        rollouts.sampler_logprobs[rollouts.mask], scored[CLEAN]["logprobs"][rollouts.mask], atol=1e-5, rtol=0
    )
    assert rollouts.mask.sum() > 9
    trainer.close()


def test_a_limit_of_its_own_cuts_the_response_and_nothing_else(tmp_path):
    trainer = make(tmp_path, "text")
    engine = trainer.parts.engine
    prompts = [p for _, p in trainer.stage.take(3)]
    sampling = Sampling(max_new_tokens=12, stop_token_ids=tuple(range(40, 90)))
    whole = engine.generate([Request(p, range(6), tag=i) for i, p in enumerate(prompts)], sampling)
    limits = (3, None, 7)
    told = []
    short = engine.generate(
        [Request(p, range(6), tag=i, limit=limits[i]) for i, p in enumerate(prompts)], sampling, told.append
    )
    assert sum(told) == len(short) == 18
    for a, b in zip(whole, short, strict=True):
        limit = limits[b.tag] or 12
        assert b.tokens == a.tokens[:limit]
        assert b.logprobs == pytest.approx(a.logprobs[:limit], abs=1e-5)
        cut = len(a.tokens) > limit or a.finish == "length"
        assert b.finish == ("length" if cut else "stop")
    assert {r.finish for r in whole} == {"stop", "length"}  # both ways of ending are among them
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        engine.generate([Request(prompts[0], [1], limit=0)], sampling)
    trainer.close()


def test_a_state_is_sampled_from_once_and_read_once(tmp_path):
    """Five responses share their beginnings: as many states as there are different prefixes, each one stem of the
    engine, whose prefix one forward reads whatever the number of continuations."""
    trainer = make(tmp_path, "text", rollout__prompts=1, rollout__group=5)
    stage, engine = trainer.stage, trainer.parts.engine
    batch = stage.run(0)
    tokens = batch.rollouts.tokens[:1].repeat(5, 1)
    tokens[3:, 4:] = batch.rollouts.tokens[3:, 4:]
    same = torch.ones_like(tokens, dtype=torch.bool)
    rollouts = batch.rollouts.replace(tokens=tokens, mask=same, valid=same, sampler_logprobs=same * -1.0)
    batch = batch.replace_rollouts(rollouts)
    distinct = {tuple(row[:t]) for row in tokens.tolist() for t in range(0, 8, 2)}
    assert len(distinct) == 4 + 2  # 0, 2, 4 and 6 tokens; the two last rows go their own way after 4
    shapes = []
    body = trainer.parts.policy.body.language_model
    for samples in (1, 4):
        strategy = SPOChainContinuations(interval=2, samples=samples, unfinished=None)
        before = dict(engine.counts)
        shapes.clear()
        hook = body.register_forward_pre_hook(
            lambda m, a, k: shapes.append(tuple(k["inputs_embeds"].shape[:2])), with_kwargs=True
        )
        stage.notes.clear()
        found = strategy([], lambda asks: batch, stage)
        hook.remove()
        assert stage.notes["rollout/spo_chain/boundaries"] == 20
        assert stage.notes["rollout/spo_chain/states"] == 6
        assert stage.notes["rollout/spo_chain/responses"] == 6 * samples
        read = {key: engine.counts[key] - before[key] for key in before}
        assert (read["prompts"], read["prefixes"]) == (1, 5)
        assert read["prefix_tokens"] == sum(map(len, distinct))
        assert shapes[0][0] == 1  # the prompt
        assert shapes[1] == (6, 6)  # the prefixes of all states, the prompt's empty one among them
        assert shapes[2] == (6 * samples, 1)
        value = found.rollouts.signal("boundary_value")
        assert torch.equal(value[0], value[1])
        assert torch.equal(value[3, :3], value[0, :3])
    trainer.close()


def test_values_do_not_depend_on_the_rest_of_the_batch(tmp_path):
    trainer = make(tmp_path, "vlm")
    batch = trainer.stage.run(0)
    strategy = SPOChainContinuations(interval=1, samples=2, unfinished=None)
    whole = strategy([], lambda asks: batch, trainer.stage).rollouts
    rows = [9, 2, 5]
    part = strategy([], lambda asks: batch.select(rows), trainer.stage).rollouts
    slots = part.signal("boundary_index").shape[1]
    assert torch.equal(part.signal("boundary_index"), whole.signal("boundary_index")[rows, :slots])
    torch.testing.assert_close(part.signal("boundary_value"), whole.signal("boundary_value")[rows, :slots])
    trainer.close()


def test_rows_without_their_own_logprobs_are_scored(tmp_path):
    """Responses sampled from another image are cut where the policy, which sees the real one, is uncertain."""
    trainer = make(tmp_path, "vlm")
    stage = trainer.stage
    batch = stage.run(0)
    unknown = torch.zeros(len(batch), dtype=torch.bool)
    unknown[[1, 6]] = True
    hidden = batch.rollouts.sampler_logprobs.masked_fill(unknown[:, None] & batch.rollouts.mask, torch.nan)
    strategy = SPOChainContinuations(rho=0.01, interval=1, samples=1, unfinished=None)
    expected = strategy([], lambda asks: batch, stage).rollouts
    stage.notes.clear()
    found = strategy(
        [], lambda asks: batch.replace_rollouts(batch.rollouts.replace(sampler_logprobs=hidden)), stage
    ).rollouts
    assert torch.equal(found.signal("boundary_index"), expected.signal("boundary_index"))
    assert int((expected.signal("boundary_index")[unknown] != -2).sum()) > 0
    assert stage.notes["rollout/spo_chain/scored"] == 2
    assert trainer.parts.policy.costs.read()["spo_chain"]["positions"] == int(batch.rollouts.mask[unknown].sum())
    trainer.close()


class Twice(Strategy):
    """Asks for two prompts more and joins, as dynamic sampling does."""

    def __call__(self, asks, rest, stage):
        more = rest(stage.asks(stage.take(2)))
        first = rest(asks)
        return join([first, more], stage.policy.tokenizer.pad_token_id)


@pytest.mark.parametrize("strategy", [CHAIN, TREE, PROBES], ids=["chain", "tree", "probes"])
def test_a_strategy_outside_may_ask_again(tmp_path, strategy):
    name = next(iter(strategy))
    credit = ["spae" if name == "spae_probes" else name]
    trainer = make(tmp_path, "text", rollout__strategies=[strategy], credit=credit, rollout__prompts=2)
    trainer.parts.strategies.insert(0, Twice())
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert all(row["policy/grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layers",
    [
        ["dynamic_sampling", CHAIN],
        [CHAIN, "dynamic_sampling"],
        ["dynamic_sampling", PROBES],
        [PROBES, "dynamic_sampling"],
        ["dynamic_sampling", TREE],
    ],
    ids=["dynamic-chain", "chain-dynamic", "dynamic-probes", "probes-dynamic", "dynamic-tree"],
)
def test_dynamic_sampling_on_either_side(tmp_path, kind, layers):
    """A reward that is mostly constant in a group, so that rounds are made; rows keep their signals throughout."""
    (name,) = (next(iter(layer)) for layer in layers if isinstance(layer, dict))
    (tmp_path / "rare.py").write_text("def rare(item):\n    return float(item.response[:1] in 'aeiou')\n")
    trainer = make(
        tmp_path,
        kind,
        run__steps=1,
        rewards=[{"function": {"path": f"{tmp_path / 'rare.py'}:rare"}}],
        rollout__strategies=layers,
        credit=["spae" if name == "spae_probes" else name],
        rollout__prompts=2,
    )
    batch = trainer.stage.run(0)
    assert trainer.stage.notes["rollout/dynamic_sampling/rounds"] > 1
    assert trainer.stage.notes[f"rollout/{name}/tokens"] > 0
    for signal, value in batch.rollouts.signals.items():
        if name == "spo_chain":
            again = SPOChainContinuations(**CHAIN["spo_chain"])([], lambda asks: batch, trainer.stage)
            other = again.rollouts.signal(signal)
            slots = min(other.shape[1], value.shape[1])
            torch.testing.assert_close(other[:, :slots], value[:, :slots])
        assert len(value) == len(batch)
    credit = trainer.parts.pipeline(batch.rollouts.replace(old_logprobs=batch.rollouts.sampler_logprobs), 0, 1)
    assert bool((credit.advantages != 0).any())
    trainer.close()


def test_a_truncated_batch_of_nothing_but_zeros_is_no_accident(tmp_path):
    """All responses cut off, worth 0 as in the paper: every value and every advantage is 0, the step does nothing."""
    trainer = make(
        tmp_path,
        "text",
        run__steps=1,
        rollout__strategies=[{"spo_chain": {"samples": 1, "cut": "fixed"}}],
        credit=["spo_chain"],
        rollout__sampling={"max_new_tokens": 2},
    )
    trainer.run()
    (row,) = metrics(tmp_path / "run")
    assert row["response/truncated"] == 1
    assert row["rollout/spo_chain/responses"] > 0
    assert row["reward/part/function"] > 0  # as judged
    assert row["reward/mean"] == row["credit/nonzero_fraction"] == row["policy/grad_norm"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rho": 0}, "rho"),
        ({"interval": 0}, "interval"),
        ({"cut": "sentence"}, "cut"),
        ({"unfinished": float("nan")}, "unfinished"),
        ({"intervall": 3}, "did you mean 'interval'"),
    ],
)
def test_bad_chain_configs(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        run_config(tmp_path, "text", credit=["spo_chain"], rollout__strategies=[{"spo_chain": fields}])


def test_settings_that_a_chain_cannot_serve(tmp_path):
    with pytest.raises(ValueError, match=r"min_new_tokens is 3, but continuations of strategy 'spo_chain'"):
        run_config(
            tmp_path, "text", credit=["spo_chain"], rollout__strategies=["spo_chain"],
            rollout__sampling={"max_new_tokens": 8, "min_new_tokens": 3},
        )  # fmt: skip
    with pytest.raises(ValueError, match="add 'spo_chain' to rollout.strategies"):
        run_config(tmp_path, "text", credit=["spo_chain"])
