"""Drawing tokens: frequencies, truncation, seeds."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from mmcredit.rollout.drawing import sampler as module
from mmcredit.rollout.drawing.sampler import Sampler, row_uniforms
from mmcredit.rollout.engine import Sampling

CPU = torch.device("cpu")
# 0.999 quantiles of chi-square, by degrees of freedom (tables).
CHI_SQUARE = {9: 27.88, 3: 16.27, 7: 24.32}


def logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2


def frequencies(sampler: Sampler, row: torch.Tensor, count: int) -> torch.Tensor:
    uniforms = row_uniforms(range(count), 1)[0]
    tokens, _ = sampler(row.expand(count, -1), uniforms, 0)
    return torch.bincount(tokens, minlength=row.numel()).double()


def test_frequencies_are_the_softmax() -> None:
    row, count = logits(1, 10), 20_000
    expected = (row[0].double() / 1.3).softmax(0) * count
    seen = frequencies(Sampler(Sampling(temperature=1.3), (), (), CPU), row, count)
    assert float(((seen - expected) ** 2 / expected).sum()) < CHI_SQUARE[9]
    # The test can fail: another temperature is told apart.
    other = (row[0].double() / 1.5).softmax(0) * count
    assert float(((seen - other) ** 2 / other).sum()) > CHI_SQUARE[9]


def test_frequencies_over_the_steps_of_one_seed_are_the_softmax() -> None:
    row, count = logits(1, 10), 20_000
    tokens, _ = Sampler(Sampling(), (), (), CPU)(row.expand(count, -1), row_uniforms([7], count)[:, 0], 0)
    expected = row[0].double().softmax(0) * count
    seen = torch.bincount(tokens, minlength=10).double()
    assert float(((seen - expected) ** 2 / expected).sum()) < CHI_SQUARE[9]


@pytest.mark.parametrize(("top_k", "top_p"), [(4, 1.0), (0, 0.8), (8, 0.95)])
def test_truncation_is_that_of_transformers(top_k: int, top_p: float) -> None:
    values, count = logits(50, 40), 400
    narrowed = values.clone()
    if top_k:
        narrowed = TopKLogitsWarper(top_k)(None, narrowed)  # type: ignore[arg-type]
    if top_p < 1:
        narrowed = TopPLogitsWarper(top_p)(None, narrowed)  # type: ignore[arg-type]
    sampler = Sampler(Sampling(top_k=top_k, top_p=top_p), (), (), CPU)
    expected = narrowed.softmax(-1)
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    for row, probabilities in zip(values, expected, strict=True):
        tokens, logprobs = sampler(row.expand(count, -1), grid, 0)
        # A uniform grid hits every token in proportion, to one point of the grid.
        seen = torch.bincount(tokens, minlength=40) / count
        assert float((seen - probabilities).abs().max()) <= 1 / count + 1e-6
        # The log-prob is that of the whole softmax.
        torch.testing.assert_close(logprobs, row.log_softmax(0)[tokens])


def test_a_nucleus_smaller_than_any_token_keeps_the_likeliest() -> None:
    values = logits(20, 30)
    tokens, _ = Sampler(Sampling(top_p=1e-9), (), (), CPU)(values, torch.full((20,), 0.999, dtype=torch.float64), 0)
    assert torch.equal(tokens, values.argmax(-1))


def test_suppressed_and_withheld_tokens() -> None:
    values = logits(1, 8).expand(4000, -1).clone()
    values[:, 2] = 20.0
    sampler = Sampler(Sampling(min_new_tokens=2), [2], [5], CPU)
    uniforms = row_uniforms(range(4000), 1)[0]
    for step, ends in ((0, False), (1, False), (2, True)):
        tokens, logprobs = sampler(values, uniforms, step)
        assert 2 not in tokens
        assert (5 in tokens) == ends
        masked = values[0].clone()
        masked[2] = -torch.inf
        torch.testing.assert_close(logprobs, masked.log_softmax(0)[tokens])
    assert values[0, 2] == 20, "logits are the caller's"


def test_points_at_the_ends_never_draw_an_impossible_token() -> None:
    values = torch.full((3, 6), -torch.inf)
    values[:, 2:4] = torch.tensor([0.3, -0.1])
    points = row_uniforms([0], 1)[0].new_tensor([0.0, 0.5, 1 - 2**-52])
    tokens, _ = Sampler(Sampling(), (), (), CPU)(values, points, 0)
    assert tokens.tolist() == [2, 2, 3]
    rare = torch.zeros(1, 150_000)
    rare[0, -1] = -torch.inf
    tokens, _ = Sampler(Sampling(), (), (), CPU)(rare, points[-1:], 0)
    assert tokens.tolist() == [149_998]


def test_large_vocabularies_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, uniforms = logits(7, 11), row_uniforms(range(7), 1)[0]
    temperature = torch.linspace(0.5, 2, 7)
    sampler = Sampler(Sampling(top_p=0.9), (1,), (), CPU)
    whole = sampler(values, uniforms, 0, temperature)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 25)
    parts = sampler(values, uniforms, 0, temperature)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_uniforms_depend_on_the_seed_alone() -> None:
    alone = row_uniforms([3], 40)
    together = row_uniforms([9, 3, 4], 40)
    assert torch.equal(alone[:, 0], together[:, 1])
    assert torch.equal(row_uniforms([3], 7)[:, 0], alone[:7, 0])
    assert together.dtype == torch.float64
    assert float(together.max()) < 1
    assert together.unique().numel() == together.numel()


def test_greedy_takes_the_likeliest_allowed_token() -> None:
    values = logits(6, 9)
    best = values.argsort(-1, descending=True)
    sampler = Sampler(Sampling(temperature=0, min_new_tokens=1), [], best[:, 0].tolist(), CPU)
    allowed = values.clone()
    allowed[:, best[:, 0]] = -torch.inf
    uniforms = torch.zeros(6, dtype=torch.float64)
    tokens, logprobs = sampler(values, uniforms, 0)
    assert torch.equal(tokens, allowed.argmax(-1))
    torch.testing.assert_close(logprobs, values.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    assert torch.equal(sampler(values, uniforms, 1)[0], best[:, 0])
