"""easy-VQA (PyPI `easy-vqa`, MIT): its questions, and what its own answers say about every image."""

import json
import random
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "gray", "red", "teal", "blue", "brown", "yellow", "green")
RESPONSE_FORMAT = re.compile(r"<think>([^<]*)</think><answer>([^<]*)</answer>")


@dataclass(frozen=True)
class Question:
    """One question about one image of a split; `answer` is the official one."""

    text: str
    answer: str
    image: int


def load_questions(split: str) -> list[Question]:
    """Read the official questions of `split` (`train` or `test`)."""
    rows = json.loads((_root(split) / "questions.json").read_text(encoding="utf-8"))
    return [Question(text, answer, image) for text, answer, image in rows]


def load_images(split: str) -> list[Image.Image]:
    """Read the images of `split`, so that `Question.image` indexes the list."""
    folder = _root(split) / "images"
    paths = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    return [Image.open(path).convert("RGB") for path in paths]


def scenes(questions: list[Question]) -> dict[int, tuple[str, str]]:
    """Derive `image -> (color, shape)` from the answers; images whose answers do not tell both are left out."""
    seen: dict[int, dict[str, str]] = {}
    for question in questions:
        facts = seen.setdefault(question.image, {})
        words = [word for word in re.findall(r"\w+", question.text) if word in SHAPES + COLORS]
        if question.answer not in ("yes", "no"):
            words.append(question.answer)
        elif (question.answer == "yes") == negated(question.text):
            continue
        for word in words:
            facts["shape" if word in SHAPES else "color"] = word
    return {i: (f["color"], f["shape"]) for i, f in seen.items() if len(f) == 2}


def negated(text: str) -> bool:
    """Whether the question asks for an absence ("is there not a ...", "is no ... present")."""
    return " not " in text or " no " in text


def answer_for(text: str, color: str, shape: str) -> str:
    """Answer the question as someone who sees a `color` `shape` would."""
    if text.startswith("what"):
        return color if "color" in text.split() else shape
    named = next(word for word in re.findall(r"\w+", text) if word in SHAPES + COLORS)
    return "yes" if (named in (color, shape)) != negated(text) else "no"


def response(text: str, color: str, shape: str) -> str:
    """The cold-start response: what is seen, then the answer that follows from it."""
    answer = answer_for(text, color, shape)
    return f"<think>The image shows a {color} {shape}.</think><answer>{answer}</answer>"


def random_scene(rng: random.Random) -> tuple[str, str]:
    """A colour and a shape, drawn without looking."""
    return rng.choice(COLORS), rng.choice(SHAPES)


def _root(split: str) -> Path:
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("building the tiny models needs the package 'easy-vqa': pip install easy-vqa")
    return Path(spec.submodule_search_locations[0]) / "data" / split
