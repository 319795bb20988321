"""The response of a policy that knows the reference and keeps to the wanted format: what a run must be able to pay."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, references
from mmcredit.rewards.base import Reward
from mmcredit.rewards.format import Format

_THOUGHT = "The question asks for one thing, and it follows."  # no number, capital or mark that could be an answer


def ideal_response(rewards: Sequence[Reward], item: RewardItem) -> str | None:
    r"""The response that an ideal policy would write to `item`; its own `response` is not looked at.

    The reference (the first accepted answer, unwrapped) stands where the rewards look for it, as their fields `extract`
    and `tag` say: in ``\boxed{}``, in ``<answer></answer>`` or bare, all of them if the rewards differ; around it
    stands what the reward `format` asks for. Of the ways to write that, the first with full marks for format is taken.
    Whether the rewards pay for it is for the caller to find out: where they do not, no policy can earn the reward of
    this item. Returns None if the item has no reference.
    """
    answer = _reference(rewards, item)
    if answer is None:
        return None
    shapes = [reward for reward in rewards if isinstance(reward, Format)]
    ways = _ways(answer, rewards, shapes)
    for way in ways:
        if all(value == 1 for shape in shapes for value in shape([RewardItem(way, item.answer)])):
            return way
    return ways[0]


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
