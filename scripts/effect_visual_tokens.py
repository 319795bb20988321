"""Visual tokens pooled to a half and a quarter: held-out loss, accuracy and CPU seconds of the answers.

    python scripts/effect_visual_tokens.py --seeds 0 1 2 --output runs/effect_visual_tokens

Goes on training the tiny Qwen2.5-VL of scenes (36 tokens an image) on ideal responses under every budget, the same
number of steps, and writes `visual_tokens.md`. A run whose results are there is not repeated.
"""

from __future__ import annotations

from effect_sstoken import START, study

CASES = {
    "36, all": START + "model.visual_tokens=null",
    "18": START + "model.visual_tokens={tokens: 18}",
    "9": START + "model.visual_tokens={tokens: 9}",
    "9, resize alone": START + "model.visual_tokens={tokens: 9, blocks: 0}",
}
MEASURES = {
    "loss": "held-out loss, nats per token",
    "accuracy": "accuracy, greedy",
    "answer_seconds": "CPU s for 300 answers",
}

if __name__ == "__main__":
    study(__doc__, CASES, MEASURES, "visual_tokens")
