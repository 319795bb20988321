"""Images go through the tower once per pass; what is remembered is remembered only as long as it is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy_cases import ALL, batch, both, gradients, make_policy, rollouts_for, sample, tower_calls

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.config import LoRAConfig
from mmcredit.policy.passes import BLIND, CLEAN, REFERENCE, Pass

CLEAN_ONLY = [Pass(CLEAN, frozenset({"logprobs"}))]


def shared_images(family: str = "qwen2_5_vl", **options):
    """Three prompts over two distinct images; patches of the two together."""
    policy = make_policy(family, **options)
    made = [
        sample("a", "how many", [(64, 0)]),
        sample("b", "what is left", [(64, 0)]),
        sample("c", "which is blue", [(64, 0), ((96, 64), 1)]),
    ]
    prompts = [policy.encode(s) for s in made]
    rollouts = rollouts_for(policy, 3, [[4, 5], [3, 1], [6, 6]])
    policy.layout(prompts, rollouts)
    return policy, prompts, rollouts, int(prompts[2].media["image_grid_thw"].prod(-1).sum())


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_frozen_tower_runs_once_per_distinct_image_ever(layout: str) -> None:
    policy, prompts, rollouts, patches = shared_images(freeze_vision=True)
    policy._layout = layout
    calls = tower_calls(policy)
    passes = [Pass(CLEAN, frozenset({"logprobs", "kl_to:blind"})), Pass(BLIND, frozenset({"logprobs"}))]
    policy.score(prompts, rollouts, passes, temperature=1.0)
    assert calls == [patches]
    policy.weights_changed()
    policy.score(prompts, rollouts, passes, temperature=1.0)
    policy.forward(prompts, rollouts, range(6), passes, temperature=1.0)[CLEAN]["logprobs"].sum().backward()
    policy.embed(prompts)
    assert calls == [patches]
    assert policy.costs.read()["clean"]["tower_calls"] == 1
    assert policy.costs.read()["clean"]["patches"] == patches


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_trained_tower_runs_once_per_pass_and_never_with_old_weights(family: str) -> None:
    policy, prompts, rollouts, patches = shared_images(family)
    calls = tower_calls(policy)
    before = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)
    assert calls == [patches]  # the same weights: remembered
    policy.forward(prompts, rollouts, range(6), CLEAN_ONLY, temperature=1.0)
    assert calls == [patches, patches]  # the graph reaches into the tower
    with torch.no_grad():
        for p in policy.tower.parameters():
            p.mul_(1.3)
    policy.weights_changed()
    after = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    assert calls == [patches] * 3
    assert (before - after).abs().max() > 1e-3


def test_memory_of_features_is_bounded() -> None:
    policy, prompts, rollouts, _ = shared_images(freeze_vision=True)
    vision = policy.body.vision
    vision.clear()
    vision.limit = 64 * 4 * 5  # five tokens' worth: the 4-token image fits, the 6-token one does not
    calls = tower_calls(policy)
    first = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    assert vision._held <= vision.limit
    second = policy.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    assert len(calls) == 2
    assert calls[1] < calls[0]
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    policy.drop_caches()
    assert vision._held == 0


def test_first_use_check_leaves_no_features_behind() -> None:
    policy, *_ = shared_images(freeze_vision=True)  # asks for the layout
    assert policy._layout == "shared"
    assert not policy.body.vision._cache


def test_adapters_in_the_tower_do_not_mix_with_the_reference() -> None:
    plain, prompts, rollouts = batch("qwen2_5_vl")
    expected = plain.score(prompts, rollouts, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"]
    policy, _, _ = batch(
        "qwen2_5_vl", lora=LoRAConfig(rank=4, target_modules=r".*visual\.blocks.*\.(qkv|proj|up_proj)")
    )
    assert all("visual" in name for name in policy.trainable_parameters())
    passes = [Pass(CLEAN, frozenset({"logprobs"})), Pass(REFERENCE, frozenset({"logprobs"}))]
    for _ in range(2):
        found = policy.score(prompts, rollouts, passes, temperature=1.0)
        torch.testing.assert_close(found[REFERENCE]["logprobs"], expected, atol=1e-5, rtol=0)
        assert (found[CLEAN]["logprobs"] - expected).abs().max() > 1e-3
    a, b = both(policy, lambda: gradients(policy, prompts, rollouts, CLEAN_ONLY))
    assert a.keys() == b.keys()
    for name, value in b.items():
        torch.testing.assert_close(a[name], value, atol=1e-5, rtol=1e-4)


def test_reference_copy_shares_the_features_of_a_frozen_tower() -> None:
    policy, prompts, rollouts, patches = shared_images(freeze_vision=True)
    policy.keep_reference()
    calls = tower_calls(policy)
    reference_calls: list[int] = []
    policy.reference.base.visual.register_forward_hook(lambda *a: reference_calls.append(1))
    policy.score(prompts, rollouts, [*CLEAN_ONLY, Pass(REFERENCE, frozenset({"logprobs"}))], temperature=1.0)
    assert calls == [patches]
    assert reference_calls == []


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_embed_gives_what_the_model_embeds(family: str) -> None:
    policy, prompts, _, _ = shared_images(family)
    seen: dict[str, object] = {}

    def keep(module, args, kwargs):
        seen.update(kwargs)

    policy.body.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    for prompt, embedded in zip(prompts, policy.embed(prompts), strict=True):
        with torch.no_grad():
            policy.model(prompt.tokens[None], mm_token_type_ids=prompt.visual.long()[None], **prompt.media)
        torch.testing.assert_close(embedded.embeds, seen["inputs_embeds"][0], atol=1e-6, rtol=0)
        assert torch.equal(embedded.positions, seen["position_ids"][:, 0])
        if family == "qwen3_vl":
            for ours, theirs in zip(embedded.deepstack, seen["deepstack_visual_embeds"], strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
            assert torch.equal(embedded.visual, seen["visual_pos_masks"][0])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_beside_images(family: str) -> None:
    policy = make_policy(family)

    def load(media: Media):
        frames = np.random.RandomState(0).randint(0, 255, (4, 64, 64, 3), dtype=np.uint8)
        about = {"fps": 2.0, "duration": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
        return frames, about

    parts = [{"type": "video"}, {"type": "text", "text": "what moves"}, {"type": "image"}]
    image = sample("x", "", [(64, 0)]).media[0]
    mixed = Sample("mixed", ({"role": "user", "content": parts},), (Media("video", data=b"frames"), image))
    policy.encoder.find_video = lambda: None  # as where nothing that reads videos is installed
    with pytest.raises(ValueError, match="sample mixed has a video, but nothing that reads videos is"):
        policy.encode(mixed)
    policy.encoder.load_video = load
    prompts = [policy.encode(mixed), policy.encode(sample("text", "how many", []))]
    assert len(prompts[0].media_keys) == 2
    assert prompts[0].media_keys[0].startswith(policy.encoder.content_key(image))  # images first
    rollouts = rollouts_for(policy, 2, [[5, 3], [2]])
    passes = [Pass(CLEAN, ALL), Pass(BLIND, ALL)]
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0))
    for view in shared:
        torch.testing.assert_close(shared[view]["logprobs"], padded[view]["logprobs"], atol=1e-5, rtol=0)
    ids = torch.cat([prompts[0].tokens, rollouts.tokens[0]])[None]
    types = torch.zeros_like(ids)
    types[0, : len(prompts[0])][prompts[0].tokens == policy.body.kinds["image"]] = 1
    types[0, : len(prompts[0])][prompts[0].tokens == policy.body.kinds["video"]] = 2
    # positions as generation has them: behind the largest of the prompt
    step = torch.arange(5) + prompts[0].next_position
    positions = torch.cat([prompts[0].positions, step.expand(3, -1)], 1)[:, None]
    media = {k: v for k, v in prompts[0].media.items() if k != "second_per_grid_ts"}
    with torch.no_grad():
        raw = policy.model(ids, mm_token_type_ids=types, position_ids=positions, **media).logits[
            0, len(prompts[0]) - 1 : -1
        ]
    raw[:, list(policy.suppressed_ids)] = -torch.inf
    expected = raw.log_softmax(-1).gather(1, rollouts.tokens[0][:, None])[:, 0]
    torch.testing.assert_close(shared[CLEAN]["logprobs"][0], expected, atol=1e-5, rtol=0)


def test_media_for_a_text_model_are_refused() -> None:
    policy = make_policy("qwen3")
    with pytest.raises(ValueError, match="sample a has image media, but the model reads text only"):
        policy.encode(sample("a", "how many", [(64, 0)]))


def test_media_without_grids_are_refused_with_the_reason() -> None:
    from dataclasses import replace

    policy, prompts, rollouts, _ = shared_images()
    media = {"pixel_values": prompts[0].media["pixel_values"]}
    odd = [replace(p, media=media) for p in prompts]
    with pytest.raises(
        ValueError, match=r"sample a: 1 media, but the processor describes 0 by patches or tiles .*pixel_values"
    ):
        policy.score(odd, rollouts, CLEAN_ONLY, temperature=1.0)
