"""Two checkpoints that read the same tokens, and questions for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.data.chosen import Chosen
from mmcredit.evaluate import usable
from mmcredit.policy.adapters import chain
from mmcredit.policy.load import resolve_path
from mmcredit.policy.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mmcredit.config import RunConfig
    from mmcredit.data.dropped import Dropped
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt


def load_frozen(run: RunConfig, path: str) -> Policy:
    """A checkpoint for looking at: adapters merged, a frozen vision tower. Raises ValueError as `Policy.load`."""
    model = run.model.at(path, lora=None, freeze_vision=True, gradient_checkpointing=False)
    return Policy.load(model, media_limits=run.data.media)


def load_tokenizer(path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model path. Raises ValueError if it cannot be read."""
    from transformers import AutoTokenizer

    try:
        folder = resolve_path(path)
        if not (Path(folder) / "tokenizer_config.json").is_file():  # an adapter that lies alone
            folder, _ = chain(folder, resolve_path, None)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
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
    not be used. Raises ValueError if none is left, or too many held-out ones are not usable."""
    from mmcredit.prepare import held_out_samples, load_samples

    held_out = held_out_samples(run)
    samples: Sequence[Sample] = held_out or load_samples(run, run.data.train)
    count = len(samples) if limit is None else min(limit, len(samples))
    found = usable.read(
        Chosen(samples, range(count)),
        lambda sample: policy.encode(sample, run.data.max_prompt_tokens),
        run.check.max_unusable_held_out if held_out else None,
    )
    return found.samples, found.prompts, found.dropped
