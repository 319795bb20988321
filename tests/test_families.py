"""Every vision family: our passes against the model's own forward, the two layouts, views, and the sampler."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from families import TILED
from family_cases import family_batch, family_policy, own_logprobs
from PIL import Image
from policy_cases import ALL, assert_close, both, gradients, rollouts_for, sample, tower_calls
from tiny import tiny_image

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.costs import ViewCost
from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.policy.views import furnish_views
from mmcredit.policy.vision import items, parameters_of
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.hf.component import HF
from mmcredit.train.engines.deepspeed.scope import without_frozen_tower

LOGPROBS = frozenset({"logprobs"})


@pytest.mark.parametrize("family", TILED)
def test_passes_are_the_models_own_forward(family: str) -> None:
    policy, prompts, rollouts = family_batch(family)
    shared, padded = both(
        policy,
        lambda: policy.score(
            prompts, rollouts, [Pass(CLEAN, ALL | {"kl_to:blind"}), Pass(BLIND, ALL)], temperature=1.0
        ),
    )
    found = padded[CLEAN]["logprobs"]
    for row, group in enumerate(rollouts.group.tolist()):
        tokens = rollouts.tokens[row][rollouts.valid[row]]
        expected = own_logprobs(policy, prompts[group], tokens)
        torch.testing.assert_close(found[row, : len(tokens)], expected, atol=2e-5, rtol=0)
    for view in shared:
        for name, value in shared[view].items():
            torch.testing.assert_close(value, padded[view][name], atol=2e-5, rtol=1e-5)
    moved = (shared[BLIND]["logprobs"] - shared[CLEAN]["logprobs"]).abs().amax(1)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    assert float(moved[sees].min()) > 1e-4
    assert float(moved[~sees].max()) <= 1e-6


@pytest.mark.parametrize("family", TILED)
def test_gradients_of_both_layouts_reach_tower_and_projector_alike(family: str) -> None:
    policy, prompts, rollouts = family_batch(family)
    calls = tower_calls(policy)
    policy._layout = "shared"
    passes = [Pass(CLEAN, LOGPROBS), Pass(BLIND, LOGPROBS)]
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, passes))
    assert len(calls) <= 4  # one call a pass, two where images differ in kind; each image once
    assert_close(a, b, 2e-5)
    vision = [n for n in a if "language_model" not in n and "text_model" not in n and "lm_head" not in n]
    reached = [n for n in vision if float(a[n].abs().max()) > 1e-7]
    assert len(reached) > 0.6 * len(vision)
    assert any("projector" in n or "connector" in n for n in reached)


@pytest.mark.parametrize("family", TILED)
def test_sampler_and_trainer_agree(family: str) -> None:
    policy, prompts, _ = family_batch(family)
    engine = HF().open(policy)
    requests = [Request(p, (1, 2, 3), tag=i) for i, p in enumerate(prompts)]
    responses = engine.generate(requests, Sampling(max_new_tokens=12))
    for response in responses:
        tokens = torch.tensor(response.tokens)
        expected = own_logprobs(policy, prompts[response.tag], tokens)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", TILED)
def test_masked_and_corrupted_views(family: str) -> None:
    from mmcredit.policy.passes import MASKED, corrupted

    policy, prompts, rollouts = family_batch(family)
    views = furnish_views(policy, {}, 1)
    (item,) = items(prompts[2])  # as large as a tile; Idefics3 resizes it to and fro
    shown = np.asarray(views.pixels.pictures(item, "small")[0], dtype=float)
    assert np.abs(shown - np.asarray(tiny_image(32, 1), dtype=float)).mean() <= 6
    passes = [Pass(CLEAN, LOGPROBS), Pass(MASKED, LOGPROBS), Pass(corrupted(0), LOGPROBS)]
    found = policy.score(prompts, rollouts, passes, temperature=1.0)
    sees = torch.tensor([bool(p.visual.any()) for p in prompts])[rollouts.group]
    for view in (MASKED, corrupted(0)):
        moved = (found[view]["logprobs"] - found[CLEAN]["logprobs"]).abs().amax(1)
        assert float(moved[sees].max()) > 1e-4
        assert float(moved[~sees].max()) <= 1e-6


@pytest.mark.parametrize("family", TILED)
def test_a_rank_without_an_image_runs_the_tower_on_a_blank(family: str) -> None:
    """What ranks in step do: the whole vision side gets a gradient, of zeros."""
    policy, prompts, _ = family_batch(family)
    vision = policy.body.vision
    assert vision is not None
    found = vision.features([prompts[1]], "policy", ViewCost(), kinds=["image"])
    (0 * found["image"].embeds.sum()).backward()
    used = [p for part in vision.parts.values() for p in parameters_of(part) if p.grad is not None]
    assert len(used) > 10
    assert not any(bool(p.grad.any()) for p in used if p.grad is not None)


def test_deepspeed_is_not_given_a_frozen_vision_side() -> None:
    policy = family_batch("llava_onevision", freeze_vision=True)[0]
    before = set(dict(policy.model.named_parameters()))
    with without_frozen_tower(policy):
        inside = set(dict(policy.model.named_parameters()))
        assert inside == {n for n in before if "language_model" in n or "lm_head" in n}
    assert set(dict(policy.model.named_parameters())) == before


@pytest.mark.parametrize("family", ["gemma3", "internvl"])
def test_bfloat16(family: str) -> None:
    policy, prompts, rollouts = family_batch(family)
    policy.model.bfloat16()
    assert policy.layout(prompts, rollouts) == "shared"
    policy.check_family(prompts)


def test_an_image_is_encoded_once_for_a_group_and_remembered_by_what_it_is_cut_into() -> None:
    """LLaVA-OneVision cuts no tiles where a prompt has several images: the same picture is then another feature."""
    policy = family_policy("llava_onevision", freeze_vision=True)
    alone = policy.encode(sample("alone", "what", [((120, 60), 0)]))
    again = policy.encode(sample("again", "how many", [((120, 60), 0)]))
    pair = policy.encode(sample("pair", "which", [((120, 60), 0), ((120, 60), 0)]))
    assert alone.media_keys == again.media_keys
    assert set(pair.media_keys).isdisjoint(alone.media_keys)
    assert int(pair.visual.sum()) // 2 < int(alone.visual.sum())
    calls = tower_calls(policy)
    prompts = [alone, again, pair]
    rollouts = rollouts_for(policy, 3, [[3, 4], [2], [5, 2]])
    policy._layout = "shared"
    for _ in range(2):
        policy.score(prompts, rollouts, [Pass(CLEAN, LOGPROBS)], temperature=1.0)
    assert len(calls) == 2  # one for pictures of their own, one for those in company; the second pass remembers


def test_a_tile_that_is_all_zeros_is_not_lost() -> None:
    """Idefics3 takes tiles of zeros for padding; without normalisation a black picture is one."""
    policy = family_policy("idefics3")
    policy.processor.image_processor.do_normalize = False
    content = [{"type": "image"}, {"type": "text", "text": "what"}]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, format="PNG")
    black = Sample("black", ({"role": "user", "content": content},), (Media("image", data=buffer.getvalue()),))
    prompt = policy.encode(black)
    assert not prompt.media["pixel_values"].any()
    found = policy.score([prompt], rollouts_for(policy, 1, [[3]]), [Pass(CLEAN, LOGPROBS)], temperature=1.0)
    assert bool((found[CLEAN]["logprobs"] < 0).all())
    assert not prompt.media["pixel_values"].any()  # what is remembered stays as it was
