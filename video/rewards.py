"""Rewards of retrieval and of grounding, each declared for its segment; the functions behind them.

Source: arXiv 2605.26680 and its release; the scaling by difficulty is VITAL's (arXiv 2508.04416, algorithm 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.rewards.base import Reward
from video.retrieval import Call, noted_calls, parse_calls

Span = tuple[float, float]  # start and end, seconds
LETTERS = frozenset("ABCDEFGH")
# Thresholds (alpha, beta) of the IoU by length of the gold window, seconds: below the first number the first pair.
DIFFICULTY = ((5.0, (0.6, 0.95)), (15.0, (0.5, 0.9)), (30.0, (0.4, 0.85)), (float("inf"), (0.3, 0.8)))
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_RANGE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*-\s*([0-9]+(?:\.[0-9]+)?)\s*")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<span>", "</span>", "<fps>", "</fps>")


def iou(one: Span, other: Span) -> float:
    """Intersection over union of two windows, in [0, 1]; 0 if they only touch, or if their union has no length."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    union = (one[1] - one[0]) + (other[1] - other[0]) - shared
    return shared / union if union > 0 else 0.0


def scaled(value: float, alpha: float, beta: float) -> float:
    """(value - alpha) / (beta - alpha), cut to [0, 1]; a step at alpha if beta does not lie above it."""
    if beta <= alpha:
        return float(value >= alpha)
    return max(0.0, min(1.0, (value - alpha) / (beta - alpha)))


def difficulty(length: float) -> tuple[float, float]:
    """(alpha, beta) for a gold window of `length` seconds: the longer, the lower."""
    return next(pair for limit, pair in DIFFICULTY if length < limit or limit == float("inf"))


def window_iou(call: Call, gold: Span, alpha: float = 0.1, beta: float = 0.6) -> float:
    """IoU of the window that was asked for, scaled; 0 without a valid call. The window counts as written."""
    return scaled(iou((call.start, call.end), gold), alpha, beta) if _valid(call) else 0.0


def fps_match(call: Call, gold: float, scale: float = 5.0) -> float:
    """max(0, 1 - |fps - gold| / scale); 0 without a valid call."""
    return max(0.0, 1.0 - abs(call.fps - gold) / scale) if _valid(call) else 0.0


def _valid(call: Call) -> bool:
    return call.status not in ("malformed", "none", "cut")


def answer_of(text: str) -> str | None:
    """Content of the first `<answer>...</answer>`, stripped; None without one."""
    found = _ANSWER.search(text)
    return None if found is None else found.group(1).strip()


def range_of(answer: str) -> Span | None:
    """The window of an answer that is exactly "num - num", seconds; None for any other text."""
    found = _RANGE.fullmatch(answer)
    return None if found is None else (float(found.group(1)), float(found.group(2)))


def accuracy(text: str, answer: str | None, gold: Span | None = None) -> float:
    """How right the first `<answer>` of `text` is, in [0, 1].

    A gold answer of one letter A to H: 1 if the answer is that letter, in any case. Otherwise, with a gold window: the
    IoU of an answer "num - num", scaled by the difficulty of the gold window's length. Otherwise 1 if the answer is the
    gold one, in any case. No answer tag, or another format: 0.
    """
    said = answer_of(text)
    if said is None:
        return 0.0
    wanted = (answer or "").strip().upper()
    if wanted not in LETTERS and gold is not None:
        window = range_of(said)
        return 0.0 if window is None else scaled(iou(window, gold), *difficulty(gold[1] - gold[0]))
    return float(bool(wanted) and said.upper() == wanted)


def format_score(text: str, order: bool = True) -> float:
    """0.4 for `<think>` first and closed, 0.4 for `<answer>` and `</answer>`, 0.2 for call tags that match, in order.

    Tags match if `<span>`, `</span>`, `<fps>` and `</fps>` are equally many (none, too). With `order` the last 0.2 also
    wants think, call, end of think, answer in this order, each call tag pair whole; without it is the release's rule.
    """
    count = {tag: text.count(tag) for tag in _TAGS}
    value = 0.4 * (text.startswith("<think>") and count["</think>"] > 0)
    value += 0.4 * (count["<answer>"] > 0 and count["</answer>"] > 0)
    paired = count["<span>"] == count["</span>"] and count["<fps>"] == count["</fps>"]
    matching = paired and count["<span>"] == count["<fps>"]
    return value + 0.2 * (matching and (not order or _in_order(text)))


def _in_order(text: str) -> bool:
    """Whether the tags come as think, calls, end of think, answer; what is missing stands in nobody's way."""
    found = re.findall("|".join(map(re.escape, _TAGS)), text)
    calls = [tag for tag in found if tag in _TAGS[4:]]
    if calls != list(_TAGS[4:]) * (len(calls) // 4):
        return False
    places = {tag: text.find(tag) for tag in _TAGS}
    last_call = text.rfind("</fps>")
    chain = [places["<think>"], places["<span>"], last_call, places["</think>"], places["<answer>"]]
    there = [place for place in chain if place >= 0]
    return there == sorted(there)


class Gold(Reward):
    """Where the labels of a sample stand."""

    segment: ClassVar[str]  # retrieval or reasoning: whose tokens it is about

    span_key: str = Field("span", description="key of meta with the gold window [start, end], seconds")
    fps_key: str = Field("fps", description="key of meta with the gold rate, frames a second")
    call: Literal["first", "last"] = Field("first", description="which call of a response is judged")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self.value(item) for item in items]

    def value(self, item: RewardItem) -> float | None:
        """The value of one response; None if its sample has no label."""
        raise TypeError(f"{type(self).__name__} does not implement value(item)")

    def asked(self, item: RewardItem) -> Call:
        """The call of the response that counts.

        Where calls were answered while the response was sampled, the calls that happened: tags that are spelled out in
        other tokens than their own ask for nothing. Else those of its text.
        """
        made = parse_calls(item.response) if item.notes is None else noted_calls(item.notes)
        made = [call for call in made if call.made]
        if self.call == "first":
            return made[0] if made else Call()
        heard = [call for call in made if call.status != "ignored"]
        return heard[-1] if heard else Call()

    def window(self, item: RewardItem) -> Span | None:
        """The gold window: ``meta[span_key]``, or the release's columns gt_span_start and gt_span_end. None = no label.

        Raises ValueError for one that is no pair start < end.
        """
        meta = item.meta
        value: Any = meta.get(self.span_key)
        if value is None and meta.get("gt_span_start") is not None and meta.get("gt_span_end") is not None:
            value = (meta["gt_span_start"], meta["gt_span_end"])
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
            raise ValueError(f"meta[{self.span_key!r}] must be [start, end] in seconds, got {value!r}")
        start, end = (float(each) for each in value)
        if not 0 <= start < end:
            raise ValueError(f"meta[{self.span_key!r}] must be a window 0 <= start < end, got {value!r}")
        return start, end

    def rate(self, item: RewardItem) -> float | None:
        """The gold rate ``meta[fps_key]``; None = no label. Raises ValueError for one that is no positive number."""
        value = item.meta.get(self.fps_key)
        if value is None:
            return None
        if not _is_number(value) or not float(value) > 0:
            raise ValueError(f"meta[{self.fps_key!r}] must be frames a second above 0, got {value!r}")
        return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


@register("reward", "window_iou")
class WindowIoU(Gold):
    """Segment retrieval: IoU of the window that the response asks for with the gold window, scaled to [0, 1].

    clip((IoU - alpha) / (beta - alpha), 0, 1); 0 without a valid call. Not applicable to a sample without a gold window
    (``meta.span``, or gt_span_start and gt_span_end). Source: arXiv 2605.26680; alpha .1, beta .6 of its release.
    """

    segment = "retrieval"
    not_applicable = float("nan")

    alpha: float = Field(0.1, ge=0, lt=1, description="IoU up to which the value is 0")
    beta: float = Field(0.6, gt=0, le=1, description="IoU from which it is 1")

    def value(self, item: RewardItem) -> float | None:
        gold = self.window(item)
        return None if gold is None else window_iou(self.asked(item), gold, self.alpha, self.beta)


@register("reward", "fps_match")
class FpsMatch(Gold):
    """Segment retrieval: max(0, 1 - |fps - gold| / scale) for the rate that the response asks for; 0 without a call.

    With the release's scale of 5 everything within 2 of the gold rate earns 0.6 and more, so that always asking for 2
    is nearly optimal; a scale of 3 tells more. Not applicable to a sample without a gold rate (``meta.fps``). Source:
    arXiv 2605.26680.
    """

    segment = "retrieval"
    not_applicable = float("nan")

    scale: float = Field(5.0, gt=0, description="distance from the gold rate that earns 0")

    def value(self, item: RewardItem) -> float | None:
        gold = self.rate(item)
        return None if gold is None else fps_match(self.asked(item), gold, self.scale)


@register("reward", "retrieval")
class Retrieval(Gold):
    """Segment retrieval: weighted window IoU and fps match in one part, which `sd_grpo` reads by its name.

    w_iou * IoU~ + w_fps * F; 0 without a valid call. A sample that has only one of the two labels is judged by that one
    alone, with the weights' sum; one that has none is not applicable. Source: arXiv 2605.26680, figure 2 (its release
    gives the IoU weight 0).
    """

    segment = "retrieval"
    not_applicable = float("nan")

    w_iou: float = Field(0.5, ge=0, description="weight of the window's IoU")
    w_fps: float = Field(0.5, ge=0, description="weight of the rate")
    alpha: float = Field(0.1, ge=0, lt=1, description="IoU up to which its part is 0")
    beta: float = Field(0.6, gt=0, le=1, description="IoU from which it is 1")
    scale: float = Field(5.0, gt=0, description="distance from the gold rate that earns 0")

    @model_validator(mode="after")
    def _weighs_something(self) -> Retrieval:
        if self.w_iou + self.w_fps <= 0:
            raise ValueError("w_iou and w_fps are both 0: one of them must count")
        return self

    def value(self, item: RewardItem) -> float | None:
        call, gold, rate = self.asked(item), self.window(item), self.rate(item)
        parts = []
        if gold is not None and self.w_iou:
            parts.append((self.w_iou, window_iou(call, gold, self.alpha, self.beta)))
        if rate is not None and self.w_fps:
            parts.append((self.w_fps, fps_match(call, rate, self.scale)))
        if not parts:
            return None
        return (self.w_iou + self.w_fps) * sum(w * v for w, v in parts) / sum(w for w, _ in parts)


@register("reward", "grounding_accuracy")
class GroundingAccuracy(Gold):
    """Segment reasoning: the option, or the window answered, its IoU scaled by difficulty.

    A reference of one letter A to H: 1 if the first `<answer>` is that letter. Otherwise, with a window to find
    (``meta.answer_span``, a reference "0.00 - 8.00", or ``meta.span`` of a sample without a reference): the IoU of the
    answer "num - num", scaled between (alpha, beta) by the gold window's length: below 5 s (.6, .95), 15 s (.5, .9),
    30 s (.4, .85), else (.3, .8). Otherwise 1 if the answer is the reference. A truncated response has 0. Source: arXiv
    2605.26680; scaling of arXiv 2508.04416.
    """

    segment = "reasoning"

    answer_span_key: str = Field("answer_span", description="key of meta with the window that is the answer")

    def value(self, item: RewardItem) -> float | None:
        gold = self._answer_window(item)
        if gold is None and not (item.answer or "").strip():
            return None
        return 0.0 if item.truncated else accuracy(item.response, item.answer, gold)

    def _answer_window(self, item: RewardItem) -> Span | None:
        if item.meta.get(self.answer_span_key) is not None:
            own: Mapping[str, Any] = {self.span_key: item.meta[self.answer_span_key]}
            return self.window(RewardItem(item.response, item.answer, meta=own))
        # A plain answer ("3", "red") with a window to look at is no grounding question, and the window to look at may
        # be wider than the one to answer.
        return self.window(item) if item.answer is None else range_of(item.answer)


@register("reward", "retrieval_format")
class RetrievalFormat(Gold):
    """Segment reasoning: the shape `<think> .. call .. </think><answer>..</answer>`, in tenths.

    0.4 if the response begins with `<think>` and closes it, 0.4 for an answer tag pair, 0.2 if the four call tags are
    equally many (none is fine) and, with `order`, come as think, call, end of think, answer. Source: arXiv 2605.26680;
    `order: false` is its release.
    """

    segment = "reasoning"

    order: bool = Field(True, description="the last 0.2 want the tags in order, too")

    def value(self, item: RewardItem) -> float | None:
        return format_score(item.response, self.order)


@register("reward", "reasoning")
class Reasoning(GroundingAccuracy):
    """Segment reasoning: weighted accuracy and format in one part, which `sd_grpo` reads by its name.

    w_ans * grounding_accuracy + w_fmt * retrieval_format. Source: arXiv 2605.26680; .6 and .1 of its launch script.
    """

    segment = "reasoning"

    w_ans: float = Field(0.6, ge=0, description="weight of the answer")
    w_fmt: float = Field(0.1, ge=0, description="weight of the format")
    order: bool = Field(True, description="the format wants the tags in order, too")

    def value(self, item: RewardItem) -> float | None:
        right = super().value(item)
        shape = format_score(item.response, self.order)
        return None if right is None else self.w_ans * right + self.w_fmt * shape
