"""A tiny untrained InternVL: a family whose images are encoded by tiles, not by grids of patches."""

from __future__ import annotations

from typing import Any

import torch
from tiny import CHAT_TEMPLATE, tiny_text
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)


def tiny_internvl() -> tuple[Any, Any]:
    """Model (float32, eval mode) and processor. Tiles of 28 x 28 pixels become one token each."""
    text, plain = tiny_text("qwen2")
    names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        extra_special_tokens={f"{name}_token": token for name, token in names.items()},
    )
    side = {"height": 28, "width": 28}
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>")
    tokenizer.chat_template = template
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=side, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=1,
        chat_template=template,
    )
    torch.manual_seed(0)
    config = InternVLConfig(
        text_config=text.config.to_dict() | {"vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": [28, 28], "patch_size": [14, 14],
        },
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=1,
        downsample_ratio=0.5,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config).eval(), processor
