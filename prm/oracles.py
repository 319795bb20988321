"""Verifiers that know the picture: the scene graph of a scene, the shape and colour of an easy-VQA picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mmcredit.data.scenes.claims import Claim, check, claims
from mmcredit.data.scenes.errors import first_error
from mmcredit.data.scenes.graph import Scene
from mmcredit.data.sources.easy_vqa import SHAPES
from prm.parse import Verification, failed
from prm.verifier import Query

COLORS = ("black", "gray", "red", "teal", "blue", "brown", "yellow", "green")
_WORD = re.compile(rf"(?<!\w)(?:{'|'.join((*COLORS, *SHAPES))})(?!\w)", re.IGNORECASE)
_NEGATED = re.compile(r"(?<!\w)(?:no|not|neither|nor|isn't|without)(?!\w)", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>.*?(?:</answer>|\Z)", re.DOTALL)


class SceneOracle:
    """Flags every claim about a scene that its graph contradicts; claims that could go either way are left alone.

    `flags`: the whole claim, or the word at which it becomes false (`mmcredit.data.scenes.errors`).
    """

    def __init__(self, flags: Literal["claim", "word"] = "claim") -> None:
        self.flags = flags
        self.version = "scene graph 1" if flags == "claim" else f"scene graph 1, {flags}"

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query; `prm_error` for a sample without a scene graph in meta["scene"]."""
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Verification:
        try:
            scene = Scene.from_json(query.meta["scene"])
        except KeyError:
            return failed("no scene graph: the sample has no meta['scene']; the oracle is for the source scenes")
        except ValueError as error:
            return failed(str(error))
        false = [claim for claim in claims(query.response) if check(claim, scene) == "false"]
        if self.flags == "claim":
            return _flagged([(claim.start, claim.end) for claim in false], query.response)
        return _flagged([_word_of(claim, scene) for claim in false], query.response)

    def close(self) -> None:
        """Nothing is held."""


def _word_of(claim: Claim, scene: Scene) -> tuple[int, int]:
    start, end = _word_in(replace(claim, start=0, end=len(claim.text)), scene)
    return claim.start + start, claim.start + end


@lru_cache(maxsize=4096)
def _word_in(claim: Claim, scene: Scene) -> tuple[int, int]:
    """Responses of one group repeat their claims."""
    return first_error(claim, scene)


class EasyVqaOracle:
    """Flags every colour and shape word that is not the picture's, one word each.

    Words of a kind that is not known of the picture are left alone. The words of the answer block are the reward's
    business and are flagged only with `answers`. A word of a clause that denies something ("no", "not") is left alone:
    what it would mean is not decided here.
    """

    def __init__(self, answers: bool = False) -> None:
        self.answers = answers
        self.version = f"easy-vqa facts 1, answers {answers}"

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query; `prm_error` for a sample that is none of easy-VQA or whose facts are unknown."""
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Verification:
        split, image = query.meta.get("split"), query.meta.get("image_id")
        if split not in ("train", "test") or not isinstance(image, int):
            return failed("no picture of easy-VQA: the sample has no meta['split'] and meta['image_id']")
        facts = easy_vqa_facts(split).get(image)
        if facts is None:
            return failed(f"the questions about picture {image} of {split} tell neither its colour nor its shape")
        found = []
        answers = [match.span() for match in _ANSWER.finditer(query.response)]
        for match in _WORD.finditer(query.response):
            inside = any(a <= match.start() < b for a, b in answers)
            if inside and not self.answers:
                continue
            clause = re.split(r"[.,;:!?<>\n]", query.response[: match.start()])[-1]
            word = match.group().lower()
            known = facts.get("shape" if word in SHAPES else "color", word)
            if word != known and not _NEGATED.search(clause):
                found.append(match.span())
        return _flagged(found, query.response)

    def close(self) -> None:
        """Nothing is held."""


@lru_cache(maxsize=2)
def easy_vqa_facts(split: str) -> Mapping[int, Mapping[str, str]]:
    """`color` and `shape` of every picture of a split, as the package's own questions and answers tell them.

    Of one picture in eight they tell only one of the two. Raises ModuleNotFoundError without the package.
    """
    spec = find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the easy-VQA oracle needs the package 'easy-vqa': pip install 'mmcredit[easy-vqa]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / split / "questions.json"
    seen: dict[int, dict[str, str]] = {}
    for text, answer, image in json.loads(path.read_text(encoding="utf-8")):
        facts = seen.setdefault(image, {})
        words = [match.group() for match in _WORD.finditer(text)]
        if answer not in ("yes", "no"):
            words.append(answer)
        elif (answer == "yes") == bool(_NEGATED.search(text)):
            continue  # what is not there
        for word in words:
            facts["shape" if word in SHAPES else "color"] = word
    return {image: facts for image, facts in seen.items() if facts}


def _flagged(places: Sequence[tuple[int, int]], response: str) -> Verification:
    strings = tuple(response[a:b] for a, b in places)
    return Verification(strings, "flagged" if strings else "clean", places=tuple(places))
