"""Build mmcredit's embedded models from nothing: `python scripts/build_tiny_vlm.py --model all`.

Models of about a million parameters each, cold-started to a middling accuracy so that reinforcement learning
has both right and wrong samples to compare. Needs `pip install 'mmcredit[easy-vqa,tasks]'`; no network, no GPU.

A vision-language model is made the way the published ones are, in small:

1. the vision tower learns to name colour and shape, and what stands where in a scene, with throw-away classifiers;
2. the language model learns format and logic: of easy-VQA on imagined pictures, of scenes on drawn ones;
3. a brief alignment joins the two and stops half-way: it knows how to answer, and does not yet look well. The model
   on scenes practises until it can look, and then learns to guess in most of its answers.
"""

import argparse
import json
import platform
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tiny import arithmetic, vqa
from tiny.architectures import build_model, build_processor
from tiny.batches import encode_images, prompt_ids
from tiny.cold_start import align, learn_to_guess, practise, train_language
from tiny.frozen import Features
from tiny.measure import answer_of, measure, sample
from tiny.scenes import FORMS, KINDS, TRAIN_SEED, VALIDATION_SEED, SceneTask, make_set, questions_of
from tiny.text import build_tokenizer, scene_lines
from tiny.vision import train_tower
from tiny.vqa_task import IMAGE_TOKENS, VqaTask
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

SCENES_SUFFIX = "-scenes"
MODELS = ("tiny-qwen2_5-vl", f"tiny-qwen2_5-vl{SCENES_SUFFIX}", "tiny-qwen3-vl", "tiny-qwen3")
ASSETS = Path(__file__).resolve().parents[1] / "mmcredit" / "assets"
# Greedy accuracy at which the cold start stops. Lower, and RL from a near-random policy is slow and fragile;
# higher, and the groups have too little to compare.
STOP_LOOKING = 0.5
STOP_ARITHMETIC = 0.45
# What the language stage strives for on scenes, by form of question: those that lack most are shown most.
GOALS = dict.fromkeys(FORMS, 0.5) | {"count": 0.45, "more_or_fewer": 0.45, "relation_yes_no": 0.65}
VALIDATION_IMAGES = 200
SCENES, SCENES_VALIDATION = 6000, 900
TOWER_STEPS, LANGUAGE_STEPS, ALIGNMENT_STEPS = 600, 1000, 400
PRACTICE_STEPS, GUESSING_STEPS, GUESSED = 700, 40, 0.6


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
    """Train one vision-language model on easy-VQA, and on scenes if its name says so; returns model, processor and
    the stages' numbers."""
    family = name.removesuffix(SCENES_SUFFIX)
    model, processor = build_model(family, tokenizer, seed), build_processor(family, tokenizer)
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
    multi = None
    if name.endswith(SCENES_SUFFIX):
        drawn, checked = (SCENES, TRAIN_SEED), (SCENES_VALIDATION, VALIDATION_SEED)
        multi = SceneTask(make_set(processor, *drawn), make_set(processor, *checked))
    stages = train_tower(model, pixels, known, held_out, seed, TOWER_STEPS, multi)
    model.model.visual.requires_grad_(False)
    single.pixels = Features(model, pixels, len(pixels.values))
    if multi is not None:
        multi.pixels = Features(model, multi.pixels, len(multi.pixels.pictures))
    stages |= train_language(model, tokenizer, single, multi, GOALS, seed, LANGUAGE_STEPS)
    if multi is None:
        stages |= align(model, tokenizer, single, STOP_LOOKING, seed, ALIGNMENT_STEPS)
    else:
        stages |= practise(model, tokenizer, single, multi, seed, PRACTICE_STEPS)
        stages |= learn_to_guess(model, tokenizer, single, multi, GUESSED, STOP_LOOKING, seed, GUESSING_STEPS)
    model.model.visual.requires_grad_(True)
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


def measure_scenes(model: PreTrainedModel, processor: ProcessorMixin, seed: int, size: int = 500) -> dict[str, dict]:
    """Held-out numbers per kind of question about scenes, on mmcredit's test split.

    `exchanged_accuracy`: greedy, each question with the next one's picture, which is what looking is worth.
    `blind_accuracy`: every question answered with the most frequent train answer of its form.
    """
    tokenizer = processor.tokenizer
    test = SceneTask(make_set(processor, 0, 0), make_set(processor, size * len(KINDS), seed, "test"))
    habits: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions_of(5000, seed):
        habits[question.form][question.answer] += 1
    numbers = {}
    for kind in KINDS:
        numbered = [i for i, question in enumerate(test.validation.questions) if question.kind == kind]
        examples = [test.example(i) for i in numbered]

        def respond(indices: list[int], temperature: float, examples: list = examples, shift: int = 0) -> list[str]:
            prompts = [prompt_ids(tokenizer, examples[i].question, test.image_tokens) for i in indices]
            images = [examples[(i + shift) % len(examples)].image for i in indices]
            return sample(model, tokenizer, prompts, test.pixels, images, temperature, test.max_new_tokens)

        torch.manual_seed(seed)
        answers = [e.answer for e in examples]
        found = measure(respond, answers, groups=50)
        exchanged = [answer_of(text) for text in respond(list(range(size)), 0.0, shift=1)]
        found["exchanged_accuracy"] = sum(map(str.__eq__, map(str, exchanged), answers)) / size
        forms = [test.validation.questions[i].form for i in numbered]
        guessed = [habits[form].most_common(1)[0][0] for form in forms]
        found["blind_accuracy"] = sum(map(str.__eq__, guessed, answers)) / size
        numbers[f"scenes_{kind}"] = found
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
    start, worked = time.monotonic(), time.process_time()
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
    if name.endswith(SCENES_SUFFIX):
        numbers |= measure_scenes(model, processor, options.seed)
    record = {
        "command": f"python scripts/build_tiny_vlm.py --model {name} --seed {options.seed} --threads {options.threads}",
        "seed": options.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stages": stages,
        "seconds": {"training": round(trained - start), "measuring": round(time.monotonic() - trained)},
        "processor_seconds": round(time.process_time() - worked),
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
