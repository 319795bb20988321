"""Samples become prompts: what the processor says, nothing cut off, and errors that name the sample."""

from __future__ import annotations

import pytest
import torch
from policy_cases import make_policy, sample
from tiny import tiny_image, tiny_png

from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_prompt_equals_the_processors(family: str) -> None:
    policy = make_policy(family)
    made = sample("two", "which image is blue", [(64, 0), ((96, 128), 2)])
    prompt = policy.encode(made)
    text = policy.processor.apply_chat_template(
        [dict(m) for m in made.messages], tokenize=False, add_generation_prompt=True
    )
    expected = policy.processor(text=[text], images=[tiny_image(64, 0), tiny_image((96, 128), 2)], return_tensors="pt")
    assert torch.equal(prompt.tokens, expected["input_ids"][0])
    assert torch.equal(prompt.visual, expected["mm_token_type_ids"][0] == 1)
    assert torch.equal(prompt.media["image_grid_thw"], expected["image_grid_thw"])
    torch.testing.assert_close(prompt.media["pixel_values"], expected["pixel_values"])
    positions, deltas = policy.body.base.get_rope_index(
        expected["input_ids"], mm_token_type_ids=expected["mm_token_type_ids"],
        image_grid_thw=expected["image_grid_thw"], attention_mask=expected["attention_mask"],
    )  # fmt: skip
    assert torch.equal(prompt.positions, positions[:, 0])
    assert prompt.next_position == len(prompt) + int(deltas)
    assert prompt.next_position < len(prompt)  # images take fewer positions than tokens
    assert policy.encoder._expands
    # for engines that expand themselves: one placeholder per image
    pad = policy.body.kinds["image"]
    assert int((prompt.unexpanded == pad).sum()) == 2
    assert torch.equal(prompt.unexpanded[prompt.unexpanded != pad], prompt.tokens[prompt.tokens != pad])


def test_text_prompts() -> None:
    for family in ("qwen2_5_vl", "qwen3"):
        policy = make_policy(family)
        for content in ("how many", [{"type": "text", "text": "how many"}]):
            prompt = policy.encode(Sample("t", ({"role": "user", "content": content},)))
            text = policy.tokenizer.decode(prompt.tokens)
            assert text == "<|im_start|>user\nhow many<|im_end|>\n<|im_start|>assistant\n"  # no system prompt of ours
            assert prompt.positions.shape == ((3, len(prompt)) if family.endswith("vl") else (len(prompt),))
            assert prompt.next_position == len(prompt)
            assert not prompt.visual.any()
            assert prompt.media_keys == ()


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_reserved_tokens_in_text_are_refused(family: str, token: str) -> None:
    policy = make_policy(family)
    text = f"look at {token} here"
    for content in (text, [{"type": "text", "text": text}]):
        bad = Sample("bad-7", ({"role": "user", "content": content},))
        with pytest.raises(
            ValueError, match="sample bad-7: the text of a user message contains the reserved token"
        ) as e:
            policy.encode(bad)
        assert repr(token) in str(e.value)


def test_too_long_a_prompt_is_refused_and_never_cut() -> None:
    policy = make_policy("qwen2_5_vl")
    made = sample("long-3", "how many red squares", [((196, 196), 0)])
    n = len(policy.encode(made))
    assert len(policy.encode(made, max_tokens=n)) == n
    with pytest.raises(ValueError, match=rf"sample long-3: the prompt has {n} tokens \(49 of them visual\), more than "
                       rf"data.max_prompt_tokens={n - 1}"):  # fmt: skip
        policy.encode(made, max_tokens=n - 1)


def test_bad_images_name_their_sample(tmp_path) -> None:
    policy = make_policy("qwen2_5_vl")
    message = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},)
    cut = tiny_png(64)[:60]
    for media, pattern in (
        (Media("image", data=cut), "damaged"),
        (Media("image", data=b"no image"), "damaged"),
        (Media("image", path=tmp_path / "gone.png"), "cannot be read"),
    ):
        with pytest.raises(ValueError, match=f"sample broken: .*{pattern}"):
            policy.encode(Sample("broken", message, (media,)))
    policy.media_limits = MediaLimits(max_pixels=100)
    with pytest.raises(ValueError, match=r"sample broken: .*max_pixels=100"):
        policy.encode(Sample("broken", message, (Media("image", data=tiny_png(64, 9)),)))


def test_an_image_is_preprocessed_once_whatever_the_text() -> None:
    policy = make_policy("qwen3_vl")
    first = policy.encode(sample("a", "how many", [(64, 0)]))
    decoded = []
    load = policy.encoder.load_image
    policy.encoder.load_image = lambda media: decoded.append(media) or load(media)
    second = policy.encode(sample("b", "what is left", [(64, 0)]))
    assert decoded == []
    assert second.media["pixel_values"] is first.media["pixel_values"]
    assert second.media_keys == first.media_keys
    other = policy.encode(sample("c", "how many", [(64, 1)]))
    assert len(decoded) == 1
    assert other.media_keys != first.media_keys
    assert policy.encoder.pixels.hits == 1


def test_pixel_memory_is_bounded() -> None:
    policy = make_policy("qwen2_5_vl", pixel_cache_mb=0)
    made = sample("a", "how many", [(64, 0)])
    for _ in range(2):
        policy.encode(made)
    assert policy.encoder.pixels.hits == 0
    assert policy.encoder.pixels._held == 0


def test_processor_that_expands_differently_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("qwen2_5_vl")
    usual = policy.processor.replace_image_token
    monkeypatch.setattr(
        policy.processor, "replace_image_token", lambda *a, **k: "<|object_ref_start|>" + usual(*a, **k)
    )
    with pytest.warns(UserWarning, match="expands image placeholders in its own way"):
        first = policy.encode(sample("a", "how many", [(64, 0)]))
    again = policy.encode(sample("a", "how many", [(64, 0)]))
    marker = policy.tokenizer.convert_tokens_to_ids("<|object_ref_start|>")
    assert marker in first.tokens.tolist()
    assert torch.equal(first.tokens, again.tokens)


def test_chat_template_variables_reach_the_template() -> None:
    policy = make_policy("qwen3", chat_template={"mood": "brief"})
    policy.tokenizer.chat_template = "{{ mood }}: {{ messages[0]['content'] }}"
    prompt = policy.encode(Sample("t", ({"role": "user", "content": "how many"},)))
    assert policy.tokenizer.decode(prompt.tokens) == "brief: how many"
