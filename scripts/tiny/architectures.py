"""The three tiny models, from config, and their processors."""

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

HIDDEN = 128
HEAD_DIM = 32  # vLLM's CPU attention refuses 16
TEXT_LAYERS = 3
# 64x64 pixels / (8 * 2)^2 = 16 image tokens. Qwen's own 14 would leave 4, too few to learn colours from.
PATCH = 8
MERGE = 2
PIXELS = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}


def text_config(tokenizer: PreTrainedTokenizerBase, layers: int = TEXT_LAYERS) -> dict:
    """The part that all three families share."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HIDDEN // HEAD_DIM,
        "num_key_value_heads": HIDDEN // HEAD_DIM // 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": 0.06,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def vision_config(patch: int = PATCH) -> dict:
    """The part that both vision towers share."""
    return {
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_heads": HIDDEN // HEAD_DIM,
        "out_hidden_size": HIDDEN,
        "patch_size": patch,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "initializer_range": 0.06,
    }


def media_ids(tokenizer: PreTrainedTokenizerBase) -> dict:
    """The ids by which a model config knows the media tokens."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return dict(zip(names, map(tokenizer.convert_tokens_to_ids, tokens), strict=True))


def build_model(name: str, tokenizer: PreTrainedTokenizerBase, seed: int, patch: int = PATCH) -> PreTrainedModel:
    """Build an untrained model of the family of `name` in float32."""
    torch.manual_seed(seed)
    text, vision = text_config(tokenizer), vision_config(patch)
    common = {"tie_word_embeddings": False, "initializer_range": 0.06} | {
        key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    if name == "tiny-qwen3":
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
        model = Qwen3ForCausalLM(Qwen3Config(head_dim=HEAD_DIM, **text))
    elif name == "tiny-qwen2_5-vl":
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
        # One window covers a 64-pixel image; larger images meet real windows in the first block.
        vision |= {"window_size": 64, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common, **media_ids(tokenizer))
        model = Qwen2_5_VLForConditionalGeneration(config)
    else:
        text["head_dim"] = HEAD_DIM
        text["rope_parameters"] = {
            "rope_type": "default",
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
            "rope_theta": 10000.0,
        }
        vision |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **common, **media_ids(tokenizer))
        model = Qwen3VLForConditionalGeneration(config)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = (
        text["bos_token_id"],
        text["eos_token_id"],
        text["pad_token_id"],
    )
    return model


def build_processor(
    name: str, tokenizer: PreTrainedTokenizerBase, patch: int = PATCH
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The processor that belongs to `name`; for the text model the tokenizer itself."""
    if name == "tiny-qwen3":
        return tokenizer
    options = {
        "patch_size": patch,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": PIXELS,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    if name == "tiny-qwen2_5-vl":
        kind, video = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
    else:
        kind, video = Qwen3VLProcessor, Qwen3VLVideoProcessor
    return kind(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=video(**options),
        chat_template=tokenizer.chat_template,
    )
