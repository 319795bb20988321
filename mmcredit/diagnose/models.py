"""Two checkpoints that read the same tokens, and questions for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.data.dropped import Dropped, reason_of
from mmcredit.data.sample import name_at
from mmcredit.policy.load import resolve_path
from mmcredit.policy.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt


def load_frozen(run: RunConfig, path: str) -> Policy:
    """A checkpoint for looking at: no adapters, a frozen vision tower. Raises ValueError as `Policy.load`."""
    settings = {"path": path, "lora": None, "freeze_vision": True, "gradient_checkpointing": False}
    return Policy.load(run.model.model_copy(update=settings), media_limits=run.data.media)


def load_tokenizer(path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model path. Raises ValueError if it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_path(path), trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(f"model {path!r} has no tokenizer that can be read: {error}") from error


def check_pair(first: Policy, second: Policy) -> None:
    """Make two policies comparable, or refuse: the same ids must mean the same text and the same placeholders.

    Output layers that are padded to different widths are cut to the common ids. Raises ValueError for tokenizers or
    placeholders that differ.
    """
    names = [p.config.path for p in (first, second)]
    ours, theirs = first.tokenizer.get_vocab(), second.tokenizer.get_vocab()
    if ours != theirs:
        differing = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
        raise ValueError(
            f"{names[0]} and {names[1]} have different tokenizers ({len(ours)} and {len(theirs)} tokens; "
            f"{differing[0]!r} is {ours.get(differing[0])} and {theirs.get(differing[0])}); only checkpoints of one "
            "tokenizer can be compared"
        )
    if first.body.kinds != second.body.kinds:
        raise ValueError(
            f"{names[0]} and {names[1]} have different media placeholders: {first.body.kinds} and {second.body.kinds}"
        )
    common = min(first.body.vocabulary, second.body.vocabulary)
    for policy in (first, second):
        if policy.body.vocabulary > common:
            policy.body.head = NarrowHead(policy.body.head, common)
            policy.body.vocabulary = common


@dataclass(frozen=True)
class NarrowHead:
    """An output layer without its last rows."""

    head: Any
    width: int

    def __call__(self, states: Tensor) -> Tensor:
        """[..,d] -> [..,width]."""
        return self.head(states)[..., : self.width]


def questions(run: RunConfig, policy: Policy, limit: int | None) -> tuple[list[Sample], list[Prompt], Dropped]:
    """The first `limit` held-out questions (training prompts where `data.evaluate` is not set), encoded, and what could
    not be used. Raises ValueError if none is left."""
    from mmcredit.prepare import held_out_samples, load_samples

    samples: Sequence[Sample] = held_out_samples(run) or load_samples(run, run.data.train)
    count = len(samples) if limit is None else min(limit, len(samples))
    usable: list[Sample] = []
    prompts: list[Prompt] = []
    dropped = Dropped()
    for i in range(count):
        name = name_at(samples, i)
        try:
            sample = samples[i]
            name = sample.name
            prompts.append(policy.encode(sample, run.data.max_prompt_tokens))
            usable.append(sample)
        except ValueError as error:
            dropped.add(reason_of(error), name)
    if not usable:
        raise ValueError(f"none of the {count} questions is usable: {dropped}")
    return usable, prompts, dropped
