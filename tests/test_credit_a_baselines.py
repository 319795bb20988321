"""RLOO, REINFORCE++ and its baseline form, TEMPO: worked numbers, definitions, edge cases."""

import pytest
import torch
from b0 import OLD, REWARDS, b0, padded, rollouts_of

from mmcredit import Rollouts, assign_credit
from mmcredit.credit.prefixes import group_pairs, shared_prefix
from mmcredit.credit.returns import discounted_return
from mmcredit.credit.whitening import whiten

TREE = [[5, 7, 2, 9], [5, 7, 3, 9], [5, 8, 2, 0], [6, 1, 0, 0]]
TREE_LENGTHS = [4, 4, 3, 2]


@pytest.mark.parametrize(
    ("method", "right", "wrong"),
    [
        ("rloo", 0.666667, -0.666667),
        ("reinforce_pp", 1.044466, -0.870388),
        ("reinforce_pp_baseline", 1.044466, -0.870388),
    ],
)
def test_b0(method, right, wrong):
    rollouts = b0()
    expected = torch.where(torch.tensor(REWARDS)[:, None] > 0, right, wrong) * rollouts.mask
    assert torch.allclose(assign_credit(rollouts, [method]).advantages, expected, atol=1e-5)


def test_rloo_is_the_reward_against_the_others():
    rewards = [0.3, 1.0, 0.0, 0.7, 0.2]
    rollouts = rollouts_of(rewards, [1] * 5, group=[0, 1, 0, 1, 0])
    groups = {0: [0, 2, 4], 1: [1, 3]}
    advantages = assign_credit(rollouts, ["rloo"]).advantages[:, 0]
    for members in groups.values():
        for i in members:
            others = [rewards[k] for k in members if k != i]
            assert advantages[i].item() == pytest.approx(rewards[i] - sum(others) / len(others), abs=1e-6)


def test_reinforce_pp_returns_with_discount_and_kl():
    gamma, beta = 0.9, 0.5
    lengths = [3, 1, 4]
    generator = torch.Generator().manual_seed(0)
    old, ref = (torch.rand(3, 4, generator=generator) for _ in range(2))
    rollouts = rollouts_of([1.0, -2.0, 0.5], lengths, old_logprobs=old, signals={"ref_logprobs": ref})
    expected = torch.zeros(3, 4)
    for i, length in enumerate(lengths):  # the definition, from the last token back
        running = 0.0
        for t in reversed(range(length)):
            reward = (rollouts.rewards[i].item() if t == length - 1 else 0.0) - beta * (old[i, t] - ref[i, t]).item()
            running = reward + gamma * running
            expected[i, t] = running
    expected = whiten(expected, rollouts.mask)
    got = assign_credit(rollouts, [{"reinforce_pp": {"gamma": gamma, "beta": beta}}]).advantages
    assert torch.allclose(got, expected, atol=1e-5)


def test_reinforce_pp_discounts_sampled_tokens_only():
    mask = torch.tensor([[True, False, False, True], [True, True, False, False]])
    rollouts = Rollouts(
        torch.ones(2, 4, dtype=torch.int64),
        mask,
        torch.tensor([0, 0]),
        torch.tensor([1.0, 1.0]),
        valid=torch.tensor([[True] * 4, [True, True, False, False]]),
    )
    advantages = assign_credit(rollouts, [{"reinforce_pp": {"gamma": 0.5}}]).advantages
    assert torch.equal(advantages[0, mask[0]], advantages[1, mask[1]])  # inserted tokens do not count as time
    assert bool((advantages[~mask] == 0).all())
    assert advantages[0, 3] > advantages[0, 0]


def test_reinforce_pp_needs_the_reference_only_for_the_penalty():
    with pytest.raises(ValueError, match="old_logprobs"):
        assign_credit(b0().replace(old_logprobs=None, signals={"ref_logprobs": torch.zeros(4, 4)}),
                      [{"reinforce_pp": {"beta": 0.1}}])  # fmt: skip
    with pytest.raises(ValueError, match="ref_logprobs"):
        assign_credit(b0(), [{"reinforce_pp": {"beta": 0.1}}])
    assign_credit(b0().replace(old_logprobs=None), ["reinforce_pp"])


def test_discounted_return_of_a_long_row():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(2, 300, generator=generator, dtype=torch.float64)
    discount = torch.rand(2, 300, generator=generator, dtype=torch.float64)
    expected, running = torch.zeros_like(rewards), torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(300)):
        running = rewards[:, t] + discount[:, t] * running
        expected[:, t] = running
    assert torch.allclose(discounted_return(rewards, discount), expected)


def test_whitening():
    values = torch.tensor([[0.0, 1 / 9, 2 / 9, 1 / 9], [1 / 9, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[False, True, True, True], [True, False, False, False]])
    assert torch.allclose(whiten(values, mask)[mask], torch.tensor([-0.5, 1.5, -0.5, -0.5]), atol=1e-3)
    white = whiten(values, mask, eps=0.0)
    assert torch.allclose(white[mask], torch.tensor([-0.5, 1.5, -0.5, -0.5]), atol=1e-6)
    scaled = whiten(values, mask, eps=0.0, shift=False)
    assert torch.allclose(scaled[mask], torch.tensor([2.0, 4.0, 2.0, 2.0]), atol=1e-5)  # in standard deviations
    third = torch.full((3, 5), 1 / 3)
    assert bool((whiten(third, third > 0) == 0).all())
    assert torch.equal(whiten(third, third > 0, shift=False), third)
    assert bool((whiten(values, torch.zeros_like(mask)) == 0).all())


def test_singletons_and_constant_batches_of_the_baselines():
    alone = rollouts_of([1.0, 0.0, 1.0], [3, 1, 2], group=[0, 1, 1])
    for method in ("rloo", "reinforce_pp_baseline"):
        advantages = assign_credit(alone, [method]).advantages
        assert bool((advantages[0] == 0).all())
        assert bool((advantages[1:][alone.mask[1:]] != 0).all())
    pair = rollouts_of([0.0, 1.0], [1, 2])
    without = assign_credit(pair, ["reinforce_pp_baseline"]).advantages
    both = assign_credit(alone, ["reinforce_pp_baseline"]).advantages
    assert torch.allclose(both[1:, :2], without)  # a group of one leaves the statistics alone
    assert bool((assign_credit(alone, ["reinforce_pp"]).advantages[alone.mask] != 0).all())
    constant = rollouts_of([0.1] * 3, [3, 1, 2])
    for method in ("rloo", "reinforce_pp", "reinforce_pp_baseline", "tempo"):
        assert bool((assign_credit(constant, [method]).advantages == 0).all())


def tempo_by_definition(tokens, lengths, rewards, eps=1e-6, norm_std=True):
    """A as the equations say, from explicit prefixes of one group."""
    responses = [tuple(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
    rewards = torch.tensor(rewards, dtype=torch.float64)

    def value(prefix):
        return torch.stack([r for o, r in zip(responses, rewards, strict=True) if o[: len(prefix)] == prefix]).mean()

    scale = rewards.std() + eps if norm_std else 1.0
    advantages = torch.zeros(len(tokens), len(tokens[0]), dtype=torch.float64)
    for i, response in enumerate(responses):
        for t in range(len(response)):
            delta = value(response[: t + 1]) - value(response[:t])
            advantages[i, t] = (rewards[i] - rewards.mean() + delta) / scale
    return advantages.float()


def test_tempo_worked_example():
    rollouts = rollouts_of(REWARDS, TREE_LENGTHS, tokens=torch.tensor(TREE))
    expected = padded(
        [
            [0.577349, 1.154698, 1.732048, 0.866024],
            [-1.154698, -0.577349, -1.732048, -0.866024],
            [-1.154698, -1.443373, -0.866024],
            [1.732048, 0.866024],
        ]
    )
    advantages = assign_credit(rollouts, ["tempo"]).advantages
    assert torch.allclose(advantages, expected, atol=1e-5)
    plain = assign_credit(rollouts, [{"tempo": {"norm_std": False}}]).advantages
    assert torch.allclose(plain, expected * (0.5773503 + 1e-6), atol=1e-5)


def random_tree(generator, size, width, vocabulary):
    tokens = torch.randint(0, vocabulary, (size, width), generator=generator)
    lengths = torch.randint(1, width + 1, (size,), generator=generator).tolist()
    rewards = torch.randint(0, 3, (size,), generator=generator).float().tolist()
    return tokens, lengths, rewards


def test_tempo_follows_its_definition_and_its_sums():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        tokens, lengths, rewards = random_tree(generator, 6, 8, 2)
        if len(set(rewards)) == 1:
            continue
        rollouts = rollouts_of(rewards, lengths, width=8, tokens=tokens)
        got = assign_credit(rollouts, [{"tempo": {"norm_std": False}}]).advantages
        assert torch.allclose(got, tempo_by_definition(tokens.tolist(), lengths, rewards, norm_std=False), atol=1e-5)
        got = assign_credit(rollouts, ["tempo"]).advantages
        assert torch.allclose(got, tempo_by_definition(tokens.tolist(), lengths, rewards), atol=1e-5)


def test_tempo_deltas_of_unique_responses_sum_to_the_outcome():
    rollouts = rollouts_of(REWARDS, TREE_LENGTHS, tokens=torch.tensor(TREE))
    advantages = assign_credit(rollouts, [{"tempo": {"norm_std": False}}]).advantages
    outcome = torch.tensor(REWARDS) - 0.5
    deltas = (advantages - outcome[:, None]) * rollouts.mask
    assert torch.allclose(deltas.sum(1), outcome, atol=1e-6)
    assert deltas[:, 0].sum().item() == pytest.approx(0.0, abs=1e-6)  # nobody stops at the root


def test_tempo_is_grpo_where_nothing_branches():
    same = rollouts_of(REWARDS, [4] * 4, tokens=torch.full((4, 4), 3))
    assert torch.equal(assign_credit(same, ["tempo"]).advantages, assign_credit(same, ["grpo"]).advantages)
    apart = rollouts_of(REWARDS, [4] * 4, tokens=torch.arange(16).view(4, 4))
    tempo, grpo = (assign_credit(apart, [m]).advantages for m in ("tempo", "grpo"))
    assert torch.allclose(tempo[:, 0], 2 * grpo[:, 0])
    assert torch.equal(tempo[:, 1:], grpo[:, 1:])


def test_tempo_ignores_token_names_and_compares_inserted_tokens():
    rollouts = rollouts_of(REWARDS, TREE_LENGTHS, tokens=torch.tensor(TREE))
    renamed = rollouts.replace(tokens=torch.randperm(10, generator=torch.Generator().manual_seed(0))[rollouts.tokens])
    assert torch.equal(assign_credit(renamed, ["tempo"]).advantages, assign_credit(rollouts, ["tempo"]).advantages)
    inserted = rollouts.mask.clone()
    inserted[:, 1] = False
    masked = rollouts.replace(mask=inserted, valid=rollouts.mask)
    expected = assign_credit(rollouts, ["tempo"]).advantages * inserted
    assert torch.equal(assign_credit(masked, ["tempo"]).advantages, expected)


def test_shared_prefix_over_several_blocks_and_groups():
    width = 5000  # longer than the largest block
    tokens = torch.zeros(5, width, dtype=torch.int64)
    tokens[1, 4000] = 1
    tokens[2, 31] = 1
    valid = torch.ones(5, width, dtype=torch.bool)
    valid[3, 1500:] = False
    first, second = group_pairs(torch.tensor([0, 0, 0, 0, 1]))
    shared = shared_prefix(tokens, valid, first, second)
    found = {tuple(sorted(pair)): n for *pair, n in zip(first.tolist(), second.tolist(), shared.tolist(), strict=True)}
    assert found == {(0, 1): 4000, (0, 2): 31, (0, 3): 1500, (1, 2): 31, (1, 3): 1500, (2, 3): 31}


def test_tempo_on_identical_long_responses_and_on_groups_of_one():
    rollouts = rollouts_of([1.0, 0.0, 1.0], [3, 2, 3], group=[4, 9, 9], tokens=torch.ones(3, 3, dtype=torch.int64))
    advantages = assign_credit(rollouts, ["tempo"]).advantages
    assert bool((advantages[0] == 0).all())
    assert torch.allclose(advantages[1:], tempo_by_definition([[1] * 3] * 2, [2, 3], [0.0, 1.0]), atol=1e-5)


def test_reinforce_pp_counts_its_penalty():
    ref = torch.tensor(OLD).log() - 0.5
    rollouts = b0(signals={"ref_logprobs": torch.where(b0().mask, ref, torch.nan)})
    credit = assign_credit(rollouts, [{"reinforce_pp": {"beta": 0.01}}])
    assert credit.trace[0].notes["kl_in_reward"] == pytest.approx(0.5, abs=1e-6)
