"""The tasks of `effect_perceval.py`: the config that is trained, the arms beside it, and what is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcredit.answers.extract import last_tag
from mmcredit.data.scenes.claims import check, claims
from mmcredit.data.scenes.graph import Scene
from mmcredit.data.sources.easy_vqa import SHAPES
from prm.oracles import COLORS, EasyVqaOracle
from prm.spans import think_zone
from prm.verifier import Query

Row = dict[str, Any]
Meta = Mapping[str, Mapping[str, Any]]  # of the held-out samples, by id
_COLOR, _SHAPE = (re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE) for words in (COLORS, SHAPES))
_GRPO = ("credit=[grpo]", "verifiers=[]")


@dataclass(frozen=True)
class Task:
    """`measures`: name -> (heading, factor); shares are printed in percent, numbers as they are."""

    config: str
    arms: Mapping[str, tuple[str, ...]]  # overrides; the config itself is the oracle's arm
    study: tuple[str, ...]  # the arms that are run without being asked for
    measures: Mapping[str, tuple[str, float]]
    plotted: tuple[str, ...]
    measure: Callable[[Sequence[Row], Meta], dict[str, float]]


def text_of(row: Row) -> str:
    """The response of a held-out question, the first where there are several."""
    return str(row.get("response") or row["responses"][0])


def measure_easy_vqa(rows: Sequence[Row], meta: Meta) -> dict[str, float]:
    """Shares over the held-out questions, one response each. A policy that says nothing says nothing false: what it
    names is measured beside."""
    oracle = EasyVqaOracle()
    texts = [text_of(row) for row in rows]
    queries = [Query("", text, meta=meta[row["id"]]) for row, text in zip(rows, texts, strict=True)]
    false = [said.status == "flagged" for said in oracle.verify(queries)]
    right = [row["correct"] > 0.5 for row in rows]
    agree, named = [], []
    for text in texts:
        answer, (start, end) = last_tag(text) or "", think_zone(text)
        thought = text[start:end]
        agree.append(bool(answer) and re.search(rf"\b{re.escape(answer)}\b", thought) is not None)
        named.append(bool(_COLOR.search(thought) and _SHAPE.search(thought)))
    n = len(rows)
    return {
        "accuracy": sum(right) / n,
        "false_claim": sum(false) / n,
        "false_but_right": sum(f and r for f, r in zip(false, right, strict=True)) / n,
        "true_description": sum(d and not f for d, f in zip(named, false, strict=True)) / n,
        "described": sum(named) / n,
        "agreement": sum(agree) / n,
        "questions": n,
    }


def measure_scenes(rows: Sequence[Row], meta: Meta) -> dict[str, float]:
    """Means over the held-out questions, one response each; claims are judged by the scene graph.

    A claim that is repeated word for word counts once: saying one true thing many times describes nothing.
    """
    made = true = false = flagged = clean = 0
    for row in rows:
        scene = Scene.from_json(meta[row["id"]]["scene"])
        said = {claim.text.lower(): check(claim, scene) for claim in claims(text_of(row))}
        verdicts = list(said.values())
        made += len(verdicts)
        true += verdicts.count("true")
        false += verdicts.count("false")
        flagged += "false" in verdicts
        clean += bool(verdicts) and "false" not in verdicts and row["correct"] > 0.5
    n = len(rows)
    return {
        "accuracy": sum(row["correct"] > 0.5 for row in rows) / n,
        "false_share": false / max(1, made),
        "false_claim": flagged / n,
        "right_and_clean": clean / n,
        "claims": made / n,
        "true_claims": true / n,
        "false_claims": false / n,
        "questions": n,
    }


_LEARNED = "{model: 'builtin:tiny-prm-easy-vqa', max_new_tokens: 64"
EASY_VQA = Task(
    config="easy_vqa_perceval",
    # The first four are the study; the others are what was tried on the way to the config's settings.
    arms={
        "GRPO": _GRPO,
        "Perceval, oracle": (),
        "Perceval, learned PRM": (f"verifiers=[{{prm_local: {_LEARNED}, groups: all}}}}]",),
        "random spans": ("verifiers=[{random_spans: {like: {easy_vqa_oracle: {}}, zone: think, groups: all}}]",),
        "alpha 0.1 (paper)": ("credit=[grpo, {perceval: {alpha: 0.1}}]", "verifiers=[easy_vqa_oracle]"),
        "alpha 1": ("credit=[grpo, {perceval: {alpha: 1.0}}]", "verifiers=[easy_vqa_oracle]"),
    },
    study=("GRPO", "Perceval, oracle", "Perceval, learned PRM", "random spans"),
    measures={
        "accuracy": ("accuracy", 100),
        "false_claim": ("responses with a false claim", 100),
        "false_but_right": ("right answers with a false claim", 100),
        "true_description": ("colour and shape named, both true", 100),
        "described": ("colour and shape named", 100),
        "agreement": ("answer named in the reasoning", 100),
    },
    plotted=("accuracy", "true_description", "false_claim"),
    measure=measure_easy_vqa,
)
SCENES = Task(
    config="scenes_perceval",
    arms={
        "GRPO": _GRPO,
        "Perceval, oracle": (),
        "random spans": (
            "verifiers=[{random_spans: {like: {scene_oracle: {flags: word}}, zone: think, groups: all}}]",
        ),
        # Tried on the way: the whole claim penalised.
        "whole claims": ("verifiers=[{scene_oracle: {groups: all}}]",),
    },
    study=("GRPO", "Perceval, oracle", "random spans"),
    measures={
        "accuracy": ("accuracy", 100),
        "false_share": ("claims that are false", 100),
        "false_claim": ("responses with a false claim", 100),
        "right_and_clean": ("right answers without one", 100),
        "claims": ("claims per response", 1),
        "true_claims": ("true ones", 1),
        "false_claims": ("false ones", 1),
    },
    plotted=("accuracy", "true_claims", "false_share"),
    measure=measure_scenes,
)
TASKS = {"easy_vqa": EASY_VQA, "scenes": SCENES}
