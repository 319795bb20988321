"""The shared-prompt layout against the padded one: values, gradients, the blind view, invariances."""

from __future__ import annotations

import warnings

import pytest
import torch
from policy_cases import ALL, FAMILIES, RAGGED, assert_close, batch, both, gradients, rollouts_for, samples, tower_calls

from mmcredit.policy.config import LoRAConfig
from mmcredit.policy.passes import BLIND, CLEAN, REFERENCE, Pass
from mmcredit.policy.policy import Policy


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_equals_padded(family: str, lora: bool) -> None:
    policy, prompts, rollouts = batch(family, lora=LoRAConfig(rank=4) if lora else None)
    passes = [Pass(CLEAN, ALL | {"kl_to:blind"}), Pass(BLIND, ALL)]
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=0.8))
    for view in shared:
        for name, value in shared[view].items():
            torch.testing.assert_close(value, padded[view][name], atol=1e-5, rtol=1e-5)
            assert value.shape == rollouts.tokens.shape
            assert not value[~rollouts.valid].any()
    assert shared[CLEAN]["logprobs"][rollouts.valid].max() < 0
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))]))
    assert_close(a, b, 1e-5)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_gradient_reaches_the_tower_alike(family: str) -> None:
    policy, prompts, rollouts = batch(family)
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, [Pass(CLEAN, ALL)], ("logprobs", "entropy")))
    tower = [n for n in a if "visual" in n and a[n].abs().max() > 1e-6]
    assert len(tower) > 10
    assert_close(a, b, 1e-5)


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_blind_runs_no_tower_and_does_not_see_pixels(family: str, layout: str) -> None:
    policy, prompts, rollouts = batch(family, layout=layout)
    policy._layout = layout
    calls = tower_calls(policy)
    blind = policy.score(prompts, rollouts, [Pass(BLIND, ALL)], temperature=1.0)[BLIND]
    assert calls == []
    assert policy.costs.read()["blind"]["tower_calls"] == 0
    clean = policy.score(prompts, rollouts, [Pass(CLEAN, ALL)], temperature=1.0)[CLEAN]
    assert len(calls) == 1
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    difference = (blind["logprobs"] - clean["logprobs"]).abs()
    assert difference[sees].max() > 1e-2
    assert difference[~sees].max() <= 1e-6


def test_blind_is_not_run_again_for_prompts_without_media() -> None:
    policy, prompts, rollouts = batch("qwen2_5_vl")
    passes = [Pass(CLEAN, frozenset({"logprobs", "kl_to:blind"})), Pass(BLIND, frozenset({"logprobs"}))]
    policy.score(prompts, rollouts, passes, temperature=1.0)
    policy.costs.reset()
    both_views = policy.score(prompts, rollouts, passes, temperature=1.0)
    text_rows = (rollouts.group == 1) & (rollouts.valid.sum(1) > 0)
    assert torch.equal(both_views[CLEAN]["logprobs"][text_rows], both_views[BLIND]["logprobs"][text_rows])
    assert not both_views[CLEAN]["kl_to:blind"][text_rows].any()
    assert (both_views[CLEAN]["kl_to:blind"][~text_rows & (rollouts.valid.sum(1) > 3)].amax(1) > 1e-4).all()
    costs = policy.costs.read()
    text_positions = int(rollouts.valid[text_rows].sum())
    assert costs["clean"]["positions"] - costs["blind"]["positions"] == text_positions
    alone = policy.score(prompts, rollouts, passes[1:], temperature=1.0)[BLIND]["logprobs"]
    torch.testing.assert_close(alone, both_views[BLIND]["logprobs"], atol=1e-6, rtol=0)

    text_only = rollouts.select(text_rows.nonzero()[:, 0])
    policy.costs.reset()
    policy.score(prompts, text_only, passes, temperature=1.0)
    assert "blind" not in policy.costs.read()


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2"])
def test_scores_do_not_depend_on_micro_batches_order_or_padding(family: str, layout: str) -> None:
    policy, prompts, rollouts = batch(family, layout=layout)
    passes = [Pass(CLEAN, ALL | {"kl_to:blind"}), Pass(BLIND, frozenset({"logprobs"}))]
    reference = policy.score(prompts, rollouts, passes, temperature=0.7)

    def check(found, rows=None) -> None:
        for view in reference:
            for name, value in reference[view].items():
                value = value if rows is None else value[rows]
                torch.testing.assert_close(found[view][name], value, atol=2e-6, rtol=1e-6)

    longest = max(len(prompts[g]) + n for g, n in zip(rollouts.group, rollouts.valid.sum(1), strict=True))
    for budget in (longest, 2 * longest, 100_000):
        check(policy.score(prompts, rollouts, passes, temperature=0.7, budget=budget))
    order = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(2))
    check(policy.score(prompts, rollouts.select(order), passes, temperature=0.7), order)
    junk = torch.where(rollouts.valid, rollouts.tokens, torch.full_like(rollouts.tokens, 33))
    check(policy.score(prompts, rollouts.replace(tokens=junk), passes, temperature=0.7))
    wider = torch.nn.functional.pad(rollouts.tokens, (0, 5), value=21)
    mask = torch.nn.functional.pad(rollouts.mask, (0, 5))
    found = policy.score(prompts, rollouts.replace(tokens=wider, mask=mask, valid=mask), passes, temperature=0.7)
    check({v: {n: x[:, :-5] for n, x in o.items()} for v, o in found.items()})


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_gradients_do_not_depend_on_micro_batches(family: str) -> None:
    policy, prompts, rollouts = batch(family)
    passes = [Pass(CLEAN, frozenset({"logprobs"}))]
    whole = gradients(policy, prompts, rollouts, passes)
    weights = torch.randn(rollouts.tokens.shape, generator=torch.Generator().manual_seed(5))
    policy.model.zero_grad()
    batches = policy.micro_batches(prompts, rollouts, budget=80 if family.endswith("vl") else 60)
    assert len(batches) > 2
    for micro in batches:
        rows = list(micro.rows)
        out = policy.forward(prompts, rollouts, rows, passes, temperature=0.8)[CLEAN]["logprobs"]
        (out * weights[rows]).sum().backward()
    parts = {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}
    assert_close(parts, whole, 2e-6)


def test_shared_computes_each_prompt_once_and_no_padding() -> None:
    policy, prompts, rollouts = batch("qwen2_5_vl")
    policy.layout(prompts, rollouts)
    policy.costs.reset()
    policy.score(prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    responses = sum(n - 1 for group in RAGGED for n in group)
    assert policy.costs.read()["clean"]["tokens"] == sum(len(p) for p in prompts) + responses
    assert policy.costs.read()["clean"]["positions"] == sum(n for group in RAGGED for n in group)


def test_one_tokens_weight_moves_only_its_own_gradient() -> None:
    policy, prompts, rollouts = batch("qwen2")
    rows = list(range(len(rollouts)))
    out = policy.forward(prompts, rollouts, rows, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    logprobs = out[CLEAN]["logprobs"]
    head = policy.body.head.weight
    one = torch.autograd.grad(logprobs[0, 2], head, retain_graph=True)[0]
    weights = torch.ones_like(logprobs)
    before = torch.autograd.grad((logprobs * weights).sum(), head, retain_graph=True)[0]
    weights[0, 2] = 3.0
    after = torch.autograd.grad((logprobs * weights).sum(), head)[0]
    torch.testing.assert_close(after - before, 2 * one, atol=1e-5, rtol=1e-4)


def test_architecture_that_ignores_the_layout_falls_back_with_a_reason() -> None:
    policy, prompts, rollouts = batch("qwen3")
    policy.body.config._attn_implementation = "sdpa"  # the keyword arrives, but nothing reads it
    with pytest.warns(
        UserWarning, match=r"model.layout=shared cannot be used with Qwen3ForCausalLM: its log-probs differ"
    ):
        found = policy.score(prompts, rollouts, [Pass(CLEAN, ALL)], temperature=1.0)
    assert policy.layout(prompts, rollouts) == "padded"
    proper, _, _ = batch("qwen3", layout="padded")
    expected = proper.score(prompts, rollouts, [Pass(CLEAN, ALL)], temperature=1.0)
    torch.testing.assert_close(found[CLEAN]["logprobs"], expected[CLEAN]["logprobs"], atol=1e-6, rtol=0)


def windowed(window: int) -> Policy:
    """Qwen2 with one full and one sliding layer, or (window 0) none that slides."""
    from tiny import tiny_tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=window > 0, sliding_window=window, max_window_layers=1,
        initializer_range=0.3,
    )  # fmt: skip
    return Policy(Qwen2ForCausalLM(config), tokenizer)


def test_sliding_windows_are_exact_in_the_shared_layout() -> None:
    policy = windowed(4)
    prompts = [policy.encode(s) for s in samples("qwen2")]
    rollouts = rollouts_for(policy, len(prompts), RAGGED[:3])
    passes = [Pass(CLEAN, ALL | {"attention_entropy:1"})]
    assert policy.layout(prompts, rollouts) == "shared"
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0)[CLEAN])
    for name, values in shared.items():
        torch.testing.assert_close(values, padded[name], atol=1e-5, rtol=1e-5)
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))]))
    assert_close(a, b, 1e-5)
    # The window matters, and one that hides nothing is no window.
    passes = [Pass(CLEAN, frozenset({"logprobs"}))]
    values = [windowed(w).score(prompts, rollouts, passes, temperature=1.0)[CLEAN]["logprobs"] for w in (0, 4, 4000)]
    assert float((values[0] - values[1]).abs().max()) > 1e-2
    torch.testing.assert_close(values[0], values[2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_use_accepts_the_verified_families_in_bfloat16(family: str) -> None:
    policy, prompts, rollouts = batch(family)
    policy.model.bfloat16()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert policy.layout(prompts, rollouts) == "shared"
    passes = [Pass(CLEAN, frozenset({"logprobs"}))]
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0)[CLEAN]["logprobs"])
    assert shared.dtype == torch.float32
    torch.testing.assert_close(shared, padded, atol=5e-2, rtol=0)


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, prompts, rollouts = batch("qwen3_vl")
    passes = [Pass(CLEAN, frozenset({"logprobs"})), Pass(BLIND, frozenset({"logprobs"}))]
    expected = gradients(plain, prompts, rollouts, passes)
    policy, _, _ = batch("qwen3_vl", gradient_checkpointing=True)
    runs: list[int] = []
    policy.body.language_model.layers[0].self_attn.register_forward_hook(lambda *a: runs.append(1))
    policy.layout(prompts, rollouts)
    runs.clear()
    found = gradients(policy, prompts, rollouts, passes)
    assert len(runs) == 4  # two views, each recomputed
    policy.score(prompts, rollouts, passes, temperature=1.0)
    assert not policy.model.training
    assert_close(found, expected, 1e-5)


def test_reference_is_the_base_with_lora_and_a_copy_without() -> None:
    passes = [
        Pass(CLEAN, frozenset({"logprobs", "kl_to:reference"})),
        Pass(REFERENCE, frozenset({"logprobs"})),
    ]
    base, prompts, rollouts = batch("qwen2_5_vl")
    expected = base.score(prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    with pytest.raises(ValueError, match="asks for the reference model, but there is none"):
        base.score(prompts, rollouts, passes, temperature=1.0)

    adapted, _, _ = batch("qwen2_5_vl", lora=LoRAConfig(rank=4))
    base.keep_reference()
    with torch.no_grad():
        base.body.head.weight.mul_(1.1)
        base.body.language_model.layers[0].mlp.up_proj.weight.mul_(1.5)
    base.weights_changed()
    for policy in (adapted, base):
        found = policy.score(prompts, rollouts, passes, temperature=1.0)
        torch.testing.assert_close(found[REFERENCE]["logprobs"], expected[CLEAN]["logprobs"], atol=1e-5, rtol=0)
        assert (found[CLEAN]["logprobs"] - expected[CLEAN]["logprobs"]).abs().max() > 1e-3
        assert found[CLEAN]["kl_to:reference"][rollouts.valid].min() > 1e-7
        out = policy.forward(prompts, rollouts, [0, 3, 4], passes, temperature=1.0)
        assert out[CLEAN]["kl_to:reference"].requires_grad
        assert not out[REFERENCE]["logprobs"].requires_grad
        out[CLEAN]["kl_to:reference"].sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in policy.trainable_parameters().values() if p.grad is not None)


def test_lora_merged_and_unmerged_score_alike() -> None:
    policy, prompts, rollouts = batch("qwen3_vl", lora=LoRAConfig(rank=4, alpha=8))
    assert all("lora_" in name and "visual" not in name for name in policy.trainable_parameters())
    passes = [Pass(CLEAN, ALL)]
    before = policy.score(prompts, rollouts, passes, temperature=1.0)[CLEAN]["logprobs"]
    policy.model.merge_adapter()
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0)[CLEAN]["logprobs"])
    torch.testing.assert_close(shared, padded, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared, before, atol=1e-4, rtol=0)
    policy.model.unmerge_adapter()


def test_other_views_come_from_their_own_prompts() -> None:
    """The seam for masked and corrupted images: a view with other pixels and the same tokens."""
    from dataclasses import replace

    from mmcredit.policy.passes import View

    policy, prompts, rollouts = batch("qwen2_5_vl")
    black = View("black")
    with pytest.raises(ValueError, match="unknown view 'black'; known: blind, clean"):
        policy.score(prompts, rollouts, [Pass(black, ALL)], temperature=1.0)

    def blackened(view, prompt):
        if not prompt.media_keys:
            return prompt
        media = {k: torch.full_like(v, -1.0) if k == "pixel_values" else v for k, v in prompt.media.items()}
        return replace(prompt, media=media, media_keys=tuple(f"{k}:black" for k in prompt.media_keys))

    policy.view_prompts["black"] = blackened
    found = policy.score(prompts, rollouts, [Pass(CLEAN, ALL), Pass(black, ALL)], temperature=1.0)
    direct = policy.score([blackened(black, p) for p in prompts], rollouts, [Pass(CLEAN, ALL)], temperature=1.0)
    torch.testing.assert_close(found[black]["logprobs"], direct[CLEAN]["logprobs"], atol=1e-6, rtol=0)
    assert (found[black]["logprobs"] - found[CLEAN]["logprobs"]).abs().max() > 1e-2


def test_the_flash_route_is_the_masked_one() -> None:
    """What half precision on CUDA takes where no prompt is padded, run on the CPU."""
    from mmcredit.policy import attention
    from mmcredit.policy.layout import Rectangle, ResponseBatch

    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 5, 4, 32, generator=generator)
    k, v = torch.randn(2, 3, 7 + 5, 2, 32, generator=generator)
    places = torch.arange(7).expand(3, -1), torch.arange(7, 12).expand(3, -1)
    batch_ = ResponseBatch(Rectangle(0, 15, 3, 5, None, None, None), None, (7, 7, 7), 7, q.device, places)
    assert batch_.plain
    options = {"scale": 0.2, "dropout_p": 0.0}
    masked = attention._attend_responses(q, k, v, batch_, None, options)
    torch.testing.assert_close(attention._lower_right(q, k, v, options), masked, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2"])
def test_generation_is_untouched_by_our_attention(family: str) -> None:
    """Without a layout the registered attention is sdpa, masks, cache and all."""
    policy, prompts, _ = batch(family)
    generated = []
    for name in ("mmcredit", "sdpa"):
        policy.body.config._attn_implementation = name
        width = max(len(p) for p in prompts)
        pad = policy.tokenizer.pad_token_id
        ids = torch.stack([torch.nn.functional.pad(p.tokens, (width - len(p), 0), value=pad) for p in prompts])
        mask = torch.stack([torch.nn.functional.pad(torch.ones(len(p)).long(), (width - len(p), 0)) for p in prompts])
        media = {}
        if family.endswith("vl"):
            with_media = [p for p in prompts if p.media]
            media = {k: torch.cat([p.media[k] for p in with_media]) for k in with_media[0].media}
            media["mm_token_type_ids"] = torch.stack(
                [torch.nn.functional.pad(p.visual.long(), (width - len(p), 0)) for p in prompts]
            )
        policy.model.model.rope_deltas = None
        generated.append(
            policy.model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, **media)[:, width:]
        )
    assert torch.equal(*generated)
