"""The shipped model of configs/video_events.yaml asks for frames and answers from what they show."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mmcredit import config
from mmcredit.policy.load import resolve_path
from mmcredit.policy.policy import Policy
from mmcredit.prepare import held_out_samples
from mmcredit.rollout.engine import Request, Sampling
from video.tags import TagIds

pytest.importorskip("av")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import effect_video

CLIPS = 48


@pytest.fixture(scope="module")
def loaded():
    run = config.load(effect_video.CONFIG, None, [f"data.evaluate.video_events.size={CLIPS}"])
    return run, Policy.load(run.model, media_limits=run.data.media), held_out_samples(run)


def test_it_knows_the_tags_and_says_what_was_measured(loaded) -> None:
    _, policy, _ = loaded
    ids = TagIds.of(policy.tokenizer)
    assert len({ids.span, ids.span_end, ids.fps, ids.fps_end}) == 4
    record = json.loads((Path(resolve_path("builtin:tiny-qwen3-vl-events")) / "provenance.json").read_text())
    assert record["test"]["looking"]["gold"] >= 0.8
    assert record["test"]["looking"]["other"] <= 0.4


def test_what_stands_behind_the_call_decides_the_answer(loaded) -> None:
    """The call is its own; the frames are the gold ones, or those of another stretch of the clip."""
    run, policy, samples = loaded
    from mmcredit.components import build

    engine = build("engine", run.rollout.engine).open(policy)
    right, asked = {}, {}
    for window in ("gold", "other"):
        strategy = build(
            "strategy", {"retrieval_given": {"max_frames": 8, "max_inserted_tokens": 64, "window": window}}
        )
        with strategy.reactions(policy) as reaction:
            requests = [Request(policy.encode(s), (0,), tag=i, reaction=reaction(s)) for i, s in enumerate(samples)]
            said = engine.generate(requests, Sampling(temperature=0.0, max_new_tokens=48))
        texts = [policy.decode(r.tokens) for r in said]
        right[window] = sum(f"<answer>{s.answer}<" in t for s, t in zip(samples, texts, strict=True)) / CLIPS
        asked[window] = sum(bool(r.inserted) for r in said) / CLIPS
    assert min(asked.values()) > 0.8
    assert right["gold"] > 0.8
    assert right["other"] < 0.5
