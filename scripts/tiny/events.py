"""Clips with events for a tiny Qwen3-VL: its tower learns the pictures, its language model to ask and to look.

Few different pictures make all clips, and with one token for two frames the features of every pair of them fit in a
table: the language model is trained from look-ups. Pictures are those that the codec leaves, not those that were drawn.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny.batches import encoded_text, pad
from tiny.progress import Progress
from video.decode import open_decoder
from video.event_clips import COLOURS, EDGE, NATIVE, NOTHING, SHAPES, Event, make_event, picture, to_row, write_mp4
from video.frames import VideoLimits, window_indices
from video.retrieval import FPS_END, parse_call

SIZE, PATCH = 32, 16  # pixels: with 2 x 2 patches merged, a pair of frames is one token
LIMITS = VideoLimits(fps=1.0, min_frames=4, max_frames=8, min_volume=2048, max_volume=65536)
DETAILS = (NOTHING, *((shape, "") for shape in SHAPES), *(("circle", colour) for colour in sorted(COLOURS)))
BORDERS = (("", ""), *product(sorted(COLOURS), sorted(EDGE)))
PICTURES = [(*border, detail) for border in BORDERS for detail in (DETAILS if border[0] else DETAILS[:1])]
NUMBER = {known: number for number, known in enumerate(PICTURES)}


def decoded_pictures(folder: Any) -> np.ndarray:
    """[N, SIZE, SIZE, 3] uint8: every picture as it comes out of a clip's file."""
    path = folder / "pictures.mp4"
    path.write_bytes(write_mp4([picture(*known, SIZE) for known in PICTURES]))
    decoder = open_decoder("pyav")
    return decoder.frames_at(path, range(len(PICTURES))).pixels


def patches(first: np.ndarray, second: np.ndarray) -> torch.Tensor:
    """[N * patches, 3 * 2 * PATCH * PATCH]: pairs of frames [N, SIZE, SIZE, 3] as Qwen3-VL's tower reads them."""
    side, merge = SIZE // PATCH, 2
    frames = torch.from_numpy(np.stack([first, second], 1)).permute(0, 1, 4, 2, 3).float()  # N, T, C, H, W
    frames = (frames / 255 - 0.5) / 0.5
    grid = frames.reshape(-1, 2, 3, side // merge, merge, PATCH, side // merge, merge, PATCH)
    return grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * 2 * PATCH * PATCH)


def features(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """[1 + deep-stack levels, N, hidden] of N pairs."""
    count = len(pixels) // (SIZE // PATCH) ** 2
    grid = torch.tensor([[1, SIZE // PATCH, SIZE // PATCH]]).expand(count, 3)
    out = model.model.get_image_features(pixels, grid, return_dict=True)
    levels = [out.pooler_output, *out.deepstack_features]
    return torch.stack([level if torch.is_tensor(level) else torch.cat(list(level)) for level in levels])


def train_tower(model: PreTrainedModel, pictures: np.ndarray, seed: int, steps: int, batch: int = 192) -> dict:
    """Teach the tower to name border and detail of both frames of a pair, with a throw-away classifier."""
    torch.manual_seed(seed)
    rng = np.random.RandomState(seed)
    sizes = (len(BORDERS), len(DETAILS))
    hidden = model.config.text_config.hidden_size
    probe = torch.nn.Linear(hidden, 2 * sum(sizes))
    weights = [*model.model.visual.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30, (steps - step) / (0.3 * steps))
    )
    labels = torch.tensor([[BORDERS.index(known[:2]), DETAILS.index(known[2])] for known in PICTURES])
    progress = Progress("tower", steps)

    def read(pairs: np.ndarray, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = patches(pictures[pairs[:, 0]], pictures[pairs[:, 1]])
        if noise:
            pixels = pixels + noise * torch.randn_like(pixels)
        logits = probe(features(model, pixels).sum(0)).reshape(len(pairs), 2, sum(sizes))
        return logits, labels[torch.from_numpy(pairs)]

    for step in range(steps):
        logits, wanted = read(rng.randint(len(PICTURES), size=(batch, 2)), 0.05)
        parts = logits.split(sizes, -1)
        loss = sum(cross_entropy(part.flatten(0, 1), wanted[..., i].flatten()) for i, part in enumerate(parts))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        progress.show(step + 1, loss=loss.item())
    with torch.no_grad():
        logits, wanted = read(np.random.RandomState(seed + 1).randint(len(PICTURES), size=(1000, 2)), 0.0)
        right = [
            (part.argmax(-1) == wanted[..., i]).float().mean().item() for i, part in enumerate(logits.split(sizes, -1))
        ]
    return {"probe_border_accuracy": right[0], "probe_detail_accuracy": right[1]}


@torch.no_grad()
def feature_table(model: PreTrainedModel, pictures: np.ndarray, batch: int = 512) -> torch.Tensor:
    """[1 + levels, N * N, hidden]: the features of every pair of pictures."""
    pairs = np.array(list(product(range(len(PICTURES)), repeat=2)))
    parts = [
        features(model, patches(pictures[own[:, 0]], pictures[own[:, 1]]))
        for own in np.split(pairs, range(batch, len(pairs), batch))
    ]
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Lesson:
    """One clip as ids: prompt, response with its inserted window, and what is taught of it, with weights."""

    ids: list[int]
    weights: list[float]  # 0 on the prompt and on inserted tokens
    pairs: list[int]  # row of the feature table per video token
    event: Event
    parts: dict[str, list[int]]  # places of what is measured


class Teacher:
    """Makes lessons from clips, laid out as the policy lays out prompts and responses."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answer_weight: float = 3.0, call_weight: float = 2.0):
        self.tokenizer, self.answer_weight, self.call_weight = tokenizer, answer_weight, call_weight
        self.pad_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")

    def video(self, event: Event, frames: list[int]) -> tuple[str, list[int]]:
        """The text of a video of these frames, and its rows of the feature table."""
        frames = frames + frames[-1:] * (len(frames) % 2)
        text, pairs = "", []
        for first, second in zip(frames[::2], frames[1::2], strict=True):
            text += f"<{(first + second) / 2 / NATIVE:.1f} seconds><|vision_start|><|video_pad|><|vision_end|>"
            a, b = (NUMBER[self._known(event, frame)] for frame in (first, second))
            pairs.append(a * len(PICTURES) + b)
        return f"<|vision_start|>{text}<|vision_end|>", pairs

    @staticmethod
    def _known(event: Event, frame: int) -> tuple[str, str, Any]:
        for window in event.windows:
            if frame in window.frames():
                return window.border, window.width, event.shown(frame)
        return "", "", NOTHING

    def prompt(self, event: Event) -> tuple[list[int], list[int]]:
        """Ids and pairs of the prompt."""
        text, pairs = self.video(event, list(event.coarse))
        whole = f"<|im_start|>user\n{text}{event.question}<|im_end|>\n<|im_start|>assistant\n"
        return self._ids(whole), pairs

    def inserted(self, event: Event, text: str) -> tuple[list[int], list[int]]:
        """Ids and pairs of the window that the call of `text` is given."""
        call = parse_call(text)
        frames = window_indices(call.start, call.end, call.fps, NATIVE, event.seconds * NATIVE, LIMITS)
        shown, pairs = self.video(event, frames)
        return self._ids(shown), pairs

    def lesson(self, event: Event, completion: str) -> Lesson:
        """The ideal response of a clip, taught."""
        prompt, pairs = self.prompt(event)
        at = completion.index(FPS_END) + len(FPS_END)
        before, after = self._ids(completion[:at]), encoded_text(self.tokenizer, completion[at:])
        window, more = self.inserted(event, completion[:at])
        ids = [*prompt, *before, *window, *after]
        span, fps = (before.index(self.tokenizer.convert_tokens_to_ids(tag)) for tag in ("<span>", "<fps>"))
        first = [1.0] * span + [self.call_weight] * (len(before) - span)
        tag = after.index(self.tokenizer.convert_tokens_to_ids("<answer>"))
        closed = after.index(self.tokenizer.convert_tokens_to_ids("</think>"))
        weight = self.answer_weight
        rest = [1.0] * len(after)
        rest[1:closed], rest[tag + 1] = [weight] * (closed - 1), weight
        weights = [0.0] * len(prompt) + first + [0.0] * len(window) + rest
        base, later = len(prompt), len(prompt) + len(before) + len(window)
        dash = next(i for i in range(span, fps) if "-" in self.tokenizer.decode([before[i]]))
        parts = {
            "start": list(range(base + span + 1, base + dash)),
            "end": list(range(base + dash + 1, base + fps)),
            "fps": [base + fps + 1],
            "seen": list(range(later + 1, later + closed)),
            "answer": [later + tag + 1],
        }
        return Lesson(ids, weights, [*pairs, *more], event, parts)

    def direct(self, event: Event, rng: random.Random) -> Lesson:
        """What the gold window shows, told without a coarse video and without a call: a few of its pairs of frames."""
        frames = window_indices(event.window.start, event.window.end, event.window.fps, NATIVE, event.seconds * NATIVE)
        pairs = list(zip(frames[::2], frames[1::2], strict=True))
        telling = [pair for pair in pairs if any(event.shown(frame)[0] for frame in pair)]
        chosen = sorted({*telling, *rng.sample(pairs, rng.randint(0, len(pairs)))})
        text, rows = self.video(event, [frame for pair in chosen for frame in pair])
        before = f"<|im_start|>user\n{event.question}<|im_end|>\n<|im_start|>assistant\n<think>{text}"
        completion = event.completion()
        prompt, after = self._ids(before), encoded_text(self.tokenizer, completion.partition(FPS_END)[2])
        weights = [0.0] * len(prompt) + [1.0] * len(after)
        at, closed = len(prompt) + 1, len(prompt) + after.index(self.tokenizer.convert_tokens_to_ids("</think>"))
        weights[at:closed] = [self.answer_weight] * (closed - at)
        return Lesson([*prompt, *after], weights, rows, event, {"seen": list(range(at, closed))})

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class Reader:
    """Forward passes of the language model over lessons, from the feature table."""

    def __init__(self, model: PreTrainedModel, table: torch.Tensor, teacher: Teacher) -> None:
        self.model, self.table, self.teacher = model, table, teacher

    def logits(self, lessons: list[Lesson]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, L-1, V], labels and weights [B, L-1]. All visual blocks are one token: positions are those of text."""
        ids, mask = pad([lesson.ids for lesson in lessons], self.model.generation_config.pad_token_id, False)
        weights = torch.zeros(ids.shape)
        for row, lesson in enumerate(lessons):
            weights[row, : len(lesson.weights)] = torch.tensor(lesson.weights)
        visual = ids == self.teacher.pad_id
        found = self.table[:, torch.tensor([pair for lesson in lessons for pair in lesson.pairs])]
        embedded = self.model.model.language_model.embed_tokens(ids)
        embedded = embedded.masked_scatter(visual[..., None], found[0])
        positions = torch.arange(ids.shape[1]).expand(3, len(ids), -1)
        hidden = self.model.model.language_model(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=positions,
            visual_pos_masks=visual,
            deepstack_visual_embeds=list(found[1:]),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, :-1], ids[:, 1:], weights[:, 1:]

    def loss(self, lessons: list[Lesson]) -> torch.Tensor:
        """The weighted mean cross-entropy."""
        hidden, labels, weights = self.logits(lessons)
        kept = weights > 0
        losses = cross_entropy(self.model.lm_head(hidden[kept]), labels[kept], reduction="none")
        return (losses * weights[kept]).sum() / weights[kept].sum()

    @torch.no_grad()
    def measure(self, lessons: list[Lesson]) -> dict[str, float]:
        """Shares of what is named rightly, given all that stands before; nats on the answer."""
        right: dict[str, list[float]] = {name: [] for name in ()}
        for start in range(0, len(lessons), 64):
            own = lessons[start : start + 64]
            hidden, labels, _ = self.logits(own)
            for row, lesson in enumerate(own):
                for name, places in lesson.parts.items():
                    where = torch.tensor(places) - 1
                    logits = self.model.lm_head(hidden[row, where])
                    right.setdefault(name, []).append(float((logits.argmax(-1) == labels[row, where]).all()))
                    if name == "answer":
                        right.setdefault("answer_nats", []).append(float(cross_entropy(logits, labels[row, where])))
        return {name: sum(values) / len(values) for name, values in right.items()}


@dataclass(frozen=True)
class Clips:
    """Which clips are taught: the fields of the source `video_events`."""

    kinds: tuple[str, ...]
    stray: float = 0.0
    shortest: int = 8
    longest: int = 16

    def event(self, seed: int, split: str, index: int) -> Event:
        """Clip `index` of a split."""
        more = {"size": SIZE, "shortest": self.shortest, "longest": self.longest}
        return make_event(self.kinds, seed, split, index, **more)

    def text(self, event: Event, rng: random.Random, stray: float | None = None) -> str:
        """Its response, with a call beside the gold one in a share of cases."""
        from mmcredit.data.scenes.layout import Lots

        share = self.stray if stray is None else stray
        call = event.stray(Lots(rng.randrange(2**31), "stray")) if rng.random() < share else None
        return to_row(event, "train", call, LIMITS)["completion"]


def train_language(
    reader: Reader,
    clips: Clips,
    seed: int,
    steps: int,
    whole: int,
    direct: int,
    learning_rate: float = 2e-3,
    check: int = 50,
) -> dict:
    """Teach the language model from `whole` responses and `direct` looks a step, the tower frozen.

    From whole responses alone it learns to ask and hardly to look: one token in a hundred shows the detail, and one
    word in thirty tells it. Short looks come first; a few of them go on beside the whole responses.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, teacher = reader.model, reader.teacher
    weights = list(model.model.language_model.parameters()) + list(model.lm_head.parameters())
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, max(0.05, (steps - step) / (0.4 * steps)))
    )
    held_out = [teacher.lesson(e, e.completion()) for e in (clips.event(seed, "test", i) for i in range(96))]
    looks = [teacher.direct(lesson.event, rng) for lesson in held_out]
    progress = Progress("language", steps, 20)
    found: dict[str, float] = {}
    for step in range(1, steps + 1):
        events = [clips.event(seed, "train", (step - 1) * (whole + direct) + i) for i in range(whole + direct)]
        loss = torch.zeros(())
        if whole:
            loss = loss + reader.loss([teacher.lesson(event, clips.text(event, rng)) for event in events[:whole]])
        if direct:
            loss = loss + reader.loss([teacher.direct(event, rng) for event in events[whole:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % check == 0 or step == steps:
            found = reader.measure(held_out) | {"look": reader.measure(looks)["seen"]}
            print(step, {name: round(value, 3) for name, value in found.items()}, file=sys.stderr, flush=True)
        progress.show(step, loss=loss.item())
    return {"steps": steps, **found}
