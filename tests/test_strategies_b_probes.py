"""Strategy spae_probes: where steps end, what a probe measures, and what is not probed."""

from __future__ import annotations

import math

import pytest
import torch
from canned_stage import CannedStage, prompt, sample
from runs import parse
from strategy_runs import make
from tiny import tiny_tokenizer

from mmcredit.rollout.batch import Batch, join
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.strategies.continuations import State
from mmcredit.rollout.strategies.spae_probes import SPAEProbes
from mmcredit.rollout.strategies.spae_probes.extended_prompt import extend
from mmcredit.rollout.strategies.spae_probes.probes import probe
from mmcredit.rollout.strategies.spae_probes.reasoning_steps import StepFinder, Steps
from mmcredit.rollouts import Rollouts


def finder(tokenizer, mark=".\n\n", closing="</think>"):
    return StepFinder(mark, closing, tokenizer, len(tokenizer), torch.device("cpu"))


def test_steps_end_where_the_text_does():
    tokenizer = tiny_tokenizer()
    text = "first 3 + 4.\n\nthen red.\n\nso it is 7 </think> the answer.\n\n is 7"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    steps = finder(tokenizer)(ids, [True] * len(ids))
    assert [tokenizer.decode(ids[: end + 1]) for end in steps.ends] == [
        "first 3 + 4.\n\n",
        "first 3 + 4.\n\nthen red.\n\n",
    ]
    assert tokenizer.decode(ids[: steps.thought]).endswith("</think>")
    numbers = steps.ids(len(ids))
    assert len(numbers) == len(ids)
    parts = ["".join(tokenizer.decode([i]) for i, n in zip(ids, numbers, strict=True) if n == k) for k in (0, 1, 2, -1)]
    assert parts == ["first 3 + 4.\n\n", "then red.\n\n", "so it is 7 </think>", " the answer.\n\n is 7"]

    # Without the closing mark the whole response is searched, also where no token spells the mark alone.
    pieces = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("red.", "\n", "\n", "blue", ".\n", "\n")]
    ids = [i for piece in pieces for i in piece]
    steps = finder(tokenizer)(ids, [True] * len(ids))
    assert [tokenizer.decode(ids[: end + 1]) for end in steps.ends] == ["red.\n\n", "red.\n\nblue.\n\n"]
    assert steps.thought == len(ids)
    assert -1 not in steps.ids(len(ids))
    # A mark of inserted tokens ends nothing, an empty response has no step, and one without a mark neither.
    assert finder(tokenizer)(ids, [True] * (len(ids) - 1) + [False]).ends == steps.ends[:1]
    assert finder(tokenizer)([], []).ids(0) == []
    assert finder(tokenizer)(ids[:1], [True]).ids(1) == [-1]


def test_too_many_steps_are_merged_and_the_last_boundary_stays():
    steps = Steps((1, 3, 5, 7, 9), 12)
    assert steps.merged(5) is steps
    assert steps.merged(3).ends == (1, 5, 9)
    assert steps.merged(2).ends == (3, 9)
    assert steps.merged(1).ids(14) == [0] * 10 + [1, 1] + [-1, -1]
    assert steps.merged(3).ids(12) == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_the_single_probe_of_the_spec():
    """Entropies .2, .1, 0 give exp(-.1); answer tokens of probability .9 and .8 give .85."""
    said = {(1, 2, 3): (0.2, 0.1, 0.0), (7, 8): (math.log(0.9), math.log(0.8))}

    class Stage(CannedStage):
        def measure(self, name, prompts, rollouts, outputs, temperature):
            self.asked = (name, rollouts, temperature)
            assert [p.tokens.tolist() for p in prompts] == [[0, 1, 2, 5, 6]]
            assert prompts[0].next_position == 5
            rows = [tuple(t[v].tolist()) for t, v in zip(rollouts.tokens, rollouts.valid, strict=True)]
            values = torch.zeros(rollouts.tokens.shape)
            for i, row in enumerate(rows):
                values[i, : len(row)] = torch.tensor(said[row])
            return {"logprobs": values, "entropy": values}

    stage = Stage(lambda ids: 3.0 * ids[-1], lambda request, member: ([1, 2, 3], "length"))
    batch = Batch([sample()], [prompt()], None, [])
    contexts = [State(0, (5, 6), 10)]
    found = probe(contexts, batch, {0: (7, 8)}, 5, Sampling(max_new_tokens=10), "t", stage)
    assert found.confidence == [pytest.approx(0.904837, abs=1e-6)]
    assert found.accuracy == [pytest.approx(0.85)]
    assert (found.responses, found.tokens, found.scored, found.forced) == (5, 15, 1, 1)  # equal probes scored once
    assert stage.asked[0] == "probes"
    rewarded = probe(contexts, batch, None, 5, Sampling(max_new_tokens=10), "t", stage)
    assert rewarded.accuracy == [pytest.approx(1.0)]  # a total reward of 9 is kept within [0, 1]
    assert rewarded.forced == 0


TEXT = "red is 3.\n\nblue is 4.\n\nso </think> 7"


def crafted(trainer, texts, rewards, answers=("7",)):
    """A batch of given texts to the first prompts of the run, with their own answers."""
    from dataclasses import replace

    policy = trainer.parts.policy
    pairs = trainer.stage.take(len(answers))
    samples = [replace(s, answer=answer) for (s, _), answer in zip(pairs, answers, strict=True)]
    ids = [policy.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    width = max(map(len, ids))
    valid = torch.tensor([[t < len(row) for t in range(width)] for row in ids])
    rollouts = Rollouts(
        tokens=torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        mask=valid,
        group=torch.arange(len(texts)) * len(answers) // len(texts),
        rewards=torch.tensor(rewards),
        samples=tuple(samples),
    )
    return Batch(samples, [p for _, p in pairs], rollouts, list(texts))


@torch.no_grad()
def reference(policy, prompt, prefix, tokens, temperature):
    """Log-probs and entropies of `tokens` behind prompt + prefix, by a plain forward of the whole model."""
    ids = torch.cat([prompt.tokens, torch.tensor([*prefix, *tokens])])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if policy.processor is not None:
        types = torch.zeros_like(ids)
        types[0, : len(prompt)] = prompt.visual
        inputs |= {**prompt.media, "mm_token_type_ids": types}
    logits = policy.model(**inputs).logits[0, -len(tokens) - 1 : -1].float() / temperature
    logits[:, list(policy.suppressed_ids)] = -1e30
    log_p = logits.log_softmax(-1)
    return log_p.gather(1, torch.tensor(tokens)[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("kind", ["text", "vlm"])
def test_accuracy_and_confidence_are_those_of_a_plain_forward(tmp_path, kind):
    temperature = 0.8
    trainer = make(tmp_path, kind, rollout__sampling={"max_new_tokens": 40, "temperature": temperature})
    policy, stage = trainer.parts.policy, trainer.stage
    batch = crafted(trainer, [TEXT, TEXT[:9], "red", ""], [1.0, 0.0, 0.0, 0.0])
    strategy = SPAEProbes(samples=3, probe_tokens=4)
    signals = strategy([], lambda asks: batch, stage).rollouts.signals
    accuracy, confidence = signals["step_accuracy"], signals["step_confidence"]
    assert accuracy.shape == (4, 2)
    assert (
        accuracy.isnan().tolist()
        == confidence.isnan().tolist()
        == [[False, False], [True, True], [True, True], [True] * 2]
    )
    assert [sorted(set(row)) for row in signals["step_id"].tolist()] == [[-1, 0, 1, 2], [-1], [-1], [-1]]
    tokenizer = policy.tokenizer
    suffix = tokenizer(strategy.suffix, add_special_tokens=False)["input_ids"]
    answer = tokenizer("7", add_special_tokens=False)["input_ids"]
    ids = batch.rollouts.tokens[0].tolist()
    for k in (0, 1):
        end = max(t for t, n in enumerate(signals["step_id"][0].tolist()) if n == k)
        prefix = [*ids[: end + 1], *suffix]
        assert tokenizer.decode(prefix).endswith(".\n\n**Final Answer**\n\n\\boxed{")
        right, _ = reference(policy, batch.prompts[0], prefix, answer, temperature)
        assert float(accuracy[0, k]) == pytest.approx(float(right.exp().mean()), abs=1e-6)
        state = State(0, tuple(prefix), 4)
        request = Request(
            batch.prompts[0], stage.seeds("spae_probes", batch.samples[0].id, state.digest, count=3), prefix
        )
        probes = trainer.parts.engine.generate([request], Sampling(temperature=0.6, max_new_tokens=4))
        entropies = [reference(policy, batch.prompts[0], prefix, p.tokens, temperature)[1].mean() for p in probes]
        expected = float(torch.stack(entropies).neg().exp().mean())
        assert float(confidence[0, k]) == pytest.approx(expected, abs=1e-5)
    assert stage.notes["rollout/spae_probes/responses"] == 2 * 3
    assert stage.notes["rollout/spae_probes/contexts"] == 2
    costs = policy.costs.read()
    assert costs["probes"]["positions"] == stage.notes["rollout/spae_probes/tokens"] + 2 * len(answer)
    assert "clean" not in costs or costs["clean"]["positions"] == 0
    trainer.close()


def test_equal_contexts_are_probed_once_and_some_groups_not_at_all(tmp_path):
    trainer = make(tmp_path, "text")
    stage = trainer.stage
    texts, rewards = [TEXT, TEXT + " blue", "red", "red"], [1.0, 0.0, 0.0, 1.0]
    batch = crafted(trainer, texts, rewards)
    signals = SPAEProbes(samples=2)([], lambda asks: batch, stage).rollouts.signals
    assert stage.notes["rollout/spae_probes/contexts"] == 2
    assert stage.notes["rollout/spae_probes/steps"] == 4
    assert torch.equal(signals["step_accuracy"][0], signals["step_accuracy"][1])
    assert torch.equal(signals["step_confidence"][0], signals["step_confidence"][1])

    stage.notes.clear()
    four = crafted(trainer, [TEXT] * 8, [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], ("7", None, "7", "1 2 3 " * 30))
    signals = SPAEProbes(samples=1)([], lambda asks: four, stage).rollouts.signals
    assert [row[0] for row in signals["step_accuracy"].isnan().tolist()] == [True] * 4 + [False] * 2 + [True] * 2
    noted = {k.rpartition("/")[2]: v for k, v in stage.notes.items()}
    assert (noted["constant_groups"], noted["without_answer"], noted["long_answers"]) == (1, 1, 1)
    assert noted["unprobed_steps"] == 12
    everything = SPAEProbes(samples=1, constant_groups=True, accuracy="reward", max_steps=1)
    signals = everything([], lambda asks: four, stage).rollouts.signals
    assert signals["step_accuracy"].shape == (8, 1)
    assert not bool(signals["step_accuracy"].isnan().any())
    assert stage.notes["rollout/spae_probes/merged_steps"] == 8

    # Batches of different K and T meet, as they do under dynamic sampling.
    parts = [
        SPAEProbes(samples=1)([], lambda asks, b=b: b, stage)
        for b in (crafted(trainer, ["red", ""], [0.0, 1.0]), crafted(trainer, [TEXT, "red"], [0.0, 1.0]))
    ]
    whole = join(parts, 0).rollouts.signals
    assert whole["step_accuracy"].isnan().tolist() == [[True, True], [True, True], [False, False], [True, True]]
    assert bool((whole["step_id"][:2] == -1).all())
    trainer.close()


def test_an_extended_prompt_scores_like_the_response_it_was(tmp_path):
    trainer = make(tmp_path, "vlm")
    policy = trainer.parts.policy
    batch = crafted(trainer, [TEXT], [0.0])
    ids = batch.rollouts.tokens[0].tolist()
    expected, _ = reference(policy, batch.prompts[0], ids[:6], ids[6:], 1.0)
    longer = extend(batch.prompts[0], ids[:6])
    rest = torch.tensor([ids[6:]])
    rollouts = Rollouts(
        rest, torch.ones_like(rest, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    )
    found = trainer.stage.measure("other", [longer], rollouts, ["logprobs"], 1.0)["logprobs"][0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    trainer.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"suffix": ""}, "suffix"),
        ({"mark": ""}, "mark"),
        ({"temperature": 0}, "temperature"),
        ({"accuracy": "exact"}, "accuracy"),
        ({"probe_token": 3}, "did you mean 'probe_tokens'"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_bad_configs(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, credit=["spae"], rollout__strategies=[{"spae_probes": fields}])
    with pytest.raises(ValueError, match="add 'spae_probes' to rollout.strategies"):
        parse(tmp_path, credit=["spae"])
