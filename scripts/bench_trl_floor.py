"""The arithmetic of a GRPO step: what the row needs with prompt and image once per group, and with both repeated."""

from __future__ import annotations

from typing import Any


def floor(body: Any, row: dict[str, Any], prompt: float, patches: int, sampled: float) -> dict[str, dict[str, float]]:
    """FLOPs of the training side and of the whole step, which has prefill and decoding besides.

    A forward costs 2 FLOPs a parameter and token, the head at response tokens only, and attention 4 a pair of query and
    visible key and channel; forward and backward are 3 forwards, with LoRA 2. `body`: a `policy.forward.Body`;
    `sampled`: response tokens of a step.
    """
    config = body.config
    layers = config.num_hidden_layers
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    rows = row["prompts"] * row["group"]
    new = sampled / rows

    def text(length: float, before: float = 0.0) -> float:
        """`length` tokens behind `before` others, without the head."""
        return 2.0 * body.size * length + 4.0 * layers * width * length * (before + length / 2)

    tower = 0.0
    if patches:
        vision = body.vision.tower.config
        size = getattr(vision, "hidden_size", 0)
        full = getattr(vision, "fullatt_block_indexes", None)
        windowed = 0 if full is None else vision.depth - len(full)
        merged = sum(p.numel() for n, p in body.vision.tower.named_parameters() if "merger" in n)
        window = (getattr(vision, "window_size", 112) // vision.patch_size) ** 2
        tower = 2.0 * (body.vision.size - merged) * patches + 2.0 * merged * patches / 4
        tower += 4.0 * size * patches * ((vision.depth - windowed) * patches + windowed * min(window, patches))
    head = 2.0 * body.head_size
    answers = rows * (text(new, prompt) + head * new)
    shared = row["prompts"] * (text(prompt) + tower)
    repeated = rows * (text(prompt) + tower)
    update = 2 if row.get("lora") else 3  # under adapters the weights behind them get no gradient
    return {
        "training": {"shared": update * (shared + answers), "repeated": update * (repeated + answers)},
        "whole": {"shared": (update + 1) * (shared + answers), "repeated": (update + 1) * (repeated + answers)},
    }
