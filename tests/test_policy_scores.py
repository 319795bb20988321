"""The chunked score loop against a plain one that holds all logits, and its memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from policy_cases import ALL, batch, gradients, rollouts_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmcredit.policy import scores
from mmcredit.policy.passes import BLIND, CLEAN, Pass, View

HIDDEN, VOCABULARY = 8, 13
SUPPRESSED = torch.tensor([2, 11])


def plain(states: dict, weight: torch.Tensor, tokens: torch.Tensor, temperature: float) -> dict:
    """Everything from full [N,V] logits, suppressed ids removed from the vocabulary."""
    keep = [i for i in range(VOCABULARY) if i not in SUPPRESSED.tolist()]
    log_p, out = {}, {}
    for view, state in states.items():
        raw = state @ weight.T
        z = raw[:, keep] / temperature
        log_p[view] = z.log_softmax(1)
        place = torch.tensor([keep.index(t) for t in tokens.tolist()])[:, None]
        out[view] = {
            "logprobs": log_p[view].gather(1, place)[:, 0],
            "entropy": -(log_p[view].exp() * log_p[view]).sum(1),
            "logsumexp": z.logsumexp(1),
            "sampled_logit": raw.gather(1, tokens[:, None])[:, 0],
            "self_certainty": z.logsumexp(1) - z.mean(1),
        }
    out[CLEAN]["kl_to:blind"] = (log_p[CLEAN].exp() * (log_p[CLEAN] - log_p[BLIND])).sum(1)
    return out


def problem(n: int = 20, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    states = {v: torch.randn(n, HIDDEN, generator=generator, dtype=dtype, requires_grad=True) for v in (CLEAN, BLIND)}
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=dtype).requires_grad_()
    keep = torch.tensor([i for i in range(VOCABULARY) if i not in SUPPRESSED.tolist()])
    tokens = keep[torch.randint(0, len(keep), (n,), generator=generator)]
    return states, weight, tokens


WANTED = {CLEAN: ALL | {"kl_to:blind"}, BLIND: ALL}


def chunked(states, weight, tokens, temperature: float, chunk: int | None):
    def head(x):
        return x @ weight.T

    return scores.token_scores(
        states, dict.fromkeys(states, head), tokens, WANTED,
        vocabulary=VOCABULARY, temperature=temperature, suppressed=SUPPRESSED, chunk=chunk,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 1, 7, 20])
def test_values_and_gradients_equal_the_plain_computation(chunk: int | None) -> None:
    states, weight, tokens = problem()
    found, expected = chunked(states, weight, tokens, 0.7, chunk), plain(states, weight, tokens, 0.7)
    assert {v: set(o) for v, o in found.items()} == {v: set(o) for v, o in expected.items()}
    coefficients = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for view, outputs in expected.items():
        for name, value in outputs.items():
            torch.testing.assert_close(found[view][name], value, atol=1e-12, rtol=1e-12)
            inputs = [states[CLEAN], states[BLIND], weight]
            for a, b in zip(
                torch.autograd.grad(
                    (found[view][name] * coefficients).sum(), inputs, retain_graph=True, allow_unused=True
                ),
                torch.autograd.grad((value * coefficients).sum(), inputs, retain_graph=True, allow_unused=True),
                strict=True,
            ):
                a = torch.zeros(1) if a is None else a
                b = torch.zeros(1) if b is None else b
                torch.testing.assert_close(a, b.expand_as(a).to(a.dtype), atol=1e-12, rtol=1e-10)


def test_gradients_by_finite_differences() -> None:
    states, weight, tokens = problem(3)

    def run(clean, blind, w):
        found = chunked({CLEAN: clean, BLIND: blind}, w, tokens, 1.3, 2)
        return tuple(found[CLEAN][name] for name in ("logprobs", "entropy", "kl_to:blind"))

    assert torch.autograd.gradcheck(run, (states[CLEAN], states[BLIND], weight))


def test_suppressed_ids_have_no_probability_and_make_no_nan() -> None:
    states, weight, tokens = problem(6, torch.float32)
    with torch.no_grad():
        weight[SUPPRESSED] *= 100  # would take all the mass
    found = chunked(states, weight, tokens, 1.0, 3)
    total = torch.stack([chunked(states, weight, torch.full_like(tokens, i), 1.0, None)[CLEAN]["logprobs"].exp()
                         for i in range(VOCABULARY) if i not in SUPPRESSED.tolist()]).sum(0)  # fmt: skip
    torch.testing.assert_close(total, torch.ones(6))
    sum(v.sum() for outputs in found.values() for v in outputs.values()).backward()
    for gradient in (weight.grad, states[CLEAN].grad, states[BLIND].grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


def test_a_suppressed_target_scores_zero_without_gradient() -> None:
    states, weight, _ = problem(2, torch.float32)
    found = chunked(states, weight, torch.tensor([2, 3]), 1.0, None)[CLEAN]["logprobs"]
    assert found[0] == 0
    assert found[1] < 0
    gradient = torch.autograd.grad(found[0], states[CLEAN], retain_graph=True)[0]
    assert not gradient.any()


def test_policy_refuses_a_sampled_placeholder_but_takes_an_inserted_one() -> None:
    policy, prompts, rollouts = batch("qwen2_5_vl")
    pad = policy.suppressed_ids[0]
    assert policy.tokenizer.convert_tokens_to_ids("<|image_pad|>") in policy.suppressed_ids
    assert policy.tokenizer.convert_tokens_to_ids("<|video_pad|>") in policy.suppressed_ids
    tokens = rollouts.tokens.clone()
    tokens[0, 2] = pad
    passes = [Pass(CLEAN, ALL)]
    with pytest.raises(ValueError, match=f"response 0 claims to have sampled token {pad} at 2"):
        policy.score(prompts, rollouts.replace(tokens=tokens), passes, temperature=1.0)
    mask = rollouts.mask.clone()
    mask[0, 2] = False
    found = policy.score(prompts, rollouts.replace(tokens=tokens, mask=mask), passes, temperature=1.0)[CLEAN]
    assert found["logprobs"][0, 2] == 0
    assert all(torch.isfinite(v).all() for v in found.values())


def test_policy_scores_equal_full_logits_of_the_model() -> None:
    """Against the model's own forward: padded, attention mask, all logits."""
    policy, prompts, rollouts = batch("qwen3")
    found = policy.score(prompts, rollouts, [Pass(CLEAN, ALL | {"head_input"})], temperature=0.6)[CLEAN]
    assert found["head_input"].shape == (*rollouts.tokens.shape, 64)
    for row in range(len(rollouts)):
        prompt, n = prompts[int(rollouts.group[row])], int(rollouts.valid[row].sum())
        ids = torch.cat([prompt.tokens, rollouts.tokens[row, :n]])[None]
        with torch.no_grad():
            raw = policy.model(ids).logits[0, len(prompt) - 1 : -1]
        log_p = (raw / 0.6).log_softmax(-1)
        target = rollouts.tokens[row, :n, None]
        torch.testing.assert_close(found["logprobs"][row, :n], log_p.gather(1, target)[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found["entropy"][row, :n], -(log_p.exp() * log_p).sum(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(found["sampled_logit"][row, :n], raw.gather(1, target)[:, 0], atol=1e-5, rtol=0)
        logits = policy.body.head(found["head_input"][row, :n])
        torch.testing.assert_close(logits, raw, atol=1e-5, rtol=0)


def test_vl_scores_equal_the_models_own_forward() -> None:
    """Pixels in, mm_token_type_ids given: what transformers itself computes for each response alone."""
    for family in ("qwen2_5_vl", "qwen3_vl"):
        policy, prompts, rollouts = batch(family)
        found = policy.score(prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)[CLEAN]
        for row in range(len(rollouts)):
            prompt, n = prompts[int(rollouts.group[row])], int(rollouts.valid[row].sum())
            ids = torch.cat([prompt.tokens, rollouts.tokens[row, :n]])[None]
            types = torch.cat([prompt.visual.long(), torch.zeros(n, dtype=torch.int64)])[None]
            with torch.no_grad():
                raw = policy.model(ids, mm_token_type_ids=types, **prompt.media).logits[0, len(prompt) - 1 : -1]
            raw[:, list(policy.suppressed_ids)] = -torch.inf
            expected = raw.log_softmax(-1).gather(1, rollouts.tokens[row, :n, None])[:, 0]
            torch.testing.assert_close(found["logprobs"][row, :n], expected, atol=1e-5, rtol=0)


def test_many_chunks_give_the_same_gradients_in_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, prompts, rollouts = batch("qwen2")
    passes = [Pass(CLEAN, frozenset({"logprobs", "entropy"}))]
    whole = gradients(policy, prompts, rollouts, passes, ("logprobs", "entropy"))
    monkeypatch.setattr(scores, "CHUNK_BYTES", 4 * policy.body.vocabulary * 5)
    parts = gradients(policy, prompts, rollouts, passes, ("logprobs", "entropy"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-4)


class Alive(TorchDispatchMode):
    """Bytes of tensors made inside the block that are alive at the worst moment."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.numel():
                self._hold(leaf)
        return out

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.holders:
            self.holders[place] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if not self.holders[place]:
            del self.holders[place]
            self.now -= size


def test_score_memory_does_not_grow_with_the_number_of_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, prompts, _ = batch("qwen2_5_vl", vision_cache_mb=0)
    monkeypatch.setattr(scores, "CHUNK_BYTES", 4 * policy.body.vocabulary * 16)
    passes = [Pass(CLEAN, ALL | {"kl_to:blind"}), Pass(BLIND, frozenset({"logprobs"}))]

    def peak(groups: int, budget: int) -> int:
        many = [prompts[3]] * groups
        rollouts = rollouts_for(policy, groups, [[12, 12, 1]] * groups)
        policy.layout(many, rollouts)
        with Alive() as seen:
            found = policy.score(many, rollouts, passes, temperature=1.0, budget=budget)
        # What is returned is [B,T] per output, and so is what comes in: leave it out.
        returned = sum(v.nbytes for outputs in found.values() for v in outputs.values())
        return seen.peak - 2 * returned

    one_group = len(prompts[3]) + 25
    assert peak(16, one_group) <= 1.01 * peak(2, one_group)
    assert peak(16, 16 * one_group) > 2 * peak(2, one_group)  # the measurement sees what there is to see


def test_logits_never_exceed_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, prompts, rollouts = batch("qwen2")
    v = policy.body.vocabulary
    monkeypatch.setattr(scores, "CHUNK_BYTES", 4 * v * 6)
    sizes = []
    policy.body.head.register_forward_hook(lambda module, args, out: sizes.append(out.shape))
    out = policy.forward(prompts, rollouts, range(len(rollouts)), [Pass(CLEAN, ALL)], temperature=1.0)
    out[CLEAN]["logprobs"].sum().backward()
    assert max(s[0] for s in sizes) == 6
    assert all(s[1] == v for s in sizes)


def test_unknown_output_names_the_known_ones() -> None:
    policy, prompts, rollouts = batch("qwen2")
    with pytest.raises(ValueError, match="unknown output 'entropi'; known: attention_entropy, entropy"):
        policy.score(prompts, rollouts, [Pass(CLEAN, frozenset({"entropi"}))], temperature=1.0)
    with pytest.raises(ValueError, match="temperature of scores must be positive, got 0"):
        policy.score(prompts, rollouts, [Pass(CLEAN, ALL)], temperature=0)


def test_target_view_names() -> None:
    assert scores.target_view(CLEAN, "kl_to:blind") == BLIND
    assert scores.target_view(BLIND, "kl_to:clean") == CLEAN
    assert scores.target_view(CLEAN, "kl_to:corrupted#2") == View("corrupted", 2)
    assert scores.target_view(BLIND, "kl_to:reference") == View("blind", weights="reference")


def test_no_responses_is_an_empty_result_and_empty_rows_an_error() -> None:
    policy, prompts, rollouts = batch("qwen2")
    valid = rollouts.valid.clone()
    valid[1] = False
    short = rollouts.replace(valid=valid, mask=valid)
    found = policy.score(prompts, short, [Pass(CLEAN, ALL)], temperature=1.0)[CLEAN]
    assert not found["logprobs"][1].any()
    with pytest.raises(ValueError, match=r"responses \[1\] have no tokens"):
        policy.forward(prompts, short, [1], [Pass(CLEAN, ALL)], temperature=1.0)
    none = rollouts.replace(valid=valid & False, mask=valid & False)
    found = policy.score(prompts, none, [Pass(CLEAN, ALL | {"head_input"})], temperature=1.0)[CLEAN]
    assert all(not v.any() for v in found.values())
    assert found["head_input"].shape == (*valid.shape, 64)
