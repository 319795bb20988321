"""`mmcredit check`: read samples through the real processor before a run, and say what would go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcredit.data.dropped import Dropped, reason_of

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy


@dataclass
class Preflight:
    """What a look at the data and the model found."""

    total: int  # samples in the source
    read: int  # samples looked at
    lengths: list[int] = field(default_factory=list)  # prompt tokens of usable samples
    visual: list[int] = field(default_factory=list)  # visual tokens among them
    without_media: int = 0
    without_answer: int = 0
    dropped: Dropped = field(default_factory=Dropped)
    messages: list[str] = field(default_factory=list)  # the first refusals, in full
    memory: dict[str, float] = field(default_factory=dict)  # MiB by what it is for
    disk_free_mb: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a run can start: something is usable."""
        return bool(self.lengths)


def look(
    config: RunConfig,
    policy: Policy,
    samples: Sequence[Sample],
    limit: int,
    progress: Callable[[int], None] | None = None,
) -> Preflight:
    """Encode up to `limit` samples (spread evenly over the source) and estimate the memory of a run."""
    count = min(limit, len(samples))
    picked = [i * len(samples) // count for i in range(count)]
    found = Preflight(total=len(samples), read=count)
    for index in picked:
        name = f"number {index}"
        try:
            sample = samples[index]
            name = sample.id
            prompt = policy.encode(sample, config.data.max_prompt_tokens)
            found.lengths.append(len(prompt))
            found.visual.append(int(prompt.visual.sum()))
            found.without_media += not sample.media
            found.without_answer += sample.answer is None
        except ValueError as error:
            found.dropped.add(reason_of(error), name)
            if len(found.messages) < 10:
                found.messages.append(str(error))
        if progress is not None:
            progress(1)
    if found.lengths:
        found.memory = memory_estimate(config, policy, max(found.lengths))
    folder = Path(config.run.dir)
    while not folder.exists():
        folder = folder.parent
    found.disk_free_mb = shutil.disk_usage(folder).free / 2**20
    found.warnings = _warnings(config, found)
    if left_out := getattr(samples, "dropped", None):
        found.warnings.append(f"left out while reading the source: {left_out}")
    return found


def memory_estimate(config: RunConfig, policy: Policy, longest: int) -> dict[str, float]:
    """MiB a run needs, by purpose. Activations are the usual 34 values per token, layer and width (arXiv 2205.05198).

    The vocabulary enters only through one chunk of the score loop, never as [B,T,V].
    """
    trainable = sum(p.numel() for p in policy.trainable_parameters().values())
    size = 4 if config.model.dtype == "float32" else 2
    weights = sum(p.numel() for p in policy.model.parameters()) * size
    text = policy.body.config
    width, layers = text.hidden_size, text.num_hidden_layers
    new_tokens = config.rollout.sampling.max_new_tokens
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    head_dim = getattr(text, "head_dim", None) or width // text.num_attention_heads
    rows = config.rollout.prompts * config.rollout.group
    cached = config.rollout.prompts * longest + rows * new_tokens
    tokens = max(config.train.token_budget, longest + new_tokens)
    per_token = 34 * width * layers * size if not config.model.gradient_checkpointing else 2 * width * layers * size
    masters = trainable * 4 if size == 2 else 0
    amounts = {
        "weights": weights,
        "gradients": trainable * size,
        "optimizer": trainable * 8 + masters,
        "activations of a micro-batch": tokens * per_token,
        "keys and values while sampling": cached * 2 * layers * heads * head_dim * size,
        "one chunk of the vocabulary": min(256 * 2**20, tokens * text.vocab_size * 4) * 3,
    }
    amounts["total"] = sum(amounts.values())
    return {name: value / 2**20 for name, value in amounts.items()}


def _warnings(config: RunConfig, found: Preflight) -> list[str]:
    warnings = []
    if not found.lengths:
        warnings.append("no sample is usable; nothing can be trained")
        return warnings
    if found.dropped.total:
        share = found.dropped.total / found.read
        warnings.append(f"{share:.1%} of the samples will be dropped")
    if found.without_media and found.without_media < len(found.lengths):
        warnings.append(f"{found.without_media} of {len(found.lengths)} samples have no image")
    if found.without_answer:
        warnings.append(f"{found.without_answer} samples have no reference answer; answer rewards will be 0 for them")
    longest = max(found.lengths) + config.rollout.sampling.max_new_tokens
    if longest > config.train.token_budget:
        warnings.append(
            f"prompt and response can reach {longest} tokens, over train.token_budget {config.train.token_budget}: "
            "such a response makes a micro-batch of its own"
        )
    return warnings
