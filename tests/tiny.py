"""Tiny untrained models with their tokenizers and processors, built in memory from config in well under a second.

Real classes of the verified families (Qwen2.5-VL, Qwen3-VL, Qwen2, Qwen3) with random weights from a fixed seed; heads
are 32 wide, the smallest that vLLM's CPU attention takes. Only tests use them; the trained models that the package
ships are built elsewhere.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

HEAD_DIM = 32
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "what", "how", "many", "red", "green", "blue", "yellow", "squares", "circles", "are", "there", "in", "the", "image",
    "video", "answer", "is", "of", "left", "right", "top", "bottom", "think", "step", "by", "system", "user", "a",
]  # fmt: skip


def _lines() -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(1000):
        a, b, c, d = (rng.randrange(200) for _ in range(4))
        words = " ".join(rng.choices(WORDS, k=12))
        yield f"{words} {a} + {b} = {c} <think> </think> \\boxed{{{d}}} <answer> </answer>\n"


@lru_cache(maxsize=1)
def _tokenizer_json() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_lines(), trainer)
    return bpe.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 entries with Qwen's special tokens and a chat template (no default
    system message); eos ``<|im_end|>``, pad ``<|endoftext|>``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(_tokenizer_json(), encoding="utf-8")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
            padding_side="left",
            model_max_length=32768,
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _text_config(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> dict[str, Any]:
    assert hidden % (2 * HEAD_DIM) == 0, f"hidden must be a multiple of {2 * HEAD_DIM}, got {hidden}"
    heads = hidden // HEAD_DIM
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _finish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spread: float) -> PreTrainedModel:
    """Eval mode, token ids for generation, and weights wide enough that logits differ visibly between tokens."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, spread, generator=generator)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def tiny_vl(
    family: Literal["qwen2_5_vl", "qwen3_vl", "qwen3_5_vl"] = "qwen2_5_vl",
    hidden: int = 64,
    layers: int = 2,
    vision_layers: int = 2,
    max_pixels: int = 224 * 224,
    seed: int = 0,
    spread: float = 0.08,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A vision-language model (float32, eval mode) and its processor.

    An image of N pixels becomes about N/784 (Qwen2.5-VL) or N/1024 (Qwen3-VL) tokens, at least 4, at most
    `max_pixels`' worth.
    """
    tokenizer = tiny_tokenizer()
    text = _text_config(tokenizer, hidden, layers)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    common: dict[str, Any] = {k: text[k] for k in ("tie_word_embeddings", "eos_token_id", "pad_token_id")}
    common |= dict(zip(names, tokenizer.convert_tokens_to_ids(list(tokens)), strict=True))
    vision: dict[str, Any] = {
        "depth": vision_layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_heads": hidden // HEAD_DIM,
        "out_hidden_size": hidden,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    torch.manual_seed(seed)
    if family == "qwen2_5_vl":
        patch = 14
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
        vision |= {"patch_size": patch, "window_size": 112, "fullatt_block_indexes": [vision_layers - 1]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"tokens_per_second": 2}, **common)
        model: PreTrainedModel = Qwen2_5_VLForConditionalGeneration(config)
        processor_class, video_class = Qwen2_5_VLProcessor, Qwen2VLVideoProcessor
    elif family == "qwen3_vl":
        patch = 16
        text |= {"head_dim": HEAD_DIM}
        text["rope_parameters"] = {
            "rope_type": "default",
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
            "rope_theta": 10000.0,
        }
        vision |= {"patch_size": patch, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, **common)
        model = Qwen3VLForConditionalGeneration(config)
        processor_class, video_class = Qwen3VLProcessor, Qwen3VLVideoProcessor
    elif family == "qwen3_5_vl":
        patch = 16
        text |= {"head_dim": HEAD_DIM, "layer_types": ["linear_attention", "full_attention"]}
        text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text["rope_parameters"] = {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000.0,
        }
        vision |= {"patch_size": patch, "num_position_embeddings": 256}
        config = Qwen3_5Config(text_config=text, vision_config=vision, **common)
        model = Qwen3_5ForConditionalGeneration(config)
        processor_class, video_class = Qwen3VLProcessor, Qwen3VLVideoProcessor
    else:
        raise ValueError(f"family must be qwen2_5_vl, qwen3_vl or qwen3_5_vl, got {family!r}")
    options = {
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": max_pixels},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=tokenizer,
        video_processor=video_class(**options),
        chat_template=CHAT_TEMPLATE,
    )
    return _finish(model, tokenizer, spread), processor


def tiny_text(
    family: Literal["qwen2", "qwen3"] = "qwen3", hidden: int = 64, layers: int = 2, seed: int = 0, spread: float = 0.08
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A text model (float32, eval mode) and its tokenizer."""
    tokenizer = tiny_tokenizer()
    text = _text_config(tokenizer, hidden, layers)
    torch.manual_seed(seed)
    if family == "qwen2":
        model: PreTrainedModel = Qwen2ForCausalLM(Qwen2Config(**text))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(head_dim=HEAD_DIM, **text))
    else:
        raise ValueError(f"family must be qwen2 or qwen3, got {family!r}")
    return _finish(model, tokenizer, spread), tokenizer


def save(model: PreTrainedModel, processor: ProcessorMixin | PreTrainedTokenizerFast, folder: str | Path) -> Path:
    """Write the model (safetensors) and its processor or tokenizer to `folder`, as `from_pretrained` reads them."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def tiny_image(side: int | tuple[int, int] = 64, seed: int = 0) -> Any:
    """A PIL image of random colour blocks, `side` pixels (or width, height)."""
    from PIL import Image

    size = (side, side) if isinstance(side, int) else side
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(blocks.numpy()).resize(size, Image.Resampling.NEAREST)


def tiny_png(side: int | tuple[int, int] = 64, seed: int = 0) -> bytes:
    """The same image as the bytes of a PNG file."""
    import io

    buffer = io.BytesIO()
    tiny_image(side, seed).save(buffer, format="PNG")
    return buffer.getvalue()
