"""Attention entropy: the spec's numbers, the model's own attention maps, layouts, chunks, padding, order, views."""

from __future__ import annotations

import math

import pytest
import torch
from policy_cases import FAMILIES, batch, both, make_policy, rollouts_for, samples
from tiny import tiny_text

from mmcredit.policy import attention_entropy
from mmcredit.policy.attention_entropy import Ask, entropies, of_weights, parse, softmax_layer
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.passes import BLIND, CLEAN, REFERENCE, Pass
from mmcredit.policy.policy import Policy

E = "attention_entropy"


def asked(policy, prompts, rollouts, *names, view=CLEAN, **options):
    found = policy.score(prompts, rollouts, [Pass(view, frozenset(names))], temperature=0.8, **options)[view]
    return found[names[0]] if len(names) == 1 else found


@pytest.mark.parametrize(
    ("rows", "nats", "normalised"),
    [
        ([[0.97, 0.01, 0.01, 0.01]] * 2, 0.167701, 0.120970),
        ([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], 0.693147, 0.430677),  # the mean of head entropies would be 0
        ([[1 / 6] * 6] * 2, 1.791759, 1.0),
        ([[0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02], [0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1]], 1.844001, 0.947629),
        ([[1.0], [1.0]], 0.0, 0.0),
    ],
)
def test_worked_example(rows, nats, normalised):
    weights = torch.tensor(rows, dtype=torch.float32).mean(0)
    visible = torch.ones(len(weights), dtype=torch.bool)
    assert float(of_weights(weights, visible, Ask(normalised=False))) == pytest.approx(nats, abs=1e-5)
    assert float(of_weights(weights, visible, Ask())) == pytest.approx(normalised, abs=1e-5)


def test_worked_example_from_queries_and_keys():
    """Scores whose softmax is the second row of the table: two heads, each sharp on a key of its own."""
    queries = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])  # [1,1,2 heads,2]
    keys = 200 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])[None, :, None]
    visible = torch.ones(1, 1, 5, dtype=torch.bool)
    nats, normalised, rest = entropies(queries, keys, visible, 1.0, [Ask(normalised=False), Ask(), Ask(first=False)])
    assert float(nats) == pytest.approx(math.log(2), abs=1e-6)
    assert float(normalised) == pytest.approx(0.430677, abs=1e-5)
    assert float(rest) == pytest.approx(0.0, abs=1e-5)  # without key 0 all is on key 1


def test_uniform_attention_is_one_and_key_order_is_irrelevant():
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 3, 4, 8, generator=generator), torch.randn(2, 7, 2, 8, generator=generator))
    visible = torch.ones(2, 3, 7, dtype=torch.bool)
    (found,) = entropies(queries, keys, visible, 0.5, [Ask()])
    assert bool((found > 0).all())
    assert bool((found < 1).all())
    (shuffled,) = entropies(queries, keys[:, torch.randperm(7, generator=generator)], visible, 0.5, [Ask()])
    torch.testing.assert_close(found, shuffled, atol=1e-6, rtol=0)
    (uniform,) = entropies(torch.zeros_like(queries), keys, visible, 0.5, [Ask()])
    torch.testing.assert_close(uniform, torch.ones(2, 3), atol=1e-6, rtol=0)
    visible[:, :, 5:] = False
    (part,) = entropies(queries, keys, visible, 0.5, [Ask()])
    (short,) = entropies(queries, keys[:, :5], visible[:, :, :5], 0.5, [Ask()])
    torch.testing.assert_close(part, short, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [None, 0])
def test_equals_the_attention_maps_of_the_model(family, layer):
    """Against `output_attentions` of the eager implementation, prompt by prompt, in both layouts."""
    policy, prompts, rollouts = batch(family)
    name = E if layer is None else f"{E}:{layer}"
    names = (name, f"{name}:nats", f"{name}:no_first")
    shared, padded = both(policy, lambda: asked(policy, prompts, rollouts, *names))
    body = policy.body
    for row in range(len(rollouts)):
        prompt, n = prompts[int(rollouts.group[row])], int(rollouts.valid[row].sum())
        ids = torch.cat([prompt.tokens, rollouts.tokens[row, :n]])[None]
        extra = {k: v for k, v in prompt.media.items() if k in ("pixel_values", "image_grid_thw")}
        if extra:
            extra["mm_token_type_ids"] = torch.cat([prompt.visual.long(), torch.zeros(n, dtype=torch.int64)])[None]
        body.config._attn_implementation = "eager"
        with torch.no_grad():
            maps = policy.model(ids, output_attentions=True, **extra).attentions
        body.config._attn_implementation = "mmcredit"
        mean = maps[1 if layer is None else layer][0].mean(0)[len(prompt) - 1 : -1]
        places = torch.arange(len(prompt) - 1, len(prompt) + n - 1)
        count = places + 1
        visible = torch.arange(mean.shape[1]) <= places[:, None]
        nats = torch.special.entr(mean).sum(1)
        for found in (shared, padded):
            torch.testing.assert_close(found[names[1]][row, :n], nats, atol=1e-5, rtol=0)
            torch.testing.assert_close(found[name][row, :n], nats / count.log(), atol=1e-5, rtol=0)
            rest = of_weights(mean, visible, Ask(first=False))
            torch.testing.assert_close(found[names[2]][row, :n], rest, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("view", [CLEAN, BLIND])
def test_layouts_agree(family, view):
    policy, prompts, rollouts = batch(family)
    shared, padded = both(policy, lambda: asked(policy, prompts, rollouts, E, view=view))
    torch.testing.assert_close(shared, padded, atol=1e-5, rtol=0)
    assert not shared[~rollouts.valid].any()
    assert bool((shared[rollouts.valid] > 0).all())
    assert bool((shared <= 1).all())


def test_blind_counts_only_the_keys_that_are_there():
    policy, prompts, rollouts = batch("qwen2_5_vl")
    names = frozenset({E, "logprobs"})
    found = policy.score(prompts, rollouts, [Pass(CLEAN, names), Pass(BLIND, names)], temperature=1.0)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group][:, None] & rollouts.valid
    moved = (found[CLEAN][E] - found[BLIND][E]).abs()
    assert float(moved[sees].max()) > 1e-2
    assert float(moved[rollouts.valid & ~sees].max()) <= 1e-6


def test_no_forward_more_and_the_scores_untouched():
    policy, prompts, rollouts = batch("qwen2_5_vl")
    plain = asked(policy, prompts, rollouts, "logprobs")
    policy.costs.reset()
    found = asked(policy, prompts, rollouts, "logprobs", E, f"{E}:0")
    assert {name: cost["forwards"] for name, cost in policy.costs.read().items()} == {"clean": 1}
    assert torch.equal(found["logprobs"], plain)
    assert float((found[E] - found[f"{E}:0"]).abs().max()) > 1e-3


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_chunks_micro_batches_order_and_padding_content(layout, monkeypatch):
    policy, prompts, rollouts = batch("qwen3_vl", layout=layout)
    policy._layout = layout
    expected = asked(policy, prompts, rollouts, E)
    heads, width = 2, max(len(p) for p in prompts) + rollouts.tokens.shape[1]
    for positions in (1, 3, 40):
        with monkeypatch.context() as patch:
            patch.setattr(attention_entropy, "SCORE_BYTES", 4 * heads * width * positions)
            torch.testing.assert_close(asked(policy, prompts, rollouts, E), expected, atol=1e-6, rtol=0)
    small = asked(policy, prompts, rollouts, E, budget=1 + max(len(p) for p in prompts) + 12)
    torch.testing.assert_close(small, expected, atol=1e-5, rtol=0)
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(1))
    shuffled = asked(policy, prompts, rollouts.select(order), E)
    torch.testing.assert_close(shuffled, expected[order], atol=1e-5, rtol=0)
    tokens = torch.where(rollouts.valid, rollouts.tokens, 77)
    wider = torch.nn.functional.pad
    widened = rollouts.replace(
        tokens=wider(tokens, (0, 5), value=3),
        mask=wider(rollouts.mask, (0, 5)),
        valid=wider(rollouts.valid, (0, 5)),
    )
    torch.testing.assert_close(asked(policy, prompts, widened, E)[:, :-5], expected, atol=1e-6, rtol=0)


def test_scores_in_memory_are_bounded(monkeypatch):
    """No attention map: at most SCORE_BYTES of scores, whatever the number of responses."""
    policy = make_policy("qwen2")
    prompts = [policy.encode(s) for s in samples("qwen2")]
    rollouts = rollouts_for(policy, 3, [[60] * 6, [50] * 6, [40] * 6])
    seen: list[int] = []
    real = attention_entropy.of_weights

    def watch(weights, visible, ask):
        seen.append(weights.numel())
        return real(weights, visible, ask)

    monkeypatch.setattr(attention_entropy, "of_weights", watch)
    monkeypatch.setattr(attention_entropy, "SCORE_BYTES", 40_000)
    asked(policy, prompts, rollouts, E)
    assert len(seen) > 10
    assert max(seen) * 2 * 4 <= 40_000  # two heads


def test_the_reference_and_adapters_have_their_own():
    from mmcredit.policy.config import LoRAConfig

    policy, prompts, rollouts = batch("qwen3", lora=LoRAConfig(rank=4))
    passes = [Pass(CLEAN, frozenset({E})), Pass(REFERENCE, frozenset({E}))]
    found = policy.score(prompts, rollouts, passes, temperature=1.0)
    assert float((found[CLEAN][E] - found[REFERENCE][E]).abs().max()) > 1e-3


def test_never_with_a_gradient_and_checkpointing_does_not_disturb_it():
    policy, prompts, rollouts = batch("qwen3", gradient_checkpointing=True)
    expected = asked(policy, prompts, rollouts, E)
    passes = [Pass(CLEAN, frozenset({E, "logprobs"}))]
    found = policy.forward(prompts, rollouts, range(len(rollouts)), passes, temperature=0.8)[CLEAN]
    assert not found[E].requires_grad
    found["logprobs"].sum().backward()
    torch.testing.assert_close(found[E], expected, atol=1e-5, rtol=0)


def test_bfloat16_is_computed_in_float32():
    model, tokenizer = tiny_text("qwen2")
    exact = Policy(model, tokenizer, None, ModelConfig(path="in memory"))
    prompts = [exact.encode(s) for s in samples("qwen2")]
    rollouts = rollouts_for(exact, 3, [[9], [9], [9]])
    expected = asked(exact, prompts, rollouts, E)
    rough = Policy(model.to(torch.bfloat16), tokenizer, None, ModelConfig(path="in memory"))
    found = asked(rough, prompts, rollouts, E)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=0)


def test_names():
    assert parse(E) == Ask()
    assert parse(f"{E}:3:nats:no_first") == Ask(3, False, False)
    for ask in (Ask(), Ask(2), Ask(0, False), Ask(None, True, False), Ask(1, False, False)):
        assert parse(ask.output) == ask
    for wrong in ("entropy", f"{E}:x", f"{E}:1:2", f"{E}:nats:nats", f"{E}:-1", f"{E}s"):
        assert parse(wrong) is None


def test_bad_layers_are_named():
    policy, prompts, rollouts = batch("qwen3")
    with pytest.raises(ValueError, match=r"layer must be 0\.\.1 in this model, got 7"):
        asked(policy, prompts, rollouts, f"{E}:7")
    with pytest.raises(ValueError, match="unknown output 'attention_entropy:wide'"):
        asked(policy, prompts, rollouts, f"{E}:wide")


def test_models_with_other_layers_take_the_nearest_full_attention():
    class Config:
        num_hidden_layers = 8
        layer_types = ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 3 + ["full_attention"]

    assert softmax_layer(Config, None) == 3
    assert softmax_layer(Config, 7) == 7
    with pytest.raises(ValueError, match="layer 4 of this model is linear_attention"):
        softmax_layer(Config, 4)
    Config.layer_types = ["linear_attention"] * 8
    with pytest.raises(ValueError, match="needs a softmax-attention layer"):
        softmax_layer(Config, None)


def test_a_sliding_window_hides_far_keys():
    """The padded layout knows windows: a key `window` or more places back is not seen."""
    query = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    key = torch.randn(1, 1, 9, 8, generator=torch.Generator().manual_seed(1))
    seen = torch.ones(1, 9, dtype=torch.bool)
    (found,) = attention_entropy._padded(query, key, 0.3, [(6, 9)], seen, 3, [Ask(normalised=False)])
    for i, place in enumerate(range(6, 9)):
        scores = query[0, :, place] @ key[0, 0, place - 2 : place + 1].T * 0.3
        expected = torch.special.entr(scores.softmax(-1).mean(0)).sum()
        assert float(found[i]) == pytest.approx(float(expected), abs=1e-5)


def test_an_architecture_that_drops_keywords_is_named(monkeypatch):
    policy, prompts, rollouts = batch("qwen2")
    monkeypatch.setattr(attention_entropy.Recorder, "take", lambda *args: None)
    with pytest.raises(ValueError, match="attention_entropy cannot be had from this architecture"):
        asked(policy, prompts, rollouts, E)
