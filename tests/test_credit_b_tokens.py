"""Shared token statistics, schedules and the selection of responses."""

import itertools
import math

import pytest
import torch
from ragged import mask_of, pad

from mmcredit import Credit
from mmcredit.credit.curves import decay
from mmcredit.credit.tokens import quantile, ranks, response_range, restrict, top_per_response, top_pooled
from mmcredit.statistics.variance_selection import max_variance_subset

A1 = [2.236068] + [-0.447214] * 5
A2 = [1.0] * 3 + [-1.0] * 3


@pytest.mark.parametrize(
    ("count", "variance"), [(2, 2.618034), (4, 1.963525), (6, 1.624226), (8, 1.35), (9, 1.244444), (12, 1.0)]
)
def test_max_variance_subset_of_the_pool(count, variance):
    pool = torch.tensor(A1 + A2 + [0.0] * 6)
    chosen = max_variance_subset(pool, count)
    assert len(set(chosen.tolist())) == count
    assert pool[chosen].var(correction=0).item() == pytest.approx(variance, abs=1e-5)


@pytest.mark.parametrize(("values", "variance"), [(A1, 1.8), (A2, 1.0), ([0.0] * 6, 0.0)])
def test_max_variance_subset_of_a_group(values, variance):
    values = torch.tensor(values)
    assert values[max_variance_subset(values, 2)].var(correction=0).item() == pytest.approx(variance, abs=1e-5)


def test_max_variance_subset_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 7):
        for graded in (True, False):
            values = (
                torch.rand(size, generator=generator, dtype=torch.float64)
                if graded
                else torch.randint(2, (size,), generator=generator).double()
            )
            for count in range(1, size + 1):
                best = max(values[list(c)].var(correction=0).item() for c in itertools.combinations(range(size), count))
                chosen = max_variance_subset(values, count)
                assert values[chosen].var(correction=0).item() == pytest.approx(best, abs=1e-12)
                # Not for every count: of +1, +1, -1, -1 the best three have variance .889, all four 1.
                if count == 2:
                    assert best >= values.var(correction=0).item() - 1e-12
                assert torch.equal(max_variance_subset(3.0 * values, count), chosen)


def test_max_variance_subset_at_the_ends():
    values = torch.tensor([3.0, 1.0, 2.0])
    assert max_variance_subset(values, 0).tolist() == []
    assert max_variance_subset(values, 9).tolist() == [0, 1, 2]
    assert max_variance_subset(torch.tensor([]), 2).tolist() == []
    # A large common offset must not eat the digits of the squares.
    offset = torch.tensor([1.0, 0.0, 0.5, 0.4, 0.6], dtype=torch.float64) + 1e9
    assert max_variance_subset(offset, 2).tolist() == [0, 1]


def test_quantile():
    values = torch.tensor([0.05, 0.1, 0.3, 0.8, 0.9, 1.1, 1.2, 1.4, 1.9, 2.2, 2.5])[torch.randperm(11)]
    assert quantile(values, 0.8).item() == pytest.approx(1.9)
    assert quantile(values, 0.5).item() == pytest.approx(1.1)
    assert quantile(values, 0.75).item() == pytest.approx(torch.quantile(values, 0.75).item())
    assert quantile(torch.tensor([4.0]), 0.3).item() == 4.0


def test_an_exact_rank_is_not_missed_by_a_rounding_error():
    values = torch.arange(11.0)
    for rank in range(11):
        assert quantile(values, 1 - (1 - rank / 10)).item() == rank


def test_top_tokens_break_ties_by_order():
    mask = mask_of([4, 3, 0])
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 9.0], [9.0] * 4])
    assert top_per_response(values, mask, torch.tensor([2, 1, 1])).int().tolist() == [
        [0, 1, 1, 0],
        [1, 0, 0, 0],
        [0] * 4,
    ]
    assert top_pooled(values, mask, 2).int().tolist() == [[0, 1, 1, 0], [0] * 4, [0] * 4]
    assert top_pooled(values, mask, 5).int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0] * 4]
    assert torch.equal(top_pooled(values, mask, 99), mask)
    assert not bool(top_pooled(values, mask, 0).any())


def test_ranks_within_scopes():
    values, scope = torch.tensor([3.0, 1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 2, 2])
    rank, size = ranks(values, scope)
    assert rank.tolist() == [1.5, 0, 1.5, 0.5, 0.5]
    assert size.tolist() == [3, 3, 3, 2, 2]
    assert ranks(values, scope, average=False)[0].tolist() == [1, 0, 2, 0, 1]
    assert ranks(torch.tensor([]), torch.tensor([], dtype=torch.int64))[0].tolist() == []


def test_response_range_of_an_empty_response_is_zero():
    low, high = response_range(torch.tensor([[2.0, -1.0, math.nan], [math.nan] * 3]), mask_of([2, 0], 3))
    assert low.tolist() == [-1, 0]
    assert high.tolist() == [2, 0]


def test_restrict():
    mask = mask_of([3, 2])
    credit = Credit(pad([[1, 2, 3], [4, 5]]), mask)
    keep = torch.tensor([[True, False, True], [False, True, True]])
    kept, everything = restrict(credit, keep, "kept"), restrict(credit, keep, "all")
    assert kept.advantages.tolist() == everything.advantages.tolist() == [[1, 0, 3], [0, 5, 0]]
    assert torch.equal(kept.loss_mask, keep & mask)
    assert torch.equal(everything.loss_mask, mask)


STEPS = [1, 20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ("linear", [0.977625, 0.7425, 0.495, 0.2475, 0, 0]),
        ("sigmoid", [0.988096, 0.886056, 0.495, 0.103944, 0, 0]),
        ("gamma", [0.955751, 0.551306, 0.245025, 0.061256, 0, 0]),
    ],
)
def test_decay(curve, expected):
    assert [decay(curve, s / 80, 0.99) for s in STEPS] == pytest.approx(expected, abs=1e-6)
