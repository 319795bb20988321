"""Tiny untrained models of the families beside the Qwens: real transformers classes, random weights, real processors.

Tokenizers have the special tokens under the names that the processors ask for; sizes are chosen so that an ordinary
test image becomes one or several tiles of a few tokens each.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
import transformers as tf
from tiny import HEAD_DIM, _finish, _text_config, _tokenizer_json, tiny_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

SIDE = 32  # pixels of a tile
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PIXELS: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}

# What stands for an image in the text of a chat template, per family.
PLACEHOLDER = {
    "idefics3": "<image>",
    "smolvlm": "<image>",
    "internvl": "<IMG_CONTEXT>",
    "llava": "<image>",
    "llava_onevision": "<image>",
    "gemma3": "<start_of_image>",
}
TILED = tuple(PLACEHOLDER)


def template(placeholder: str) -> str:
    """ChatML with `placeholder` for an image."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + placeholder + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@lru_cache(maxsize=1)
def _backend() -> str:
    return json.dumps(json.loads(_tokenizer_json()))


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tests' tokenizer with a family's own special tokens."""
    from tokenizers import Tokenizer

    named: dict[str, str] = {}
    if family == "internvl":
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    elif family == "gemma3":
        named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    elif family in ("llava", "llava_onevision"):
        named = {"image_token": "<image>"} | ({"video_token": "<video>"} if family == "llava_onevision" else {})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        extra_special_tokens=named,
        padding_side="left",
        model_max_length=32768,
    )
    if family in ("idefics3", "smolvlm"):
        tags = ["<global-img>", *(f"<row_{r + 1}_col_{c + 1}>" for r in range(6) for c in range(6))]
        tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tags], special_tokens=True)
        tokenizer.add_special_tokens(
            {
                "additional_special_tokens": [
                    "<|im_start|>",
                    "<fake_token_around_image>",
                    "<image>",
                    "<end_of_utterance>",
                ]
            }
        )
    tokenizer.chat_template = template(PLACEHOLDER.get(family, ""))
    return tokenizer


def _config(family: str, tokenizer: Any) -> Any:
    text = _text_config(tokenizer, 64, 2) | {"head_dim": HEAD_DIM}
    image = tokenizer.convert_tokens_to_ids(
        {"internvl": "<IMG_CONTEXT>", "gemma3": "<image_soft_token>"}.get(family, "<image>")
    )
    vision = VISION | {"image_size": SIDE}
    if family in ("idefics3", "smolvlm"):
        kind = tf.Idefics3Config if family == "idefics3" else tf.SmolVLMConfig
        return kind(
            text_config=text | {"model_type": "llama"},
            vision_config=vision | {"patch_size": 8},
            scale_factor=2,
            image_token_id=image,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    if family == "internvl":
        return tf.InternVLConfig(
            text_config=text | {"model_type": "qwen2"},
            vision_config=vision | {"patch_size": 8, "image_size": [SIDE, SIDE]} | {"patch_size": [8, 8]},
            image_seq_length=4,
            image_token_id=image,
            tie_word_embeddings=False,
        )
    if family == "llava":
        return tf.LlavaConfig(
            text_config=text | {"model_type": "llama"},
            vision_config=vision | {"model_type": "clip_vision_model", "patch_size": 8, "projection_dim": 32},
            image_token_index=image,
            vision_feature_layer=-2,
        )
    if family == "llava_onevision":
        return tf.LlavaOnevisionConfig(
            text_config=text | {"model_type": "qwen2"},
            vision_config=vision | {"model_type": "siglip_vision_model", "patch_size": 16, "vision_use_head": False},
            image_token_index=image,
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64]],
        )
    if family == "gemma3":
        return tf.Gemma3Config(
            text_config=gemma3_text(text),
            vision_config=vision | {"model_type": "siglip_vision_model", "patch_size": 8, "vision_use_head": False},
            mm_tokens_per_image=4,
            image_token_index=image,
            boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
            eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
            tie_word_embeddings=True,
        )
    raise ValueError(f"unknown family {family!r}")


def gemma3_text(text: dict[str, Any], window: int = 16) -> dict[str, Any]:
    """A window that the tests' prompts and responses outgrow, and layers of both kinds."""
    return text | {
        "model_type": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": window,
        "query_pre_attn_scalar": HEAD_DIM,
        "tie_word_embeddings": True,
    }


def _processor(family: str, tokenizer: Any) -> ProcessorMixin:
    square = {"height": SIDE, "width": SIDE}
    shared = {"tokenizer": tokenizer, "chat_template": tokenizer.chat_template}
    if family in ("idefics3", "smolvlm"):
        images = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}, **PIXELS}
        if family == "idefics3":
            return tf.Idefics3Processor(tf.Idefics3ImageProcessor(**images), image_seq_len=4, **shared)
        # Its constructor asks for num2words, which only the text beside a video needs.
        processing_smolvlm.num2words = processing_smolvlm.num2words or (lambda number: str(number))
        return tf.SmolVLMProcessor(
            tf.SmolVLMImageProcessor(**images), video_processor=tf.SmolVLMVideoProcessor(), image_seq_len=4, **shared
        )
    if family == "internvl":
        return tf.InternVLProcessor(
            tf.GotOcr2ImageProcessor(size=square, max_patches=4, crop_to_patches=True, **PIXELS),
            video_processor=tf.InternVLVideoProcessor(size=square),
            image_seq_length=4,
            **shared,
        )
    if family == "llava":
        images = {"size": {"shortest_edge": SIDE}, "crop_size": square, **PIXELS}
        return tf.LlavaProcessor(
            tf.CLIPImageProcessor(**images),
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            **shared,
        )
    if family == "llava_onevision":
        pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
        return tf.LlavaOnevisionProcessor(
            tf.LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=pinpoints, **PIXELS),
            video_processor=tf.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=4,
            vision_feature_select_strategy="full",
            **shared,
        )
    return tf.Gemma3Processor(tf.Gemma3ImageProcessor(size=square, **PIXELS), image_seq_length=4, **shared)


CLASSES: dict[str, Any] = {
    "idefics3": tf.Idefics3ForConditionalGeneration,
    "smolvlm": tf.SmolVLMForConditionalGeneration,
    "internvl": tf.InternVLForConditionalGeneration,
    "llava": tf.LlavaForConditionalGeneration,
    "llava_onevision": tf.LlavaOnevisionForConditionalGeneration,
    "gemma3": tf.Gemma3ForConditionalGeneration,
}


def tiny_family(family: str, seed: int = 0, spread: float = 0.08) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A vision-language model (float32, eval mode) and its processor."""
    tokenizer = family_tokenizer(family)
    processor = _processor(family, tokenizer)  # may add tokens
    torch.manual_seed(seed)
    model = CLASSES[family](_config(family, tokenizer))
    return _finish(model, tokenizer, spread), processor


DECODERS = ("llama", "smollm", "smollm3", "mistral", "gemma3_text", "qwen3")


def tiny_decoder(family: str, seed: int = 0, spread: float = 0.08) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A text model (float32, eval mode) and its tokenizer."""
    tokenizer = tiny_tokenizer()
    text = _text_config(tokenizer, 64, 2) | {"head_dim": HEAD_DIM}
    made: dict[str, Any] = {
        "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**text)),
        # Tied embeddings, as SmolLM and SmolLM2 have them.
        "smollm": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**text | {"tie_word_embeddings": True})),
        # Every second layer has no rotary positions.
        "smollm3": lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**text, no_rope_layer_interval=2)),
        "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**text, sliding_window=16)),
        "gemma3_text": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**gemma3_text(text))),
        "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**text, final_logit_softcapping=1.0)),
        "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**text)),
    }
    torch.manual_seed(seed)
    return _finish(made[family](), tokenizer, spread), tokenizer
