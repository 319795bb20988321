"""The embedded models load without a network, fit what the engines want, and answer in format."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmcredit import compat  # noqa: F401  (before anything imports torchvision)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ASSETS = Path(str(files("mmcredit"))) / "assets"
VISION = ("tiny-qwen2_5-vl", "tiny-qwen2_5-vl-scenes", "tiny-qwen3-vl")
NAMES = (*VISION, "tiny-qwen3")
FORMAT = r"<think>[^<>]+</think><answer>[^<>]+</answer>"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(name: str):
    """Model and processor (or tokenizer) as a user loads them, without a dtype."""
    if name in VISION:
        kind, processor = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
    else:
        kind, processor = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
    return kind.from_pretrained(ASSETS / name).eval(), processor.from_pretrained(ASSETS / name)


def tokenizer_of(processor):
    return getattr(processor, "tokenizer", processor)


def sample(model, processor, inputs) -> list[str]:
    tokenizer = tokenizer_of(processor)
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=48,
            do_sample=True,
            top_k=0,
            suppress_tokens=tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"]),
        )
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def in_format(texts: list[str]) -> float:
    import re

    return sum(re.fullmatch(FORMAT, text) is not None for text in texts) / len(texts)


@pytest.mark.parametrize("name", NAMES)
def test_loads_offline_in_float32_with_head_dim_32(name):
    model, processor = load(name)
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    assert head_dim == 32  # vLLM's CPU attention refuses 16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert text.vocab_size == len(tokenizer_of(processor))


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_single_ids_and_known_to_the_config(name):
    model, processor = load(name)
    tokenizer = tokenizer_of(processor)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.padding_side == "left"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    for token in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer(token)["input_ids"]) == 1
    if name in VISION:
        assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert model.config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_writes_any_text_and_splits_digits(name):
    tokenizer = tokenizer_of(load(name)[1])
    for text in ("a small red star left of 3 bars", "Größe: 47 µm, 漢字 🙂", "<think>x</think><answer>no</answer>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.tokenize("345") == ["3", "4", "5"]


@pytest.mark.parametrize("name", VISION)
def test_chat_template_renders_media_and_adds_no_system_message(name):
    processor = load(name)[1]
    content = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "what shape is present?"}]
    messages = [{"role": "user", "content": content}]
    assert processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>"
        "what shape is present?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", VISION)
@pytest.mark.skipif(find_spec("easy_vqa") is None, reason="needs the extra easy-vqa")
def test_answers_in_format_about_a_real_image(name):
    from easy_vqa import get_test_image_paths, get_test_questions
    from PIL import Image

    model, processor = load(name)
    questions, _, image_ids = (column[:32] for column in get_test_questions())
    paths = get_test_image_paths()
    images = [Image.open(paths[i]).convert("RGB") for i in image_ids]
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).eq(16).all()
    assert in_format(sample(model, processor, inputs)) >= 0.9


def test_answers_about_a_scene_follow_its_format_and_its_picture():
    from mmcredit.data.scenes import KINDS, draw, make_question, setting_of

    model, processor = load("tiny-qwen2_5-vl-scenes")
    questions = [make_question(setting_of("easy"), KINDS, 7, "test", i) for i in range(60)]
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q.text}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for q in questions
    ]
    pictures = [draw(q.scene, 96) for q in questions]

    def right(images) -> int:
        inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer_of(processor).batch_decode(new, skip_special_tokens=True)
        assert in_format(texts) >= 0.9
        return sum(t.endswith(f"<answer>{q.answer}</answer>") for t, q in zip(texts, questions, strict=True))

    seen, exchanged = right(pictures), right(pictures[1:] + pictures[:1])
    assert 18 <= seen <= 45  # half-way, on purpose
    assert seen >= exchanged + 8


def test_answers_in_format_about_a_sum():
    model, tokenizer = load("tiny-qwen3")
    sums = [f"{a} {sign} {b}" for a in (3, 48) for b in (7, 25) for sign in "+-"]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"State the final answer to the following arithmetic problem: {text} ="}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for text in sums * 4
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    assert in_format(sample(model, tokenizer, inputs)) >= 0.9


@pytest.mark.parametrize("name", NAMES)
def test_provenance_states_a_cold_start_that_leaves_room(name):
    record = json.loads((ASSETS / name / "provenance.json").read_text(encoding="utf-8"))
    main = record["test"]["chain_sum" if name == "tiny-qwen3" else "open"]
    assert main["greedy_n"] >= 1000
    assert 0.35 <= main["greedy_accuracy"] <= 0.65
    assert main["sampled_format"] >= 0.95
    assert main["mixed_groups"] >= 0.5
    assert {"command", "versions", "seed", "seconds", "stages"} <= record.keys()


def test_all_models_together_stay_small():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 10 * 2**20
