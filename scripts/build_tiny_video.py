"""Build the embedded model of `configs/video_events.yaml`: `python scripts/build_tiny_video.py`.

A tiny Qwen3-VL that asks for frames in the middle of its response and answers from what they show. Made in stages:

1. its vision tower learns to name what stands in each of two frames, with a throw-away classifier;
2. the language model, the tower frozen, learns to look: short looks at windows, told without a call;
3. it learns to ask: whole responses with their inserted windows. In most of them the call is beside the gold one, as
   annotated windows are: the calls of the model scatter, and reinforcement learning has something to win.

No network, no GPU.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from build_tiny_vlm import save
from effect_video import evaluate, looking
from tiny.architectures import build_model, build_processor
from tiny.events import PATCH, Clips, Reader, Teacher, decoded_pictures, feature_table, train_language, train_tower
from tiny.text import build_tokenizer

from video.event_clips import COLOURS, SHAPES
from video.tags import add_tags

NAME = "tiny-qwen3-vl-events"
ASSETS = Path(__file__).resolve().parents[1] / "video" / "assets"
FAMILY = "tiny-qwen3-vl"


def task_lines(clips: Clips, count: int = 1500) -> list[str]:
    """The text the tokenizer is trained on: clips of the train split, the words of all kinds."""
    every = Clips(("appear", "tint", "flash", "change", "count", "moment"), longest=clips.longest)
    lines = []
    for index in range(count):
        event = every.event(1, "train", index)
        text = event.completion()
        for tag in ("<span>", "</span>", "<fps>", "</fps>"):
            text = text.replace(tag, "<think>")
        lines += [event.question, text, f"<{index % 600 / 10:.1f} seconds>", "user\n", "assistant\n", "system\n"]
        lines += [f"{word} {word}" for word in (*COLOURS, *SHAPES, "nothing", "yes", "no", "o")]
    return lines


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS / NAME)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["appear", "tint"])
    parser.add_argument("--stray", type=float, default=0.9)
    parser.add_argument("--tower-steps", type=int, default=40)
    parser.add_argument("--looking-steps", type=int, default=120)
    parser.add_argument("--asking-steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    start, worked = time.monotonic(), time.process_time()
    clips = Clips(tuple(options.kinds), options.stray)
    tokenizer = build_tokenizer(task_lines(clips))
    add_tags(tokenizer)
    model = build_model(FAMILY, tokenizer, options.seed, PATCH)
    processor = build_processor(FAMILY, tokenizer, PATCH)
    print(f"tokenizer: {len(tokenizer)} entries", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pictures = decoded_pictures(Path(folder))
    stages: dict[str, object] = {"tower": train_tower(model, pictures, options.seed, options.tower_steps)}
    reader = Reader(model, feature_table(model, pictures), Teacher(tokenizer))
    seed, rate = options.seed, options.learning_rate
    stages["looking"] = train_language(reader, clips, seed, options.looking_steps, 0, 48, rate)
    stages["asking"] = train_language(reader, clips, seed, options.asking_steps, 24, 8, rate)
    trained = time.monotonic()
    save(model, processor, options.output)
    # Measured on what a user loads: the weights after rounding to bfloat16, clips as files.
    path = str(options.output)
    tested = {mode: evaluate(path, (), t) for mode, t in (("greedy", 0.0), ("sampled", 1.0))}
    record = {
        "command": "python scripts/build_tiny_video.py",
        "seed": options.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stages": stages,
        "test": {**tested, "looking": looking(path, ())},
        "seconds": {"training": round(trained - start)},
        "processor_seconds": round(time.process_time() - worked),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (options.output / "provenance.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
