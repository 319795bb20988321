"""Strategy spo_chain: where it cuts, what its values are worth, and what it costs."""

from __future__ import annotations

import math
import runpy
from types import SimpleNamespace

import pytest
import torch
from canned_stage import CannedStage, prompt, sample
from strategy_runs import make

from mmcredit.credit.spo_chain import segment_advantages
from mmcredit.rollout.batch import Batch, join
from mmcredit.rollout.strategies.spo_chain import SPOChainContinuations
from mmcredit.rollouts import Rollouts


def batch_of(probabilities, rewards, tokens=None, truncated=None):
    width = max(map(len, probabilities))
    rows = [[*map(math.log, p), *[0.0] * (width - len(p))] for p in probabilities]
    mask = torch.tensor([[t < len(p) for t in range(width)] for p in probabilities])
    ids = torch.arange(10, 10 + width).repeat(len(rows), 1) if tokens is None else torch.tensor(tokens)
    rollouts = Rollouts(
        tokens=ids,
        mask=mask,
        group=torch.zeros(len(rows), dtype=torch.int64),
        rewards=torch.tensor(rewards),
        sampler_logprobs=torch.tensor(rows),
        truncated=None if truncated is None else torch.tensor(truncated),
    )
    return Batch([sample()], [prompt()], rollouts, [""] * len(rows))


PAPER = [0.95, 0.60, 0.99, 0.85, 0.97, 0.50, 0.92, 0.70, 0.99, 0.98]
VALUES = {0: 4, 2: 5, 4: 6, 6: 8}  # ninths, by boundary


@pytest.mark.parametrize(
    ("interval", "boundaries", "expected"),
    [
        (1, [0, 2, 4, 6], [0, 1, 0, 1, 0, 2, 0, 1, 0, 0]),
        (2, [0, 4], [0, 2, 0, 2, 0, 3, 0, 3, 0, 0]),
        (5, [0], [0, 5, 0, 5, 0, 5, 0, 5, 0, 0]),
    ],
)
def test_the_papers_example(interval, boundaries, expected):
    """Cut points and values of the worked example; the credit method's segments then give its advantages."""

    def worth(said):  # the state after token k was said with k + 1 ids, and a continuation adds one
        return float(said[-1] - 100 < VALUES[len(said) - 2])

    stage = CannedStage(worth)
    strategy = SPOChainContinuations(interval=interval)
    batch = strategy([], lambda asks: batch_of([PAPER], [1.0]), stage)
    index, value = batch.rollouts.signal("boundary_index"), batch.rollouts.signal("boundary_value")
    assert index.tolist() == [boundaries]
    assert value.tolist() == [pytest.approx([VALUES[k] / 9 for k in boundaries])]
    advantages, _ = segment_advantages(index, value.double(), torch.tensor([1.0]).double(), 10)
    uncertain = torch.tensor(PAPER) < 0.9
    assert (advantages[0] * uncertain * 9).tolist() == pytest.approx(expected, abs=1e-5)
    assert [r.limit for r in stage.requests] == [10 - k - 1 for k in boundaries]
    assert stage.spent["responses"] == 9 * len(boundaries) == stage.spent["tokens"]


def test_edges_of_the_spec():
    stage = CannedStage(lambda said: 0.5)
    rows = [[0.5, 0.95, 0.6, 0.99], [0.95, 0.99], [0.5], []]
    batch = SPOChainContinuations(interval=1, samples=2)([], lambda a: batch_of(rows, [0.0] * 4), stage)
    assert batch.rollouts.signal("boundary_index").tolist() == [[-1, 1], [-2, -2], [-1, -2], [-2, -2]]
    assert stage.spent["states"] == 2  # the prompt's value is asked once for two responses
    assert stage.spent["boundaries"] == 3
    assert [r.prefix for r in stage.requests] == [(), (10, 11)]

    # Nothing uncertain anywhere: no rollouts, one empty slot.
    stage = CannedStage(lambda said: 0.5)
    batch = SPOChainContinuations()([], lambda a: batch_of([[0.95, 0.99], [1.0, 0.9]], [0.0, 1.0]), stage)
    assert batch.rollouts.signal("boundary_index").tolist() == [[-2], [-2]]
    assert stage.requests == []

    # Fixed cuts; a bound on boundaries widens the interval; the group's mean stands for the prompt's value.
    stage = CannedStage(lambda said: 0.5)
    fixed = SPOChainContinuations(cut="fixed", interval=4, samples=1)
    assert fixed([], lambda a: batch_of([PAPER], [1.0]), stage).rollouts.signal("boundary_index").tolist() == [
        [-1, 3, 7]
    ]
    bounded = SPOChainContinuations(cut="fixed", interval=4, samples=1, max_boundaries=2, prompt_value="group")
    batch = bounded([], lambda a: batch_of([PAPER, PAPER], [1.0, 0.0]), stage)
    assert batch.rollouts.signal("boundary_index").tolist() == [[-1, 4]] * 2
    assert batch.rollouts.signal("boundary_value").tolist() == [[0.5, 0.5]] * 2
    assert stage.spent["widened"] == 2
    assert stage.spent["responses"] == 4


def test_what_the_limit_stopped_is_worth_nothing_on_both_sides():
    for unfinished, expected in ((0.0, [0.0, 1.0]), (None, [1.0, 1.0])):
        batch = SPOChainContinuations(unfinished=unfinished)(
            [], lambda a: batch_of([[0.95], [0.95]], [1.0, 1.0], truncated=[True, False]), CannedStage(lambda said: 1.0)
        )
        assert batch.rollouts.rewards.tolist() == expected


def test_joined_batches_keep_empty_slots_empty():
    """Batches whose number of slots happens to be the width of the other's tokens must not be filled with index 0."""
    parts = [
        SPOChainContinuations(interval=1, samples=1)(
            [], lambda a, r=rows: batch_of(r, [0.0]), CannedStage(lambda said: 0.0)
        )
        for rows in ([[0.5, 0.5]], [[0.5] * 5])
    ]
    index = join(parts, 0).rollouts.signal("boundary_index")
    assert index.tolist() == [[-1, 0, -2, -2, -2], [-1, 0, 1, 2, 3]]
    assert index.dtype == torch.int64


# -- on a real model ------------------------------------------------------------------------------------------------

# Right exactly when the response is of the first half of the vocabulary, by its first token's first letter.
REWARD = """
def early(item):
    text = item.response
    return float(len(text) > 0 and text[0] in "abcdefghijklm") * 0.5 + float(len(text) % 2) * 0.5
"""


@torch.no_grad()
def true_value(trainer, prompt, text_of, top_k, left, prefix=()):
    """Expected reward from a state by enumeration of every continuation under top-k sampling."""
    policy, reward = trainer.parts.policy, trainer.early
    end = set(policy.eos_token_ids)
    ids = torch.cat([prompt.tokens, torch.tensor(prefix, dtype=torch.int64)])[None]
    logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].float()
    logits[list(policy.suppressed_ids)] = -torch.inf
    top = logits.topk(top_k)
    total = 0.0
    for p, token in zip(top.values.softmax(-1).tolist(), top.indices.tolist(), strict=True):
        said = (*prefix, token)
        if token in end or left == 1:
            total += p * reward(text_of(said))
        else:
            total += p * true_value(trainer, prompt, text_of, top_k, left - 1, said)
    return total


def test_values_lie_where_enumeration_puts_them(tmp_path):
    """Responses of two tokens out of the four likeliest: the true value of every state is a sum of at most 16 terms.

    Each estimate of 400 continuations must lie within 4.5 standard errors of it, and all of them together within what
    their number allows.
    """
    count, top_k = 400, 4
    trainer = make(
        tmp_path,
        "text",
        rewards=[{"function": {"path": write_reward(tmp_path)}}],
        rollout__prompts=3,
        rollout__sampling={"max_new_tokens": 2, "top_k": top_k},
        rollout__strategies=[{"spo_chain": {"rho": 1.0, "interval": 1, "samples": count, "unfinished": None}}],
    )
    early = runpy.run_path(str(tmp_path / "early.py"))["early"]
    trainer.early = lambda text: early(SimpleNamespace(response=text))
    batch = trainer.stage.run(0)
    index, value = batch.rollouts.signal("boundary_index"), batch.rollouts.signal("boundary_value")
    scores, spread = {}, []
    for row in range(len(batch)):
        prompt = batch.prompts[int(batch.rollouts.group[row])]
        for slot in (index[row] != -2).nonzero()[:, 0].tolist():
            k = int(index[row, slot])
            prefix = tuple(batch.rollouts.tokens[row, : k + 1].tolist())
            truth = true_value(trainer, prompt, trainer.stage.decode, top_k, 2 - len(prefix), prefix)
            spread.append(truth)
            error = max(1e-6, math.sqrt(0.25 / count))  # rewards lie in [0, 1]: variance at most 1/4
            scores[prompt.sample_id, prefix] = (float(value[row, slot]) - truth) / error
            if k == 0 and prefix[0] in trainer.parts.policy.eos_token_ids:
                raise AssertionError("a finished response has no boundary at its end")
    assert len(scores) >= 6
    assert max(spread) - min(spread) > 0.1  # the states differ: a constant would not pass
    assert max(map(abs, scores.values())) < 4.5
    assert sum(z * z for z in scores.values()) / len(scores) < 2.5
    trainer.close()


def write_reward(tmp_path):
    (tmp_path / "early.py").write_text(REWARD)
    return f"{tmp_path / 'early.py'}:early"
