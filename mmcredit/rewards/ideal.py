"""The response of a policy that knows the reference and keeps to the wanted format: what a run must be able to pay."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmcredit.answers.extract import extract
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, references
from mmcredit.rewards.base import Reward
from mmcredit.rewards.format import Format

_THOUGHT = "The question asks for one thing, and it follows."  # no number, capital or mark that could be an answer


@dataclass(frozen=True)
class Wrapping:
    """Where a reward looks: `label` for messages, and how a prompt that asks for it mentions it."""

    label: str
    mention: re.Pattern[str]

    def asked(self, prompt: str) -> bool:
        """Whether the text of a prompt mentions it."""
        return self.mention.search(prompt) is not None


_BOXED = Wrapping(r"\boxed{}", re.compile(r"\\f?box(?:ed)?\b|\bboxed\b"))


def _tagged(tag: str) -> Wrapping:
    name = re.escape(tag)
    return Wrapping(f"<{tag}>", re.compile(rf"</?\s*{name}\s*/?>|\b{name} tags?\b"))


USUAL = (_tagged("answer"), _BOXED)


def wrapping(reward: Reward) -> Wrapping | None:
    """What a reward needs around the answer; None if it reads the response as it is."""
    how = getattr(reward, "extract", None)
    if how == "tag":
        return _tagged(getattr(reward, "tag", "answer"))
    return _BOXED if how == "boxed" else None


def answered(reward: Reward, response: str) -> bool:
    """Whether a response has an answer where this reward looks (see `wrapping`)."""
    how: Any = getattr(reward, "extract", "whole")
    return extract(response, how, getattr(reward, "tag", "answer")) is not None


def judges(reward: Reward) -> bool:
    """Whether an ideal response must earn 1 from this reward: it compares with the reference, or asks for a format."""
    return hasattr(reward, "extract") or isinstance(reward, Format)


def ideal_response(rewards: Sequence[Reward], item: RewardItem) -> str | None:
    r"""The response that an ideal policy would write to `item`: the first of `ideal_responses`, None without any."""
    return next(iter(ideal_responses(rewards, item)), None)


def ideal_responses(rewards: Sequence[Reward], item: RewardItem) -> list[str]:
    r"""The ways in which an ideal policy would write to `item`; its own `response` is not looked at.

    The reference (the first accepted answer, unwrapped) stands where the rewards look for it, as their fields `extract`
    and `tag` say: in ``\boxed{}``, in ``<answer></answer>`` or bare, all of them if the rewards differ; around it
    stands what the reward `format` asks for. Ways with full marks for format come first. Whether the rewards pay is for
    the caller to find out: where they pay for none, no policy can earn the reward of this item. Empty if the item has
    no reference.
    """
    answer = _reference(rewards, item)
    if answer is None:
        return []
    shapes = [reward for reward in rewards if isinstance(reward, Format)]
    ways = list(dict.fromkeys(_ways(answer, rewards, shapes)))

    def fits(way: str) -> bool:
        return all(value == 1 for shape in shapes for value in shape([RewardItem(way, item.answer)]))

    return sorted(ways, key=lambda way: not fits(way))


def _reference(rewards: Sequence[Reward], item: RewardItem) -> str | None:
    """The text to be answered: boxes of `iou` as JSON, else the first accepted answer under any reward's key."""
    keys = [getattr(reward, "answers_key", ANSWERS_KEY) for reward in rewards]
    for key in dict.fromkeys((*keys, ANSWERS_KEY)):
        found = references(item, key)
        if found:
            return found[0]
    for reward in rewards:
        boxes = item.meta.get(getattr(reward, "boxes_key", None) or "")
        if boxes is not None:
            return json.dumps(boxes)
    return None


def _ways(answer: str, rewards: Sequence[Reward], shapes: Sequence[Format]) -> list[str]:
    """The same answer, from the plainest shape that fits to others that a format of the user's own may ask for."""
    looked_for = [
        (reward.extract, getattr(reward, "tag", "answer"))  # type: ignore[attr-defined]
        for reward in rewards
        if hasattr(reward, "extract")
    ]
    presets = {shape.preset for shape in shapes if shape.pattern is None}
    tags = {tag: None for how, tag in looked_for if how == "tag"}
    if "think_answer" in presets:
        tags = {"answer": None, **tags}
    boxed = "think_boxed" in presets or any(how == "boxed" for how, _ in looked_for)
    core = f"\\boxed{{{answer}}}" if boxed else answer
    wrapped = "\n".join(f"<{tag}>{core}</{tag}>" for tag in tags) or core
    in_lines = "\n".join(f"<{tag}>\n{core}\n</{tag}>" for tag in tags) or core
    thinking = [
        f"<think>{_THOUGHT}</think>\n{wrapped}",
        f"<think>\n{_THOUGHT}\n</think>\n\n{in_lines}",
        f"<think>\n{_THOUGHT}\n</think>\n<answer>\n{core}\n</answer>",
        f"<think>{_THOUGHT}</think><answer>{core}</answer>",
        f"<think>{_THOUGHT}</think>{wrapped}",
    ]
    plain = [wrapped, f"{_THOUGHT}\n{wrapped}", f"<answer>{core}</answer>", f"\\boxed{{{answer}}}", answer]
    opened = [way.removeprefix("<think>") for way in thinking]  # the prompt may end with <think>
    return [*thinking, *opened, *plain] if presets else [*plain, *thinking, *opened]
