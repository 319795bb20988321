"""A sampled batch on its way through the rollout stage, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmcredit.rollouts import SIGNALS_BY_VIEW, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.reaction import Reaction


# Signals [B,S] with an axis of their own, padded to the longest where batches meet; what an empty place holds.
SLOTTED = frozenset({"boundary_index", "boundary_value", "step_accuracy", "step_confidence", "step_votes"})
FILL = {
    "boundary_index": -2,
    "step_id": -1,
    "step_accuracy": math.nan,
    "step_confidence": math.nan,
    "step_votes": math.nan,
}


@dataclass(frozen=True)
class Ask:
    """A wish for responses: one per seed, to one prompt.

    `shown` is what the sampler sees instead of `prompt` (a noised image); the responses are scored and trained on
    `prompt`. `prefix` are ids that every response goes on from: valid in the batch, but without credit. `reaction`
    may insert tokens and media into them.
    """

    sample: Sample
    prompt: Prompt
    seeds: tuple[int, ...]
    shown: Prompt | None = None
    prefix: tuple[int, ...] = ()
    reaction: Reaction | None = None


@dataclass
class Batch:
    """Responses with their rewards. `rollouts.group` indexes `prompts` and `samples`; `texts` go along with rows."""

    samples: list[Sample]
    prompts: list[Prompt]
    rollouts: Rollouts
    texts: list[str]

    def __len__(self) -> int:
        return len(self.rollouts)

    def select(self, rows: Tensor | Sequence[int]) -> Batch:
        """The responses `rows`, in that order; prompts that no response is left for go."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        kept = self.rollouts.select(rows)
        used = sorted(set(kept.group.tolist()))
        place = torch.zeros(max(1, len(self.prompts)), dtype=torch.int64)
        place[used] = torch.arange(len(used))
        samples = [self.samples[i] for i in used]
        # Samples before groups: a row's new number must be valid while it is checked.
        kept = kept.replace(group=place.to(kept.group.device)[kept.group], samples=tuple(samples))
        texts = [self.texts[i] for i in rows.tolist()]
        return Batch(samples, [self.prompts[i] for i in used], kept, texts)

    def replace_rollouts(self, rollouts: Rollouts) -> Batch:
        """The same rows with other tensors."""
        return replace(self, rollouts=rollouts)


def join(batches: Sequence[Batch], pad_token_id: int) -> Batch:
    """All responses of several batches, in order; each batch keeps groups of its own, unless prompts are the same.

    A prompt that stands in two batches (the same object) is one prompt afterwards, and its responses one group. Rows
    are padded to the longest, signals with an axis of their own (`SLOTTED`) to theirs. Optional fields (log-probs,
    segments) and signals must be there in all batches or in none. Raises ValueError for a field that only some have.
    """
    if not batches:
        raise ValueError("nothing to join: no batch was sampled")
    if len(batches) == 1:
        return batches[0]
    place: dict[int, int] = {}
    prompts: list[Prompt] = []
    samples: list[Sample] = []
    groups: list[Tensor] = []
    for batch in batches:
        numbers = []
        for sample, prompt in zip(batch.samples, batch.prompts, strict=True):
            if id(prompt) not in place:
                place[id(prompt)] = len(prompts)
                prompts.append(prompt)
                samples.append(sample)
            numbers.append(place[id(prompt)])
        group = batch.rollouts.group
        groups.append(torch.tensor(numbers, dtype=torch.int64, device=group.device)[group])
    parts = [batch.rollouts for batch in batches]
    width = max(part.tokens.shape[1] for part in parts)

    def rows(
        name: str, values: Sequence[Tensor | None], fill: float, axis: int = 0, slots: bool = False
    ) -> Tensor | None:
        there = [v for v in values if v is not None]
        if not there:
            return None
        if len(there) < len(values):
            raise ValueError(
                f"{name} is known for {len(there)} of {len(values)} joined batches; give it to all or none"
            )
        widest = max(v.shape[-1] for v in there) if slots else width
        widened = [
            torch.nn.functional.pad(v, (0, widest - v.shape[-1]), value=fill)
            if slots or (v.ndim == 2 + axis and v.shape[-1] == part.tokens.shape[1])
            else v
            for v, part in zip(there, parts, strict=True)
        ]
        return torch.cat(widened, axis)

    def named(field: str) -> dict[str, Tensor]:
        names = {name for part in parts for name in getattr(part, field)}
        found = {}
        for name in sorted(names):
            axis = 1 if name in SIGNALS_BY_VIEW else 0
            values = [getattr(part, field).get(name) for part in parts]
            value = rows(f"{field}[{name!r}]", values, FILL.get(name, 0.0), axis, name in SLOTTED)
            assert value is not None
            found[name] = value
        return found

    rollouts = Rollouts(
        tokens=rows("tokens", [p.tokens for p in parts], pad_token_id),  # type: ignore[arg-type]
        mask=rows("mask", [p.mask for p in parts], False),  # type: ignore[arg-type]
        valid=rows("valid", [p.valid for p in parts], False),  # type: ignore[arg-type]
        group=torch.cat(groups),
        rewards=torch.cat([p.rewards for p in parts]),
        reward_parts=named("reward_parts"),
        truncated=torch.cat([p.truncated for p in parts]),
        sampler_logprobs=rows("sampler_logprobs", [p.sampler_logprobs for p in parts], 0.0),
        old_logprobs=rows("old_logprobs", [p.old_logprobs for p in parts], 0.0),
        segments=rows("segments", [p.segments for p in parts], 0),
        signals=named("signals"),
        samples=tuple(samples),
        inserted=None
        if all(p.inserted is None for p in parts)
        else tuple(own for p in parts for own in (p.inserted or ((),) * len(p))),
    )
    return Batch(samples, prompts, rollouts, [text for batch in batches for text in batch.texts])
