"""The strategy `retrieval`: what every call is answered with, by responses that are spelt out in advance."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import video_plugin
from policy_cases import make_policy
from tiny import tiny_vl
from video_clips import number_of, write, write_sound

from mmcredit import config
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.dropped import reason_of
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.data.videos import VideoLoader
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.policy import Policy
from mmcredit.policy.vision import items
from mmcredit.rewards.pool import RewardResult
from mmcredit.rollout.batch import Ask
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.strategies.base import reacting
from mmcredit.rollout.volume import sampled as sampled_volume
from mmcredit.seeds import derive
from mmcredit.train.ahead import Ahead
from mmcredit.train.costs import Costs
from mmcredit.train.sampling import SamplingStage
from video.retrieval import STATUSES
from video.rollout import label
from video.tags import TagIds, add_tags

OK = "a <span>2.00 - 4.00</span><fps>3</fps> b"


def tagged(family: str = "qwen3_vl") -> Policy:
    model, processor = tiny_vl(family)  # type: ignore[arg-type]
    add_tags(processor.tokenizer, model)
    policy = Policy(model, processor.tokenizer, processor)
    policy.encoder.load_video = VideoLoader(video_plugin.Drawn(), MediaLimits())
    return policy


def asked(folder: Path, name: str, content: str = "20") -> Sample:
    file = folder / f"{name}.mp4"
    file.write_text(content)
    parts = [{"type": "video"}, {"type": "text", "text": "what moves"}]
    return Sample(name, ({"role": "user", "content": parts},), (Media("video", path=file, name=name),), answer="red")


def scripted(policy: Policy, text: str) -> list[int]:
    """The ids of a text; what stands between braces is spelled letter by letter, so that its tags are none."""
    encode = partial(policy.tokenizer.encode, add_special_tokens=False)
    parts = re.split(r"[{}]", text)
    spelled = [[i for letter in part for i in encode(letter)] for part in parts[1::2]]
    return [i for plain, own in zip_longest(parts[::2], spelled, fillvalue="") for i in (*encode(plain), *own)]


class Stage(SamplingStage):
    """A real rollout stage around a policy, whose responses are spelt out: `texts` per prompt and member."""

    def __init__(self, policy: Policy, texts: list[list[str]], tokens: int = 60) -> None:
        self.policy, self.engine = policy, build("engine", "hf").open(policy)  # type: ignore[attr-defined]
        self.sampling, self.seed, self.step = Sampling(max_new_tokens=tokens), 0, 0
        self.costs, self.notes, self.reward_counts, self.events = Costs(), {}, {}, []
        self.bar = SimpleNamespace(stage=lambda *a: None, advance=lambda n: None)  # type: ignore[assignment]
        self.items: list[RewardItem] = []  # what rewards saw
        pool = SimpleNamespace(score=self.rewarded, names=[], rewards=[])
        self.parts = SimpleNamespace(pool=pool, verifying=SimpleNamespace(ask=lambda *a: None))  # type: ignore[assignment]
        self._event = lambda message, *a: self.events.append(message)
        self.ahead = Ahead(self, 0)
        self.scripts = [scripted(policy, t) for own in texts for t in own]
        self.told = [0] * len(self.scripts)
        self.engine.hook = self.force  # type: ignore[attr-defined]

    def rewarded(self, items: list[RewardItem]) -> RewardResult:
        self.items += items
        return RewardResult([0.0] * len(items), {}, {}, {}, [])

    def force(self, step, logits, rows):
        """Only the next token of each script is left; behind it the end."""
        forced = torch.full_like(logits, -torch.inf)
        for row, response in enumerate(rows.responses.tolist()):
            script, place = self.scripts[response], self.told[response]
            token = script[place] if place < len(script) else self.policy.eos_token_ids[0]
            forced[row, token] = 0.0
            self.told[response] += 1
        return forced


def sampled(policy: Policy, samples: list[Sample], texts: list[list[str]], tokens: int = 60, **fields):
    """The batch of the strategy, and its stage."""
    stage = Stage(policy, texts, tokens)
    pairs = [(s, policy.encode(s)) for s in samples]
    stage._asked = 0
    asks = [
        Ask(s, p, tuple(derive(0, i, m) for m in range(len(own))))
        for i, ((s, p), own) in enumerate(zip(pairs, texts, strict=True))
    ]
    strategy = build("strategy", {"retrieval": {"max_inserted_tokens": 2000, **fields}})
    batch = strategy(asks, None, stage)  # type: ignore[operator]
    counts = {name.removeprefix("rollout/retrieval/"): n for name, n in stage.notes.items()}
    return batch, stage, counts


def statuses(batch) -> list[list[str]]:
    """Per response the statuses that its tokens carry, in order."""
    found = []
    for row in batch.rollouts.signals["retrieval_call"].tolist():
        runs = [v for i, v in enumerate(row) if v and (i == 0 or row[i - 1] != v)]
        found.append([STATUSES[v - 1] for v in runs])
    return found


CASES = {
    OK: ["ok"],
    "none at all": [],
    "a </fps> b": ["malformed"],
    "a <span>4.00 - 2.00</span><fps>3</fps> b": ["malformed"],
    "a <span>2.00 - 4.00</span><fps>0</fps> b": ["malformed"],
    "a <span>2.00 - 4.00</span><fps>31</fps> b": ["malformed"],
    "a <span>50.00 - 60.00</span><fps>3</fps> b": ["empty"],
    "a <span>2.00 - 4.00</span><fps>30</fps> b": ["ok"],
    f"{OK} {OK}": ["ok", "ignored"],
    f"<answer>{OK}</answer>": ["malformed"],
}


def test_tags_that_are_spelled_out_ask_for_nothing_and_earn_nothing(tmp_path: Path) -> None:
    """Decoded, they read as a call does; only tags of one token stop a response."""
    policy = tagged()
    gold, other = "<span>2.00 - 4.00</span><fps>3</fps>", "<span>10.00 - 12.00</span><fps>1</fps>"
    sample = replace(asked(tmp_path, "v"), meta={"span": [2.0, 4.0], "fps": 3})
    texts = [
        f"a {gold} b",
        f"a {{{gold}}} b",
        f"a {{{gold}}} {other} b",
        f"a {{{other}}} {gold} b",
        f"{gold} {{{gold}}}",
    ]
    batch, stage, counts = sampled(policy, [sample], [texts], tokens=200)
    plain = [re.sub(r"[{} ]", "", text) for text in texts]
    said = [re.sub(r"<[0-9.]+ seconds>| ", "", item.response) for item in stage.items]
    assert said == plain
    assert statuses(batch) == [["ok"], [], ["ok"], ["ok"], ["ok"]]
    assert [len(own) for own in batch.rollouts.inserted] == [1, 0, 1, 1, 1]
    earned = {name: build("reward", name)(stage.items) for name in ("window_iou", "fps_match", "retrieval")}
    assert earned["window_iou"] == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert earned["fps_match"] == [1.0, 0.0, 1 - 2 / 5, 1.0, 1.0]
    assert earned["retrieval"] == [1.0, 0.0, 0.3, 1.0, 1.0]
    assert counts["none"] == 1
    shown = [own[0].piece for own in batch.rollouts.inserted if own]
    assert shown[0] is shown[2] is shown[3] is not shown[1], "the window of the call that happened"


def test_every_call_has_its_status_and_only_good_ones_get_frames(tmp_path: Path) -> None:
    policy = tagged()
    batch, stage, counts = sampled(policy, [asked(tmp_path, "v")], [list(CASES)])
    assert statuses(batch) == list(CASES.values())
    inserted = [len(own) for own in batch.rollouts.inserted]
    assert inserted == [each.count("ok") for each in CASES.values()]
    wanted = {"ok": 3, "none": 1, "malformed": 5, "empty": 1, "ignored": 1}
    assert {name: counts[name] for name in wanted} == wanted
    assert (counts["insertions"], counts["windows"]) == (3, 2), "equal calls share a window"
    ids = TagIds.of(policy.tokenizer)
    for row, text in enumerate(CASES):
        said = batch.rollouts.tokens[row][batch.rollouts.mask[row]].tolist()
        assert said == [*stage.scripts[row], policy.eos_token_ids[0]], text
        for one in batch.rollouts.inserted[row]:
            assert int(batch.rollouts.tokens[row, one.at - 1]) == ids.fps_end
            assert bool((batch.rollouts.segments[row, one.at : one.end] == 0).all())
            assert bool((batch.rollouts.segments[row, : one.at] == 1).all())
            assert bool((batch.rollouts.segments[row, one.end :][batch.rollouts.mask[row, one.end :]] == 2).all())
    # Of 2..4 s at 3 a second: frames 8..16 at 4 a second, six of them; the text has the times of their pairs.
    assert "</fps><2.2 seconds><3.0 seconds><3.8 seconds> b" in batch.texts[0]
    shown = batch.rollouts.inserted[0][0].piece.media["video_grid_thw"].tolist()
    assert shown[0][0] == 3
    policy._layout = "shared"
    scored = policy.score(batch.prompts, batch.rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    assert bool(torch.isfinite(scored[CLEAN]["logprobs"]).all())


def test_the_length_limit_cuts_calls(tmp_path: Path) -> None:
    policy = tagged()
    script = policy.tokenizer.encode(OK, add_special_tokens=False)
    end = script.index(TagIds.of(policy.tokenizer).fps_end)
    # At the limit itself the call is complete, but nothing could follow: no window is read.
    for tokens, status in ((end, []), (end + 1, ["ok"])):
        batch, _, counts = sampled(policy, [asked(tmp_path, "v")], [[OK]], tokens=tokens)
        assert statuses(batch) == [status]
        assert batch.rollouts.inserted is None
        assert bool(batch.rollouts.truncated[0])
        assert counts["windows"] == 0


def test_budgets_lower_the_rate_or_insert_nothing(tmp_path: Path) -> None:
    policy = tagged()
    whole, _, _ = sampled(policy, [asked(tmp_path, "v")], [[OK]])
    size = len(whole.rollouts.inserted[0][0].piece)
    fewer, _, counts = sampled(policy, [asked(tmp_path, "v")], [[OK]], max_inserted_tokens=size - 1)
    piece = fewer.rollouts.inserted[0][0].piece
    assert len(piece) < size
    assert int(piece.media["video_grid_thw"][0, 0]) == 2
    assert counts["ok"] == 1
    none, _, counts = sampled(policy, [asked(tmp_path, "v")], [[OK]], max_inserted_tokens=10)
    assert none.rollouts.inserted is None
    assert statuses(none) == [["out_of_budget"]]
    assert counts["out_of_budget"] == 1
    # Two windows share one budget; sampled tokens have their own.
    two, _, _ = sampled(
        policy, [asked(tmp_path, "v")], [[f"{OK} {OK}"]], max_inserted_tokens=size + 20, max_retrievals=2
    )
    assert [len(one.piece) <= size for one in two.rollouts.inserted[0]] == [True, True]
    assert sum(len(one.piece) for one in two.rollouts.inserted[0]) <= size + 20


def test_a_file_that_breaks_later_is_a_status_and_a_word(tmp_path: Path) -> None:
    policy = tagged()
    sample = asked(tmp_path, "v")
    prompt = policy.encode(sample)
    (tmp_path / "v.mp4").write_text("torn")
    stage = Stage(policy, [[OK, "none"]])
    batch = build("strategy", {"retrieval": {"max_inserted_tokens": 500}})([Ask(sample, prompt, (1, 2))], None, stage)  # type: ignore[operator]
    assert statuses(batch) == [["decode_error"], []]
    assert stage.notes["rollout/retrieval/decode_error"] == 1
    assert any("retrieval: v: v is no video: 'torn'" in event for event in stage.events)
    assert batch.texts[0].startswith("a <span>"), "the response goes on without frames"


def test_qwen2_5_vl_gets_a_label(tmp_path: Path) -> None:
    policy = tagged("qwen2_5_vl")
    batch, _, _ = sampled(policy, [asked(tmp_path, "v")], [[OK, "none"]])
    assert "</fps><2.0 - 4.0 seconds> b" in batch.texts[0]
    piece = batch.rollouts.inserted[0][0].piece
    assert float(piece.media["second_per_grid_ts"][0]) > 0
    assert label(tagged().processor, {}) == ""


def test_prompts_without_a_video_are_sampled_as_ever(tmp_path: Path) -> None:
    policy = tagged()
    plain = Sample("t", ({"role": "user", "content": "what is left"},))
    batch, _, counts = sampled(policy, [plain, asked(tmp_path, "v")], [[OK], [OK]])
    assert [len(own) for own in batch.rollouts.inserted] == [0, 1]
    assert counts["ok"] == 2, "the text of a call is one, whether or not there is something to look at"


def test_answers_outside_of_training_get_frames(tmp_path: Path) -> None:
    policy = tagged()
    prompt = policy.encode(asked(tmp_path, "v"))
    stage = Stage(policy, [[OK, "none"]])
    strategy = build("strategy", {"retrieval": {"max_inserted_tokens": 500}})
    with reacting(stage.engine, [strategy], policy) as engine:  # type: ignore[list-item]
        responses = engine.generate([Request(prompt, (1, 2))], stage.sampling)
    assert [len(r.inserted) for r in responses] == [1, 0]
    with reacting(stage.engine, [], policy) as engine:
        assert engine is stage.engine


def run_config(**changes):
    base = {
        "model": {"path": "x"},
        "data": {"train": {"jsonl": {"path": "x.jsonl"}}},
        "rewards": ["exact_answer"],
        "rollout": {"strategies": ["retrieval"], **changes},
    }
    return config.parse(base)


def test_what_it_cannot_serve_is_said_when_the_config_is_read() -> None:
    volume = sampled_volume(run_config(strategies=[{"retrieval": {"max_inserted_tokens": 700}}]))
    assert volume.row_tokens == 64 + 700
    assert volume.most_tokens == 16 * 8 * 64, "inserted tokens are not sampled"
    with pytest.raises(
        ValueError, match="engine 'server' cannot take in the middle of a response; use rollout.engine hf or vllm"
    ):
        run_config(engine={"server": {"engine": "hf"}})
    with pytest.raises(ValueError, match="min_new_tokens is 3"):
        run_config(sampling={"min_new_tokens": 3})
    with pytest.raises(ValueError, match="'spo_chain' samples on from ids alone"):
        run_config(strategies=["spo_chain", "retrieval"])
    with pytest.raises(ValueError, match="'replay' brings back stored responses"):
        run_config(strategies=["replay", "retrieval"])
    with pytest.raises(ValueError, match="must stand last"):
        run_config(strategies=["retrieval", "dynamic_sampling"])
    with pytest.raises(ValueError, match="min_frames 9 is above max_frames 4"):
        run_config(strategies=[{"retrieval": {"min_frames": 9, "max_frames": 4}}])


def test_a_tokenizer_without_tags_is_refused() -> None:
    policy = make_policy("qwen3_vl")
    strategy = build("strategy", "retrieval")

    @contextmanager
    def opened():
        with strategy.reactions(policy) as found:  # type: ignore[attr-defined]
            yield found

    with pytest.raises(ValueError, match=r"<span> is \d+ tokens of this tokenizer"), opened():
        pass


def test_samples_with_an_own_range_keep_their_size(tmp_path: Path) -> None:
    """Options of the prompt's video that say which frames are not those of a window; those of size are."""
    policy = tagged()
    seen: list[dict] = []
    read = policy.encoder.load_video
    assert read is not None

    def keep(media: Media):
        seen.append(dict(media.options))
        return read(media)

    policy.encoder.load_video = keep
    sample = asked(tmp_path, "v")
    (media,) = sample.media
    sample = replace(sample, media=(replace(media, options={"video_end": 3.0, "fps": 1.0, "max_pixels": 50176}),))
    sampled(policy, [sample], [[OK]], max_frames=16)
    assert seen[-1] == {
        "video_start": 2.0, "video_end": 4.0, "fps": 3.0, "min_frames": 4, "max_frames": 16, "max_pixels": 50176,
    }  # fmt: skip


# --- real files -------------------------------------------------------------------------------------------------------


def filmed(folder: Path, name: str = "v.mp4", seconds: int = 20) -> Sample:
    """A question about a real file of ten frames a second, each of which shows its number."""
    write(folder / name, [i / 10 for i in range(10 * seconds)])
    parts = [{"type": "video"}, {"type": "text", "text": "what moves"}]
    media = Media("video", path=folder / name, name=name, options={"max_frames": 4})
    return Sample(name, ({"role": "user", "content": parts},), (media,), answer="red")


def reading(policy: Policy, **fields) -> Policy:
    """The policy with the package's own reader."""
    limits = {"min_volume": 4 * 64 * 64, "max_volume": 16 * 64 * 64}
    reader = build("video", {"sampled": {"limits": limits, **fields}})
    policy.encoder.load_video = VideoLoader(reader, MediaLimits())  # type: ignore[arg-type]
    return policy


def test_the_frames_that_are_inserted_are_those_of_the_window(tmp_path: Path) -> None:
    pytest.importorskip("av")
    policy = reading(tagged())
    call = "<span>12.00 - 14.00</span><fps>4</fps>"
    batch, _, _ = sampled(policy, [filmed(tmp_path)], [[call, "<span>0.00 - 1.00</span><fps>5</fps>"]], max_frames=8)
    pixels = Pixels(policy.processor)
    shown = []
    for own in batch.rollouts.inserted:
        (item,) = items(own[0].piece)
        shown.append([number_of(np.asarray(frame)) for frame in pixels.frames(item, "v")])
    # Twenty-one frames, 120 to 140, of which 4 a second of 2.1 s are eight; eleven, of which 5 a second are four.
    assert shown == [[120, 123, 126, 129, 131, 134, 137, 140], [0, 3, 7, 10]]
    assert "<12.2 seconds><12.8 seconds>" in batch.texts[0]


def test_bad_files_are_dropped_before_and_counted_after_they_are_asked(tmp_path: Path) -> None:
    pytest.importorskip("av")
    policy = reading(tagged(), deadline=20)
    sample = filmed(tmp_path)
    prompt = policy.encode(sample)
    (media,) = sample.media
    for name, reason in (("empty.mp4", "media damaged"), ("sound.m4a", "media damaged"), ("gone.mp4", "media missing")):
        path = tmp_path / name
        if name == "empty.mp4":
            path.write_bytes(b"")
        elif name == "sound.m4a":
            write_sound(path)
        with pytest.raises(ValueError, match=name) as caught:
            policy.encode(replace(sample, media=(replace(media, path=path, name=name),)))
        assert reason_of(caught.value) == reason, name
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])  # between its prompt and the call
    stage = Stage(policy, [["<span>12.00 - 14.00</span><fps>4</fps> x", "<span>50.00 - 60.00</span><fps>4</fps> x"]])
    strategy = build("strategy", {"retrieval": {"max_inserted_tokens": 500}})
    batch = strategy([Ask(sample, prompt, (1, 2))], None, stage)  # type: ignore[operator]
    assert statuses(batch)[0] == ["decode_error"]
    assert any("retrieval: v.mp4" in event for event in stage.events), stage.events


def test_a_video_of_one_frame_and_a_long_one(tmp_path: Path) -> None:
    pytest.importorskip("av")
    policy = reading(tagged())
    write(tmp_path / "one.mp4", [0.0])
    write(tmp_path / "long.mp4", [float(i) for i in range(0, 7200, 20)])  # two hours, a frame every 20 s
    parts = [{"type": "video"}, {"type": "text", "text": "what moves"}]
    samples = [
        Sample(
            n, ({"role": "user", "content": parts},), (Media("video", path=tmp_path / n, options={"max_frames": 4}),)
        )
        for n in ("one.mp4", "long.mp4")
    ]
    texts = [["<span>0.00 - 1.00</span><fps>4</fps> x"], ["<span>3600.00 - 3700.00</span><fps>1</fps> x"]]
    batch, _, counts = sampled(policy, samples, texts, max_frames=8)
    assert statuses(batch) == [["empty"], ["ok"]]
    (item,) = items(batch.rollouts.inserted[1][0].piece)
    numbers = [number_of(np.asarray(frame)) for frame in Pixels(policy.processor).frames(item, "long")]
    assert numbers[0] == 180
    assert numbers[-1] <= 185
    assert counts["empty"] == 1
