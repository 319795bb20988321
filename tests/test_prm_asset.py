"""The verifier that ships with the package reads the picture: exchanged pictures bring it to chance."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import prm
from mmcredit.components import build
from mmcredit.data.media import MediaLimits
from mmcredit.policy.load import resolve_path
from mmcredit.verifiers.base import RunContext
from prm.evaluate import exchanged, judge, measures
from prm.oracles import EasyVqaOracle
from prm.train.annotate import annotate, ideal_and_edits
from prm.train.command import IDEAL, as_span_samples

NAME = "builtin:tiny-prm-easy-vqa"


def test_the_card_says_what_was_measured():
    folder = Path(resolve_path(NAME))
    assert folder.parent.parent == Path(prm.__file__).parent
    card, test = (folder / "CARD.md").read_text(), json.loads((folder / "card.json").read_text())["test"]
    for name in ("verifier", "exchanged pictures"):
        for value in (test[name]["spans"]["macro_iou"], test[name]["spans"]["f1"], test[name]["response"]["auroc"]):
            assert f"{value:.3f}".lstrip("0") in card
    with pytest.raises(ValueError, match=r"no such builtin model; known: .*tiny-prm-easy-vqa.*tiny-qwen3"):
        resolve_path("builtin:tiny-prm")


def test_it_flags_what_contradicts_the_picture_and_needs_the_picture(tmp_path):
    pytest.importorskip("easy_vqa")
    rows = build("source", {"easy_vqa": {"split": "test", "where": {"kind": ["shape", "color"]}}}).load(MediaLimits())
    chosen = [rows[i] for i in random.Random(1).sample(range(len(rows)), 40)]
    ideal, kinds = IDEAL["easy_vqa"]
    samples = as_span_samples(annotate(ideal_and_edits(chosen, ideal, kinds, 1, seed=1), EasyVqaOracle()))
    verifier = build("verifier", {"prm_local": {"model": NAME, "max_new_tokens": 64, "cache_mb": 0}})
    backend = verifier.backend(RunContext(None, tmp_path, 0, MediaLimits()))
    found = measures(judge(samples, backend))
    assert found["parse_error_rate"] == 0
    assert found["spans"]["f1"] > 0.7  # two words next to each other may be one span of the verifier
    assert found["spans"]["token_f1"] > 0.8
    assert found["response"]["auroc"] > 0.85
    swapped = measures(judge(exchanged(samples), backend))
    assert swapped["response"]["auroc"] < 0.65
    assert swapped["spans"]["macro_iou"] < 0.6 * found["spans"]["macro_iou"]
