"""The retrieval call: its grammar, its one parser, and what became of it.

    call := "<span>" ws num ws dash ws num ws "</span>" ws "<fps>" ws rate ws "</fps>"
    num  := DIGIT+ [ "." DIGIT+ ]        seconds, absolute time of the video
    dash := "-" | "–" | "—"
    rate := DIGIT+                       frames a second

Source: arXiv 2605.26680 (DynFrame). Its release has three parsers that disagree (generation, rewards, SFT loader);
this one serves sampling, rewards, training data and evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

SPAN, SPAN_END, FPS, FPS_END = TAGS = ("<span>", "</span>", "<fps>", "</fps>")
MAX_FPS = 30  # hard limit of a call; the sampler (video.frames) restricts further

# What became of a call. `none` and `cut` are no calls: nothing was asked, or `</fps>` never came. `ignored` is a call
# beyond the number that a response may make: its text stays text.
Status = Literal["ok", "malformed", "empty", "out_of_budget", "decode_error", "none", "cut", "ignored"]
STATUSES: tuple[Status, ...] = ("ok", "malformed", "empty", "out_of_budget", "decode_error", "none", "cut", "ignored")

NOTE = "retrieval_call/"  # + number of the call

_NUM = r"([0-9]+(?:\.[0-9]+)?)"
_CALL = re.compile(rf"<span>\s*{_NUM}\s*[-–—]\s*{_NUM}\s*</span>\s*<fps>\s*([0-9]+)\s*</fps>")


@dataclass(frozen=True)
class Call:
    """One retrieval call of a response.

    `start` and `end` are seconds of the video as written, not clamped; `fps` is the rate as written. All three are NaN
    unless the text follows the grammar. `begin` and `finish` are the characters of the text that the call takes, from
    `<span>` up to and including `</fps>`.
    """

    start: float = math.nan
    end: float = math.nan
    fps: float = math.nan
    status: Status = "none"
    reason: str = ""  # of a call that is not ok: a few words to count by
    begin: int = -1
    finish: int = -1

    @property
    def ok(self) -> bool:
        """Whether the call may be answered with frames."""
        return self.status == "ok"

    @property
    def made(self) -> bool:
        """Whether `</fps>` is there, whatever stands before it: the response was cut in two segments."""
        return self.status not in ("none", "cut")

    def become(self, status: Status, reason: str = "") -> Call:
        """The same call after something happened to it."""
        return replace(self, status=status, reason=reason)

    def __str__(self) -> str:
        return format_call(self.start, self.end, int(self.fps)) if self.fps == self.fps else f"({self.status})"


def noted(number: int, call: Call) -> dict[str, float]:
    """What is noted of call `number` of a response: its status (place in STATUSES), and what it asked for."""
    name = f"{NOTE}{number}"
    asked = {f"{name}/start": call.start, f"{name}/end": call.end, f"{name}/fps": call.fps}
    return {name: float(STATUSES.index(call.status))} | {key: v for key, v in asked.items() if v == v}


def noted_calls(notes: Mapping[str, float]) -> list[Call]:
    """The calls that `noted` noted, in order; their places in the text are not known."""
    found: list[Call] = []
    while (status := notes.get(name := f"{NOTE}{len(found)}")) is not None:
        start, end, fps = (notes.get(f"{name}/{key}", math.nan) for key in ("start", "end", "fps"))
        found.append(Call(start, end, fps, STATUSES[int(status)]))
    return found


def format_call(start: float, end: float, fps: int) -> str:
    """The canonical spelling: two decimals, a hyphen between blanks, whole frames a second."""
    return f"{SPAN}{start:.2f} - {end:.2f}{SPAN_END}{FPS}{fps}{FPS_END}"


def parse_call(text: str) -> Call:
    """The first call of `text`: what stands between the first `</fps>` and the nearest `<span>` before it.

    status `ok`: the grammar holds, start < end, 1 <= fps <= 30, and the call does not stand in `<answer>`; `malformed`:
    anything else before a `</fps>` (`reason` says what: no span, grammar, order, rate, in answer); `cut`: a `<span>` or
    `<fps>` is open and no `</fps>` follows; `none`: no tag at all. During sampling `text` ends with `</fps>`.
    """
    return call_after(text, 0)


def parse_calls(text: str, max_retrievals: int | None = None) -> list[Call]:
    """Every call of `text` in order, each closed by a `</fps>`; an open one at the end is `cut`.

    Calls that are ok beyond the first `max_retrievals` are `ignored`. Empty if there is no tag.
    """
    found: list[Call] = []
    at = answered = 0
    while (call := call_after(text, at)).made:
        if call.ok:
            answered += 1
            if max_retrievals is not None and answered > max_retrievals:
                call = call.become("ignored", f"more than {max_retrievals} calls")
        found.append(call)
        at = call.finish
    return found if call.status == "none" else [*found, call]


def call_after(text: str, at: int) -> Call:
    """The first call of `text` at or after character `at`; see `parse_call`."""
    close = text.find(FPS_END, at)
    if close >= 0:
        return call_closed(text, at, close)
    begin = max(text.rfind(SPAN, at), text.rfind(FPS, at))
    if begin < 0:
        return Call()
    return Call(status="cut", reason="no </fps>", begin=text.rfind(SPAN, at) if SPAN in text[at:] else begin)


def call_closed(text: str, at: int, close: int) -> Call:
    """The call that the `</fps>` at character `close` ends; it begins at or after `at`.

    A tag may be spelled out in other tokens than its own; then it is text. Who knows the tokens says which `</fps>`.
    """
    finish = close + len(FPS_END)
    begin = text.rfind(SPAN, at, close)
    if begin < 0:
        return Call(status="malformed", reason="no span", begin=close, finish=finish)
    match = _CALL.fullmatch(text, begin, finish)
    if match is None:
        return Call(status="malformed", reason="grammar", begin=begin, finish=finish)
    # float, not int: Python refuses to read an int of more than 4300 digits, and a float of as many is infinite.
    start, end, fps = (float(number) for number in match.groups())
    call = Call(start, end, fps, "ok", "", begin, finish)
    if not start < end or math.isinf(end):
        return call.become("malformed", "order")
    if not 1 <= fps <= MAX_FPS:
        return call.become("malformed", "rate")
    if text.rfind("<answer>", 0, begin) > text.rfind("</answer>", 0, begin):
        return call.become("malformed", "in answer")
    return call
