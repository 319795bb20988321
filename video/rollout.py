"""Frames on demand: a response that closes a call with `</fps>` is given the window, and goes on in the same turn.

A window is read by the reader of the run's videos (`data.media.video`), as a prompt's video with `video_start`,
`video_end` and `fps` of its own: one sampler serves prompts, training data and retrieval. Reading happens in threads,
while other responses are sampled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mmcredit.components import build, register
from mmcredit.data.dropped import reason_of
from mmcredit.data.videos import EMPTY
from mmcredit.rollout.reaction import Reaction, Reply, Said
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy, Window
from video.frames import NoFrames
from video.retrieval import MAX_FPS, NOTE, STATUSES, Call, Status, noted
from video.segments import mark, token_calls, windows
from video.tags import TagIds

if TYPE_CHECKING:
    from mmcredit.data.sample import Media, Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.volume import Volume
    from mmcredit.rollouts import Rollouts

PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
# Strategies that cannot stand around this one, and why.
_IDS = "samples on from ids alone, without the frames that were inserted"
REFUSED = {
    "spo_chain": _IDS,
    "spo_tree": _IDS,
    "spae_probes": _IDS,
    "replay": "brings back stored responses, whose segments and calls it does not know",
}
_WHICH = ("fps", "nframes", "min_frames", "max_frames", "video_start", "video_end")


@dataclass(frozen=True)
class Limits:
    """How much one call may get."""

    max_fps: float
    min_frames: int
    max_frames: int
    max_retrievals: int
    room: int  # tokens of a response, all its windows together


@dataclass
class Windows:
    """Reads windows, each once, and makes the tokens and features' inputs that are inserted."""

    policy: Policy
    limits: Limits
    pool: Executor
    reads: dict[tuple[Any, ...], Future[Any]] = field(default_factory=dict)
    pieces: dict[tuple[Any, ...], Prompt] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # video -> the first error of its decoder
    seconds: float = 0.0  # of reading, all threads together
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, media: Media, call: Call, most: int) -> tuple[tuple[Any, ...], Future[Any]]:
        """Begin to read a window of at most `most` frames; the same one is read once."""
        options = {name: value for name, value in media.options.items() if name not in _WHICH}
        options |= {
            "video_start": call.start,
            "video_end": call.end,
            "fps": min(call.fps, self.limits.max_fps),
            "min_frames": min(self.limits.min_frames, most),
            "max_frames": most,
        }
        window = replace(media, options=options)
        key = (id(media), *sorted(options.items()))
        if key not in self.reads:
            encoder = self.policy.encoder
            if encoder.load_video is None:
                encoder.load_video = encoder.find_video()
            assert encoder.load_video is not None, "a prompt with a video was encoded without a reader"
            self.reads[key] = self.pool.submit(self._timed, encoder.load_video, window)
        return key, self.reads[key]

    def _timed(self, load: Callable[[Media], Any], window: Media) -> Any:
        began = time.perf_counter()
        try:
            return load(window)
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - began

    def piece(self, name: str, media: Media, key: tuple[Any, ...], found: Any) -> Prompt:
        """A window as tokens. The model's own layout of a video; a label of its times where that has none."""
        if key not in self.pieces:
            frames, about = found
            content = self.policy.encoder.content_key(replace(media, options=dict(key[1:])))
            text = label(self.policy.processor, about) + PLACEHOLDER
            self.pieces[key] = self.policy.encoder.piece(name, text, [(frames, about)], [content])
        return self.pieces[key]


def _no_frames(error: BaseException | None) -> bool:
    """Whether the sampler found no frames in a window."""
    while error is not None and not isinstance(error, NoFrames):
        error = error.__cause__
    return error is not None


def label(processor: Any, about: Mapping[str, Any]) -> str:
    """Times in words for a model whose processor writes none (Qwen2.5-VL, whose positions say nothing absolute)."""
    if hasattr(processor, "_calculate_timestamps"):  # Qwen3-VL: one per group of frames
        return ""
    times = [index / about["fps"] for index in about["frames_indices"]]
    return f"<{times[0]:.1f} - {times[-1]:.1f} seconds>"


@dataclass
class Answering:
    """The reaction to calls about one video."""

    windows: Windows
    sample: Sample
    media: Media
    ids: TagIds
    decode: Callable[[Sequence[int]], str]

    @property
    def stops(self) -> tuple[int, ...]:
        """The token that closes a call."""
        return (self.ids.fps_end,)

    @property
    def room(self) -> int:
        """Tokens that all windows of a response may take."""
        return self.windows.limits.room

    def __call__(self, said: Said) -> Reply | Promise:
        """Nothing for text that is no call, or one call too many; else the promise of a window."""
        given = {place for one in said.inserted for place in range(one.at, one.end)}
        own = [token for place, token in enumerate(said.tokens) if place not in given]
        *before, call = token_calls(own, self.ids, self.decode)
        number = len(before)
        if call.ok and sum(each.ok for each in before) >= self.windows.limits.max_retrievals:
            call = call.become("ignored")
        if not call.ok:
            return Reply(notes=noted(number, call))
        key, future = self.windows.start(self.media, call, self.windows.limits.max_frames)
        return Promise(self, call, said.room, number, key, future)


@dataclass
class Promise:
    """A window that is being read."""

    of: Answering
    call: Call
    room: int
    number: int  # of the call in its response
    key: tuple[Any, ...]
    future: Future[Any]

    def result(self) -> Reply:
        """The window as tokens; none where there are no frames, where they cannot be read, or do not fit."""
        status, piece = self._made()
        return Reply(piece, notes=noted(self.number, self.call.become(status)))

    def _made(self) -> tuple[Status, Prompt | None]:
        windows, media = self.of.windows, self.of.media
        key, future = self.key, self.future
        while True:
            try:
                found = future.result()
                piece = windows.piece(self.of.sample.id, media, key, found)
            except ValueError as error:
                if reason_of(error) == EMPTY or _no_frames(error):
                    return "empty", None
                windows.problems.setdefault(media.name or self.of.sample.id, str(error))
                return "decode_error", None
            if len(piece) <= self.room:
                return "ok", piece
            # A lower rate: as many frames as there is room for, by the same sampler.
            fitting = int(len(found[1]["frames_indices"]) * self.room / len(piece)) // 2 * 2
            if fitting < 2:
                return "out_of_budget", None
            key, future = windows.start(media, self.call, fitting)


@dataclass(frozen=True)
class Answers:
    """Who answers the calls about a sample."""

    windows: Windows
    ids: TagIds

    def __call__(self, sample: Sample) -> Reaction | None:
        """The reaction to its responses; None for a sample without a video. Of several videos the first is meant."""
        media = next((each for each in sample.media if each.kind == "video"), None)
        if media is None:
            return None
        return Answering(self.windows, sample, media, self.ids, self.windows.policy.decode)


@register("strategy", "retrieval")
class FrameRetrieval(Strategy):
    """Inserts the frames that a response calls for, in its middle.

    A response that says ``<span>62.00 - 68.00</span><fps>3</fps>`` is stopped there, the window of the prompt's video
    is read, its timestamps and visual tokens are appended, and the response goes on in the same turn. Inserted tokens
    are seen by everything and bear no credit. Their budget is apart from that of sampled ones; a window that does not
    fit is read at a lower rate. A call that is malformed, empty, over the budget, cannot be decoded or is one too many
    inserts nothing, and counts under its status. Gives `segments`, and the signals `retrieval_call` (tokens of a call,
    with its status) and `thought`, as `retrieval_segments` does. Held-out answers are sampled in the same way.

    Does the sampling itself: it stands last. The engine must serve insertions (hf, vllm). Not with strategies that
    sample on from ids alone (spo_chain, spo_tree, spae_probes), nor with `replay`, which does not know calls of stored
    responses. Source: arXiv 2605.26680; unlike its release the keys and values of what was read are kept, labels are
    the times of the frames themselves, and inserted tokens are never trained on.
    Cost: the window's tokens are read once per response that asks for it; a window that several ask for is decoded and
    encoded once. Noted: calls by status, windows, tokens inserted, and where the seconds went: decoding windows (in
    threads), reading prompts, sampling, reading insertions, waiting for windows.
    """

    gives = ("segments", "retrieval_call", "thought")
    replaces_sampling = True

    max_retrievals: int = Field(1, ge=1, description="calls of a response that are answered; later ones stay text")
    max_fps: float = Field(5, gt=0, le=MAX_FPS, description="rates above it are lowered to it, frames a second")
    min_frames: int = Field(4, ge=1, description="frames of a window, where it has as many")
    max_frames: int = Field(128, ge=2, description="frames of a window; longer ones are read at a lower rate")
    max_inserted_tokens: int = Field(8192, ge=8, description="tokens that the windows of a response may take")
    workers: int = Field(2, ge=1, description="threads that read videos while others are sampled")

    def check(self, run: Run) -> None:
        engine = build("engine", run.rollout.engine)
        if not getattr(engine, "takes_reactions", False):
            raise ValueError(
                f"rollout.strategies: {self.name!r} inserts frames into responses, which engine {engine.name!r} cannot "
                "take in the middle of a response; use rollout.engine hf or vllm"
            )
        if run.rollout.sampling.min_new_tokens:
            raise ValueError(
                f"rollout.sampling.min_new_tokens is {run.rollout.sampling.min_new_tokens}, but a response that "
                f"{self.name!r} stops would count it anew; set it to 0"
            )
        for entry in run.rollout.strategies:
            other = entry if isinstance(entry, str) else next(iter(entry))
            if other in REFUSED:
                raise ValueError(f"rollout.strategies: {other!r} {REFUSED[other]}; leave it or {self.name!r} out")
        if self.min_frames > self.max_frames:
            raise ValueError(
                f"strategy {self.name!r}: min_frames {self.min_frames} is above max_frames {self.max_frames}"
            )

    def volume(self, inner: Volume, run: Run) -> Volume:
        room = self.max_inserted_tokens
        line = f"{self.name}: up to {room} tokens are inserted into a response (max_inserted_tokens lowers it)"
        return replace(inner, row_tokens=inner.row_tokens + room).noting(line)

    @contextmanager
    def reactions(self, policy: Policy) -> Iterator[Answers]:
        """Inside the block: what answers the calls of a sample's responses."""
        ids = TagIds.of(policy.tokenizer)
        limits = Limits(self.max_fps, self.min_frames, self.max_frames, self.max_retrievals, self.max_inserted_tokens)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="video") as pool:
            yield Answers(Windows(policy, limits, pool), ids)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        engine = getattr(stage.engine, "spent", {})
        before = dict(engine)
        with self.reactions(stage.policy) as answers:
            batch = stage.sample([replace(ask, reaction=answers(ask.sample)) for ask in asks])
        for video, problem in answers.windows.problems.items():
            stage.event(f"retrieval: {video}: {problem}")
        rollouts, calls = mark(batch.rollouts, TagIds.of(stage.policy.tokenizer), stage.decode)
        told = {name: values for name, values in rollouts.signals.items() if name.startswith(NOTE)}
        marked = rollouts.signals["retrieval_call"].clone()
        for row, each in enumerate(calls):
            known = {n: told.get(f"{NOTE}{n}") for n in range(len(each))}
            for number, call in enumerate(each):
                values = known[number]
                status: Status = call.status
                if values is not None and float(values[row]) == float(values[row]):
                    status = STATUSES[int(values[row])]
                stage.note(f"retrieval/{status}", 1)
                self._overwrite(marked[row], number, STATUSES.index(status) + 1)
            if not each:
                stage.note("retrieval/none", 1)
        inserted = [one for own in rollouts.inserted or () for one in own]
        stage.spend(
            self.name,
            windows=len({one.piece.media_keys for one in inserted}),
            insertions=len(inserted),
            inserted_tokens=sum(len(one.piece) for one in inserted),
            decode_seconds=answers.windows.seconds,
            **{f"{name}_seconds": seconds - before[name] for name, seconds in engine.items()},
        )
        signals = {name: values for name, values in rollouts.signals.items() if name not in told}
        return batch.replace_rollouts(rollouts.replace(signals={**signals, "retrieval_call": marked}))

    def windows(
        self, rollouts: Rollouts, row: int, sample: Sample, decode: Callable[[Sequence[int]], str]
    ) -> Sequence[Window]:
        return windows(rollouts, row, sample, decode)

    @staticmethod
    def _overwrite(row: Any, number: int, value: int) -> None:
        """Put the status of the `number`-th call of a response on its tokens: the runs of tokens that are not 0."""
        places = row.nonzero()[:, 0].tolist()
        run, last = -1, -2
        for place in places:
            run += place != last + 1
            last = place
            if run == number:
                row[place] = value
