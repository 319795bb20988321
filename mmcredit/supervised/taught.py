"""What is taught: a prompt and the tokens that shall follow it; and the loss of a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mmcredit.data.dropped import UnusableSample
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.rollout.reaction import Reply, Said
from mmcredit.rollouts import Inserted, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.reaction import Reaction


@dataclass(frozen=True)
class Taught:
    """An example as the model reads it: a prompt, and the ids to be written after it.

    `taught` says which of the ids enter the loss (None: all); the others are read only, as tokens that a tool or a
    retrieval inserted; `inserted` says where those stand and brings their media.
    """

    prompt: Prompt
    tokens: tuple[int, ...]
    taught: tuple[bool, ...] | None = None
    inserted: tuple[Inserted, ...] = ()

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError(f"sample {self.prompt.sample_id}: there is nothing to teach, the target has no tokens")
        if self.taught is not None and not any(self.taught):
            raise ValueError(f"sample {self.prompt.sample_id}: none of the target's tokens is taught")
        if self.taught is not None and len(self.taught) != len(self.tokens):
            raise ValueError(
                f"sample {self.prompt.sample_id}: {len(self.tokens)} tokens, but `taught` says {len(self.taught)}"
            )

    @property
    def mask(self) -> tuple[bool, ...]:
        """[R] which ids enter the loss."""
        return (True,) * len(self.tokens) if self.taught is None else self.taught


def target_ids(text: str, policy: Policy, name: str, *, end: bool = True) -> tuple[int, ...]:
    """The ids of a target text, closed by the token that ends a turn.

    The text is tokenised by itself: prompt ids are those that sampling starts from, whatever follows. Raises
    `UnusableSample` for a blank text, and for one that spells a token which only templates may write.
    """
    if not text.strip():
        raise UnusableSample(f"sample {name}: the target is empty; give a text or leave the row out", "target empty")
    for token in policy.encoder.reserved:
        if token in text:
            raise UnusableSample(
                f"sample {name}: the target contains the reserved token {token!r}; remove it from the data",
                "reserved token in the target",
            )
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    return (*ids, end_of_turn(policy)) if end else tuple(ids)


def end_of_turn(policy: Policy) -> int:
    """The end token of what is taught: that of the chat template's assistant turns, else the tokenizer's own.

    Raises ValueError for a model that knows no end."""
    ends = policy.eos_token_ids
    if not ends:
        raise ValueError(f"{policy.config.path} has no end-of-sequence token, so that nothing taught could end")
    if len(ends) == 1:
        return ends[0]
    known = policy.encoder.render.turn_end(ends)
    if known is not None:
        return known
    own = policy.tokenizer.eos_token_id
    return int(own) if own in ends else ends[0]


def teach(
    sample: Sample,
    target: str,
    policy: Policy,
    *,
    max_prompt_tokens: int | None = None,
    max_tokens: int | None = None,
    reaction: Reaction | None = None,
) -> Taught:
    """The example of a sample and its target text; `reaction` inserts into it what it would insert into a response.

    Raises ValueError as `Policy.encode` for the prompt, and `UnusableSample` for a target that is empty or, with the
    prompt and what is inserted, longer than `max_tokens`: nothing is ever cut off; and for one that says a token of
    `reaction.stops` behind which nothing is inserted.
    """
    ids = target_ids(target, policy, sample.name)
    prompt = policy.encode(sample, max_prompt_tokens)
    taught: tuple[bool, ...] | None = None
    inserted: tuple[Inserted, ...] = ()
    if reaction is not None:
        ids, taught, inserted = _answered(ids, prompt, reaction, sample.name)
    if max_tokens is not None and len(prompt) + len(ids) > max_tokens:
        raise UnusableSample(
            f"sample {sample.name}: prompt ({len(prompt)}) and target ({len(ids)}) have more than data.max_tokens="
            f"{max_tokens} tokens; raise it or drop the sample",
            "too long",
        )
    return Taught(prompt, ids, taught, inserted)


def _answered(
    ids: tuple[int, ...], prompt: Prompt, reaction: Reaction, name: str
) -> tuple[tuple[int, ...], tuple[bool, ...] | None, tuple[Inserted, ...]]:
    """The ids of a target with what the reaction inserts, which of them are taught (None: all), what is inserted."""
    tokens: list[int] = []
    taught: list[bool] = []
    inserted: list[Inserted] = []
    room = reaction.room
    for place, token in enumerate(ids):
        tokens.append(token)
        taught.append(True)
        if token not in reaction.stops:
            continue
        said = reaction(Said(prompt, 0, 0, tuple(tokens), tuple(inserted), room, max(1, len(ids) - place - 1)))
        reply = said if isinstance(said, Reply) else said.result()
        if reply.piece is None:
            raise UnusableSample(
                f"sample {name}: nothing can be inserted behind token {len(tokens)} of the target (a call that is "
                "malformed, empty, over the budget, unreadable or one too many); mend the row or leave it out",
                "call not answered",
            )
        inserted.append(Inserted(len(tokens), reply.piece))
        tokens += reply.piece.tokens.tolist()
        taught += [False] * len(reply.piece)
        room -= len(reply.piece)
    return tuple(tokens), tuple(taught) if inserted else None, tuple(inserted)


def turns(sample: Sample, target: str, every: bool) -> list[tuple[Sample, str]]:
    """The examples in a conversation: the last answer, or with `every` one per assistant turn, each after what was said
    before it."""
    found: list[tuple[Sample, str]] = []
    if every:
        seen = 0
        for number, message in enumerate(sample.messages):
            content = message["content"]
            parts = [] if isinstance(content, str) else content
            if message["role"] == "assistant" and number:
                text = content if isinstance(content, str) else "".join(p.get("text", "") for p in parts)
                before = replace(
                    sample, id=f"{sample.id}#{number}", messages=sample.messages[:number], media=sample.media[:seen]
                )
                found.append((before, text))
            seen += sum(part["type"] in ("image", "video") for part in parts)
    return [*found, (sample, target)]


def as_rollouts(batch: Sequence[Taught], pad: int | None) -> Rollouts:
    """The targets as responses, each to a prompt of its own: row i belongs to prompt i."""
    width = max(len(each.tokens) for each in batch)
    tokens = torch.full((len(batch), width), pad or 0, dtype=torch.int64)
    mask = torch.zeros(len(batch), width, dtype=torch.bool)
    valid = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, each in enumerate(batch):
        tokens[row, : len(each.tokens)] = torch.tensor(each.tokens)
        mask[row, : len(each.tokens)] = torch.tensor(each.mask)
        valid[row, : len(each.tokens)] = True
    inserted = tuple(each.inserted for each in batch) if any(each.inserted for each in batch) else None
    return Rollouts(tokens, mask, torch.arange(len(batch)), torch.zeros(len(batch)), valid=valid, inserted=inserted)


def negative_log_likelihood(logprobs: Tensor, weights: Tensor) -> Tensor:
    """-sum(weights * logprobs), both [B,T]; weights are 0 where a token is not taught, and add up to 1 over a batch."""
    return -(torch.where(weights != 0, logprobs, torch.zeros_like(logprobs)) * weights).sum()


def token_weights(keep: Tensor, average: str) -> Tensor:
    """[B,T] weights that make the loss a mean over all kept tokens of a batch ("tokens") or over samples of their means
    ("samples"). keep [B,T] bool. A row without a kept token weighs nothing."""
    kept = keep.to(torch.float32)
    if average == "tokens":
        return kept / kept.sum().clamp(min=1.0)
    rows = kept.sum(1, keepdim=True)
    return kept / rows.clamp(min=1.0) / (rows > 0).sum().clamp(min=1)


@torch.no_grad()
def losses(batch: Sequence[Taught], policy: Policy) -> tuple[Tensor, Tensor]:
    """Per example: the sum of -log p over its taught tokens [B] (nats), and how many there are [B]."""
    rollouts = as_rollouts(batch, policy.tokenizer.pad_token_id)
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    found = policy.score([each.prompt for each in batch], rollouts, wanted, temperature=1.0)[CLEAN]["logprobs"]
    return -(found * rollouts.mask).sum(1), rollouts.mask.sum(1)
