"""Pairs of answers to one prompt: from rows in TRL's preference columns, or from the frozen rollouts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import build
from mmcredit.data.columns import KNOWN
from mmcredit.data.dropped import Dropped, UnusableSample, reason_of
from mmcredit.data.sample import name_at
from mmcredit.rollouts import Rollouts
from mmcredit.supervised.taught import target_ids

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

CHOSEN, REJECTED = "chosen", "rejected"


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt, as ids; `given`: per-token signals that came with them, chosen [T], rejected [R]."""

    sample: Sample
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    number: int = 0  # among all usable pairs
    given: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.sample.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided when its row was read."""
        return self.sample.notes


def load_rows(entry: Any, limits: MediaLimits) -> Sequence[Sample]:
    """The samples of a source of pairs.

    Rows without a prompt column whose `chosen` is a chat have their prompt in it: the chat is read as the prompt, and
    its last turn becomes the chosen answer. Raises ValueError as the source.
    """
    source: Any = build("source", entry)
    if hasattr(source, "rows") and source.columns.prompt is None:
        there = set(source.rows().columns())
        if CHOSEN in there and not there & set(KNOWN["prompt"]):
            source = source.model_copy(update={"columns": source.columns.model_copy(update={"prompt": CHOSEN})})
    return source.load(limits)


def answer_of(value: Any, sample: Sample, side: str) -> str:
    """The text of one side: text, or a chat that ends with the assistant and repeats the prompt before it.

    Raises `UnusableSample` for anything else, and where the chat's prompt is another one.
    """
    if isinstance(value, list) and value and isinstance(value[-1], dict) and value[-1].get("role") == "assistant":
        before = [(m.get("role"), _flat(m.get("content"))) for m in value[:-1] if isinstance(m, dict)]
        own = [(m["role"], _flat(m["content"])) for m in sample.messages]
        if before and before != own[-len(before) :]:
            raise UnusableSample(
                f"sample {sample.name}: the turns before the last one of {side!r} are not the prompt's; a pair answers "
                "one prompt",
                "prompts differ",
            )
        value = _flat(value[-1].get("content"))
    if not isinstance(value, str):
        raise UnusableSample(
            f"sample {sample.name}: {side!r} is {value!r:.60}; text or messages of the assistant are wanted",
            f"{side} missing" if value is None else f"{side} malformed",
        )
    if not value.strip():
        raise UnusableSample(f"sample {sample.name}: {side!r} is empty; leave the row out", f"{side} empty")
    return value


def _flat(content: Any) -> Any:
    """The text of a content, images and videos by their names: two turns are compared by it."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(p.get("text") or "" if p.get("type") == "text" else "" for p in content)
    return content


def encode_pair(sample: Sample, policy: Policy, max_prompt_tokens: int | None, max_tokens: int | None) -> EncodedPair:
    """The pair of a row. Raises ValueError as `Policy.encode` and `answer_of`, and for equal or too long answers."""
    chosen = answer_of(sample.meta.get(CHOSEN, sample.answer), sample, CHOSEN)
    rejected = answer_of(sample.meta.get(REJECTED), sample, REJECTED)
    ids = [target_ids(text, policy, sample.name) for text in (chosen, rejected)]
    _check(sample, ids, policy.encode(sample, max_prompt_tokens), max_tokens)
    spans = [sample.meta.get(f"{side}_spans") for side in (CHOSEN, REJECTED)]
    given = {}
    if any(span is not None for span in spans):
        given["hallucinated"] = _flagged(sample, ids, spans, policy)
    return EncodedPair(sample, ids[0], ids[1], given=given)


def _check(sample: Sample, ids: Sequence[Sequence[int]], prompt: Prompt, max_tokens: int | None) -> None:
    if tuple(ids[0]) == tuple(ids[1]):
        raise UnusableSample(f"sample {sample.name}: both answers are equal; nothing can be preferred", "equal answers")
    longest = len(prompt) + max(len(each) for each in ids)
    if max_tokens is not None and longest > max_tokens:
        raise UnusableSample(
            f"sample {sample.name}: the prompt with its longer answer has {longest} tokens, more than data.max_tokens="
            f"{max_tokens}; raise it or drop the sample",
            "too long",
        )


def _flagged(
    sample: Sample, ids: Sequence[Sequence[int]], spans: Sequence[Any], policy: Policy
) -> tuple[Tensor, Tensor]:
    """Character spans of both answers as a signal of their tokens, 1 where a token has a part in one."""
    from mmcredit.policy.offsets import TokenOffsets

    offsets = TokenOffsets(policy.tokenizer)
    sides = []
    for own, listed, side in zip(ids, spans, (CHOSEN, REJECTED), strict=True):
        places = offsets.sampled(own)
        flags = torch.zeros(len(own))
        for span in listed or ():
            if not (isinstance(span, list | tuple) and len(span) == 2 and 0 <= span[0] < span[1] <= len(places.text)):
                raise UnusableSample(
                    f"sample {sample.name}: {side}_spans holds {span!r}; [start, end) within the {len(places.text)} "
                    "characters of the answer is wanted",
                    "spans malformed",
                )
            for token, (start, end) in enumerate(places.spans):
                if start < span[1] and end > span[0] and end > start:
                    flags[token] = 1.0
        sides.append(flags)
    return sides[0], sides[1]


def from_rows(
    samples: Sequence[Sample], policy: Policy, dropped: Dropped, max_prompt_tokens: int | None, max_tokens: int | None
) -> list[EncodedPair]:
    """The usable pairs of rows, numbered; the others are counted. Raises ValueError if there is none."""
    found: list[EncodedPair] = []
    last = ""
    for index in range(len(samples)):
        try:
            found.append(encode_pair(samples[index], policy, max_prompt_tokens, max_tokens))
        except ValueError as error:
            last = str(error)
            dropped.add(reason_of(error), name_at(samples, index))
    if not found:
        raise ValueError(f"none of the {len(samples)} rows is a usable pair; the last refusal: {last}")
    return numbered(found)


def numbered(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The same pairs with their places as numbers."""
    return [EncodedPair(p.sample, p.chosen, p.rejected, i, p.given) for i, p in enumerate(pairs)]


def as_rollouts(pairs: Sequence[EncodedPair], pad: int | None) -> Rollouts:
    """Rows 2i and 2i+1 are the chosen and the rejected answer of pair i, which is their prompt's number."""
    answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    width = max(len(answer) for answer in answers)
    tokens = torch.full((len(answers), width), pad or 0, dtype=torch.int64)
    mask = torch.zeros(len(answers), width, dtype=torch.bool)
    for row, answer in enumerate(answers):
        tokens[row, : len(answer)] = torch.tensor(answer)
        mask[row, : len(answer)] = True
    return Rollouts(tokens, mask, torch.arange(len(answers)) // 2, torch.zeros(len(answers)))
