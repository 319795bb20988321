"""Models with random weights, prompts with random images, responses of random tokens: what check.py runs."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "opponents"))
import tiny

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.policy import Policy
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response

TOKEN_SIDE = 28  # pixels of a visual token's side in Qwen2.5-VL


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its work."""

    hidden: int
    layers: int
    heads: int
    kv: int
    inner: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    prompts: int
    response: int  # tokens of each


# Qwen2.5-VL-3B-Instruct's published config; the tower's width and depth too.
FULL = Shape(2048, 36, 16, 2, 11008, 151936, 1280, 32, prompts=2, response=256)
TINY = Shape(128, 2, 4, 2, 256, 2048, 64, 2, prompts=2, response=24)


def model(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any, Any]:
    """A Qwen2.5-VL of this shape with random weights, its tokenizer and its processor."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny.tokenizer()
    base = tiny.qwen25vl(tokenizer, 64, 1, 64, 1).config.to_dict()
    text, vision = dict(base["text_config"]), dict(base["vision_config"])
    head = shape.hidden // shape.heads
    text |= {
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv, "intermediate_size": shape.inner, "vocab_size": shape.vocabulary,
        "layer_types": ["full_attention"] * shape.layers, "head_dim": head,
    }  # fmt: skip
    sections = [head // 8, head // 2 // 8 * 3, head // 2 - head // 8 - head // 2 // 8 * 3]
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(text.get(key), dict):
            text[key] = text[key] | {"mrope_section": sections}
    vision |= {
        "hidden_size": shape.vision_hidden, "depth": shape.vision_layers, "out_hidden_size": shape.hidden,
        "num_heads": max(1, shape.vision_hidden // 80 if shape.vision_hidden > 80 else 2),
        "intermediate_size": shape.vision_hidden * 8 // 3 // 4 * 4,
        "fullatt_block_indexes": [i for i in range(shape.vision_layers) if i % 8 == 7],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(**(base | {"text_config": text, "vision_config": vision, "tie_word_embeddings": True}))
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            made = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    processor = tiny.processor(tokenizer, "qwen2_5_vl")
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 4096 * 4096}
    return made.to(device, dtype).eval(), tokenizer, processor


def policy(parts: tuple[Any, Any, Any], layout: str, dtype: str, checkpointing: bool) -> Policy:
    """The same model under a layout."""
    made, tokenizer, processor = parts
    config = ModelConfig(
        path="in memory", layout=layout, dtype=dtype, freeze_vision=True, gradient_checkpointing=checkpointing
    )
    made.model.visual.requires_grad_(False)
    if checkpointing:
        made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(made, tokenizer, processor, config)


def prompts(owner: Policy, count: int, visual_tokens: int) -> list[Any]:
    """Prompts with one random image of about this many visual tokens each."""
    side = TOKEN_SIDE * max(2, round(visual_tokens**0.5))
    made = []
    for i in range(count):
        file = io.BytesIO()
        pixels = np.random.RandomState(i).randint(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        content = [{"type": "image"}, {"type": "text", "text": "how many red squares are there in the image"}]
        sample = Sample(f"image-{i}", ({"role": "user", "content": content},), (Media("image", data=file.getvalue()),))
        made.append(owner.encode(sample))
    return made


def rollouts(owner: Policy, asked: list[Any], group: int, length: int, device: torch.device) -> Any:
    """`group` responses of `length` random tokens to each prompt, with unequal rewards."""
    usable = [i for i in range(len(owner.tokenizer)) if i not in set(owner.suppressed_ids) | set(owner.eos_token_ids)]
    draw = np.random.RandomState(0)
    requests = [Request(p, list(range(group)), tag=i) for i, p in enumerate(asked)]
    responses = [
        Response(r.tag, member, [int(t) for t in draw.choice(usable, length)], [-1.0] * length, "length")
        for r in requests
        for member in range(group)
    ]
    found = collate(asked, requests, responses, owner.tokenizer.pad_token_id)
    rewards = torch.tensor([float(r.member % 2) + 0.01 * r.member for r in responses])
    return found.replace(rewards=rewards, sampler_logprobs=None).to(device)
