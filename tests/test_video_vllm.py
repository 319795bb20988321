"""Frames in the middle of a response on the engine `vllm`: what the engine `hf` samples, from the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is tested in an environment of its own: scripts/test_vllm.sh")

import torch
import yaml
from test_rollout_hf import engine as hf_engine
from test_video_rollout import asked, tagged
from test_video_runs import command, write
from tiny import tiny_png
from video_plugin import AnyToken

from mmcredit.components import build
from mmcredit.data.sample import Media, Sample
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.reaction import Reply, Said
from mmcredit.rollout.strategies.base import ReactingEngine, reacting
from video.retrieval import Call
from video.rollout import Promise

NOISE = 2e-4  # nats; vLLM's kernels in float32 against a plain forward
FIELDS = {"any_token": {"max_retrievals": 2, "max_frames": 8, "max_inserted_tokens": 200}}


@pytest.fixture(scope="module")
def opened():
    policy = tagged("qwen3_vl")
    engine = build("engine", {"vllm": {"max_model_len": 2048}}).open(policy)
    yield policy, engine
    engine.close()


class Often(AnyToken):
    """Takes the fifth and the tenth token of a response for calls, whatever they are."""

    @property
    def stops(self) -> tuple[int, ...]:
        return tuple(range(14, 240))

    def __call__(self, said: Said) -> Reply | Promise:
        own, given = len(said.tokens) - sum(len(one.piece) for one in said.inserted), len(said.inserted)
        if given > 1 or own < (5, 10)[given]:
            return Reply()
        start = said.tokens[-1] % 3
        call = Call(start, start + 2 + given, 2, "ok")
        key, future = self.windows.start(self.media, call, self.windows.limits.max_frames)
        return Promise(self, call, said.room, given, key, future)


def sampled(policy: Any, engine: Any, folder: Path, sampling: Sampling) -> list[Response]:
    """Responses to two prompts with a video and one without, windows of their own in them."""
    words = Sample("t", ({"role": "user", "content": "what is left"},))
    samples = [*(asked(folder, f"v{n}", str(n)) for n in (5, 7, 9, 20)), words]
    requests = [Request(policy.encode(s), range(10 * i, 10 * i + 3), tag=i) for i, s in enumerate(samples)]
    with build("strategy", FIELDS).reactions(policy) as answers:

        def often(sample: Sample) -> Any:
            made = answers(sample)
            return None if made is None else Often(**vars(made))

        return ReactingEngine(engine, often).generate(requests, sampling)


class Gaps:
    """Of every token that the engine `hf` draws, how far the most likely one is before the next, in nats."""

    def __init__(self) -> None:
        self.of: dict[int, list[float]] = {}

    def __call__(self, step: int, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        best = logits.topk(2, -1).values
        for response, gap in zip(rows.responses.tolist(), (best[:, 0] - best[:, 1]).tolist(), strict=True):
            self.of.setdefault(response, []).append(gap)
        return logits


def test_greedy_responses_are_those_of_hf_beyond_the_noise(opened, tmp_path):
    policy, engine = opened
    reference = hf_engine(policy)
    reference.hook = gaps = Gaps()
    sampling = Sampling(max_new_tokens=40, temperature=0)
    before = dict(engine.counts)
    expected = sampled(policy, reference, tmp_path, sampling)
    got = sampled(policy, engine, tmp_path, sampling)
    assert sum(len(r.inserted) for r in expected[:12]) > 6
    compared = 0
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        shorter = min(len(a.tokens), len(b.tokens))
        first = next((i for i in range(shorter) if a.tokens[i] != b.tokens[i]), None)
        if first is None:
            assert (a.tokens, a.finish, [i.at for i in a.inserted]) == (b.tokens, b.finish, [i.at for i in b.inserted])
            assert a.logprobs == pytest.approx(b.logprobs, abs=NOISE)
            compared += 1
            continue
        drawn = first - sum(len(one.piece) for one in b.inserted if one.end <= first)
        assert gaps.of[number][drawn] < NOISE, f"response {number} differs at {first}"
    assert compared > 6
    assert engine.counts["insertions"] - before["insertions"] == sum(len(r.inserted) for r in got)


def test_sampled_responses_are_those_of_hf(opened, tmp_path):
    policy, engine = opened
    sampling = Sampling(max_new_tokens=24, stop=("ei",), stop_token_ids=(250, 251))
    expected = sampled(policy, hf_engine(policy), tmp_path, sampling)
    got = sampled(policy, engine, tmp_path, sampling)
    assert {r.finish for r in got} == {"stop", "length"}
    assert sum(len(r.inserted) for r in got) > 8
    for a, b in zip(got, expected, strict=True):
        assert (a.tag, a.member, a.tokens, a.finish, a.notes) == (b.tag, b.member, b.tokens, b.finish, b.notes)
        assert a.logprobs == pytest.approx(b.logprobs, abs=NOISE)
        assert [(i.at, i.piece.media_keys) for i in a.inserted] == [(i.at, i.piece.media_keys) for i in b.inserted]


def test_what_is_sent_again_is_known_to_the_prefix_cache(opened, tmp_path):
    policy, engine = opened
    long = asked(tmp_path, "c", "20")
    text = [{"type": "video"}, {"type": "text", "text": "what moves " * 100}]
    prompt = policy.encode(Sample("long", ({"role": "user", "content": text},), long.media))
    before = engine.counts["cached_tokens"]
    with reacting(engine, [build("strategy", FIELDS)], policy) as reacts:
        found = reacts.generate([Request(prompt, range(4))], Sampling(max_new_tokens=30))
    turns = sum(len(r.inserted) for r in found)
    assert turns > 2
    block = engine.llm_engine.vllm_config.cache_config.block_size
    whole = len(prompt) // block * block
    assert whole > 0
    assert engine.counts["cached_tokens"] - before >= turns * whole, "every turn finds the blocks of the prompt"


def test_compact_ids_expand_to_the_ids_that_are_scored(opened, tmp_path):
    """vLLM's own processor makes of one placeholder per video what the trainer has: in the prompt and behind a tag."""
    from vllm.inputs import TokensPrompt
    from vllm.renderers.inputs.preprocess import parse_model_prompt

    policy, engine = opened
    sample = asked(tmp_path, "a", "20")
    prompt, reader = policy.encode(sample), policy.encoder.load_video
    with reacting(engine, [build("strategy", FIELDS)], policy) as reacts:
        found = reacts.generate([Request(prompt, range(8))], Sampling(max_new_tokens=30))
    response = next(r for r in found if len(r.inserted) == 2)
    compact, start = prompt.unexpanded.tolist(), 0
    pad = policy.body.kinds["video"]
    for one in response.inserted:
        own = one.piece.tokens.tolist()
        compact += [*response.tokens[start : one.at], own[0], pad, own[-1]]  # times stand in the expansion
        start = one.end
    compact += response.tokens[start:]
    assert compact.count(pad) == 3
    windows = [reader(sample.media[0])]
    for one in response.inserted:
        windows.append(next(w for w in _windows(reader, sample) if _same(policy, one.piece, w)))
    videos = [(frames, {**about, "do_sample_frames": False}) for frames, about in windows]
    llm = engine.llm_engine
    given = TokensPrompt(prompt_token_ids=compact, multi_modal_data={"video": videos})
    renderer = llm.input_processor.renderer
    (made,) = renderer.render_cmpl([parse_model_prompt(llm.model_config, given)], renderer.default_cmpl_tok_params)
    assert list(made["prompt_token_ids"]) == [*prompt.tokens.tolist(), *response.tokens]


def _windows(reader: Any, sample: Sample) -> list[Any]:
    """All that `any_token` may ask for."""
    from dataclasses import replace

    found = []
    for token in range(0, 240, 3):
        options = {"video_start": float(token % 5), "video_end": float(token % 5 + 2), "fps": 1.0}
        options |= {"min_frames": 4, "max_frames": 8}
        found.append(reader(replace(sample.media[0], options=options)))
    return found


def _same(policy: Any, piece: Any, window: Any) -> bool:
    from video.rollout import PLACEHOLDER, label

    frames, about = window
    made = policy.encoder.piece("w", label(policy.processor, about) + PLACEHOLDER, [(frames, about)], ["x"])
    return made.tokens.tolist() == piece.tokens.tolist() and torch.equal(
        made.media["pixel_values_videos"], piece.media["pixel_values_videos"]
    )


def test_videos_whose_positions_vllm_counts_otherwise_are_refused(tmp_path):
    """Qwen2.5-VL: in transformers text goes on behind the size of a video, in vLLM behind its length."""
    policy = tagged("qwen2_5_vl")
    engine = build("engine", {"vllm": {"max_model_len": 2048}}).open(policy)
    try:
        with pytest.raises(ValueError, match="vLLM counts the positions of this video otherwise"):
            sampled(policy, engine, tmp_path, Sampling(max_new_tokens=4))
        still = Sample(
            "i", ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=tiny_png(64, 1)),)
        )
        requests = [Request(policy.encode(still), range(3))]
        call = ReactingEngine(engine, lambda sample: Words(policy))
        got = call.generate(requests, Sampling(max_new_tokens=12))
        expected = ReactingEngine(hf_engine(policy), lambda sample: Words(policy)).generate(
            requests, Sampling(max_new_tokens=12)
        )
        assert [(r.tokens, len(r.inserted)) for r in got] == [(r.tokens, len(r.inserted)) for r in expected]
        assert sum(len(r.inserted) for r in got) > 2
    finally:
        engine.close()


class Words:
    """Inserts text behind the third token."""

    stops = tuple(range(14, 380))
    room = 20

    def __init__(self, policy: Any) -> None:
        self.piece = policy.encoder.piece("w", "only words")

    def __call__(self, said: Said) -> Reply:
        return Reply(None if said.inserted or len(said.tokens) < 3 else self.piece)


def test_a_run_trains_on_what_vllm_was_given(tmp_path):
    path = write(tmp_path / "run")
    config = yaml.safe_load(path.read_text())
    config["run"]["steps"] = 2
    config["rollout"]["engine"] = {"vllm": {"max_model_len": 1024}}
    path.write_text(yaml.safe_dump(config))
    result = command("train", str(path))
    assert result.returncode == 0, result.stderr[-2000:]
    run = tmp_path / "run" / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["rollout/any_token/insertions"] > 2 for row in rows] == [True, True]
    events = [json.loads(line)["message"] for line in (run / "events.jsonl").read_text().splitlines()]
    parity = next(e for e in events if "parity: KL" in e)
    assert float(parity.split("largest ")[1].rstrip(".")) < NOISE, parity
    assert rows[1]["engine/probe_difference"] < NOISE
