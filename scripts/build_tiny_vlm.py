"""Build mmcredit's embedded models from nothing: `python scripts/build_tiny_vlm.py --model all`.

Three models of about a million parameters each, cold-started to a middling accuracy so that reinforcement learning
has both right and wrong samples to compare. Needs `pip install 'mmcredit[easy-vqa,tasks]'`; no network, no GPU.

A vision-language model is made the way the published ones are, in small:

1. the vision tower learns to name colour and shape with a throw-away classifier;
2. the language model learns format and logic on imagined scenes, without images;
3. a brief alignment joins the two and stops half-way: it knows how to answer, and does not yet look well.
"""

import argparse
import json
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tiny import arithmetic, vqa
from tiny.architectures import build_model, build_processor
from tiny.batches import encode_images, prompt_ids
from tiny.cold_start import align, train_language
from tiny.measure import measure, sample
from tiny.scenes import TRAIN_SEED, VALIDATION_SEED, SceneTask, make_set
from tiny.text import build_tokenizer, scene_lines
from tiny.vision import train_tower
from tiny.vqa_task import IMAGE_TOKENS, VqaTask
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

MODELS = ("tiny-qwen2_5-vl", "tiny-qwen3-vl", "tiny-qwen3")
ASSETS = Path(__file__).resolve().parents[1] / "mmcredit" / "assets"
# Greedy accuracy at which the cold start stops. Lower, and RL from a near-random policy is slow and fragile;
# higher, and the groups have too little to compare.
STOP_LOOKING = 0.5
STOP_ARITHMETIC = 0.45
VALIDATION_IMAGES = 200
SCENES, SCENES_VALIDATION = 6000, 600
TOWER_STEPS, LANGUAGE_STEPS, ALIGNMENT_STEPS = 600, 800, 800


def task_lines() -> list[str]:
    """The text the tokenizer is trained on; test questions are left out, easy-VQA's templates are in train."""
    questions = vqa.load_questions("train")
    scenes = vqa.scenes(questions)
    lines = [q.text for q in questions[::4]]
    lines += [vqa.response(q.text, *scenes[q.image]) for q in questions[::10] if q.image in scenes]
    problems = arithmetic.load_problems("train", 1000, seed=0)
    lines += [text for question, _ in problems for text in (question, arithmetic.response(question))]
    return lines + list(scene_lines(6000))


def build_vlm(name: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> tuple[PreTrainedModel, ProcessorMixin, dict]:
    """Train one vision-language model on easy-VQA's train split; returns model, processor and the stages' numbers."""
    model, processor = build_model(name, tokenizer, seed), build_processor(name, tokenizer)
    pixels = encode_images(processor, vqa.load_images("train"))
    questions = vqa.load_questions("train")
    scenes = vqa.scenes(questions)
    held_out = dict(sorted(scenes.items())[-VALIDATION_IMAGES:])
    known = {image: scene for image, scene in scenes.items() if image not in held_out}
    single = VqaTask(
        questions=[q for q in questions if q.image in known],
        scenes=known,
        validation=[q for q in questions if q.image in held_out],
        pixels=pixels,
    )
    multi = SceneTask(make_set(processor, SCENES, TRAIN_SEED), make_set(processor, SCENES_VALIDATION, VALIDATION_SEED))
    stages = train_tower(model, pixels, known, held_out, seed, TOWER_STEPS, multi)
    train_language(model, tokenizer, [single, multi], seed, steps=LANGUAGE_STEPS)
    stages["language_steps"] = LANGUAGE_STEPS
    stages |= align(model, tokenizer, [single, multi], seed, stop_at=STOP_LOOKING, max_steps=ALIGNMENT_STEPS)
    return model, processor, stages


def measure_vlm(model: PreTrainedModel, processor: ProcessorMixin, seed: int) -> dict[str, dict]:
    """Held-out numbers on easy-VQA's test split: the open questions (shape, colour), and all as they come."""
    tokenizer = processor.tokenizer
    pixels = encode_images(processor, vqa.load_images("test"))
    questions = random.Random(seed).sample(vqa.load_questions("test"), 9673)
    kinds = {"open": [q for q in questions if q.text.startswith("what")][:2000], "all": questions[:2000]}
    numbers = {}
    for kind, chosen in kinds.items():

        def respond(indices: list[int], temperature: float, chosen: list = chosen) -> list[str]:
            prompts = [prompt_ids(tokenizer, chosen[i].text, IMAGE_TOKENS) for i in indices]
            return sample(model, tokenizer, prompts, pixels, [chosen[i].image for i in indices], temperature, 20)

        torch.manual_seed(seed)
        numbers[kind] = measure(respond, [q.answer for q in chosen], groups=200)
    return numbers


def build_text(tokenizer: PreTrainedTokenizerBase, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """Train the text model on chain sums; returns model, tokenizer and the numbers of its one stage."""
    model = build_model("tiny-qwen3", tokenizer, seed)
    problems = arithmetic.load_problems("train", 20_000, seed=seed)
    stages = arithmetic.train(model, tokenizer, problems[500:], problems[:500], seed, stop_at=STOP_ARITHMETIC)
    return model, tokenizer, stages


def measure_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, dict]:
    """Held-out numbers on mmcredit's test split of the chain sums."""
    problems = arithmetic.load_problems("test", 1000, seed=seed)

    def respond(indices: list[int], temperature: float) -> list[str]:
        prompts = [prompt_ids(tokenizer, problems[i][0]) for i in indices]
        return sample(model, tokenizer, prompts, None, [], temperature, arithmetic.MAX_NEW_TOKENS)

    torch.manual_seed(seed)
    return {"chain_sum": measure(respond, [answer for _, answer in problems], groups=200)}


def save(model: PreTrainedModel, processor: ProcessorMixin | PreTrainedTokenizerBase, folder: Path) -> None:
    """Write bfloat16 weights (half the size) under a config that says float32, the type they are to be used in."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    for part in ("text_config", "vision_config"):
        if "dtype" in config.get(part, {}):
            config[part]["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build(name: str, tokenizer: PreTrainedTokenizerBase, folder: Path, options: argparse.Namespace) -> None:
    """Build, save, load again and measure one model; `provenance.json` says how and with what result."""
    start = time.monotonic()
    text_only = name == "tiny-qwen3"
    if text_only:
        model, processor, stages = build_text(tokenizer, options.seed)
    else:
        model, processor, stages = build_vlm(name, tokenizer, options.seed)
    trained = time.monotonic()
    save(model, processor, folder)
    # Measured on what a user loads: the weights after rounding to bfloat16.
    model = type(model).from_pretrained(folder, dtype=torch.float32)
    measured: Callable[..., dict] = measure_text if text_only else measure_vlm
    numbers = measured(model, processor, options.seed)
    record = {
        "command": f"python scripts/build_tiny_vlm.py --model {name} --seed {options.seed} --threads {options.threads}",
        "seed": options.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stages": stages,
        "seconds": {"training": round(trained - start), "measuring": round(time.monotonic() - trained)},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "test": numbers,
    }
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(name, json.dumps(record, indent=2), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=(*MODELS, "all"), default="all")
    parser.add_argument("--output", type=Path, default=ASSETS, help="one folder a model is written below it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="other numbers of threads round otherwise")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = build_tokenizer(task_lines())
    print(f"tokenizer: {len(tokenizer)} entries", file=sys.stderr, flush=True)
    for name in MODELS if options.model == "all" else (options.model,):
        build(name, tokenizer, options.output / name, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
