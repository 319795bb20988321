"""Numbers of a batch, for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmcredit.credit.groups import center, group_sums
from mmcredit.rollouts import Credit, Rollouts


def batch_metrics(rollouts: Rollouts, texts: Sequence[str], tokenizer: Any) -> dict[str, float]:
    """Rewards, groups, lengths, and whether sampled ids read back as themselves."""
    rewards, lengths = rollouts.rewards, rollouts.lengths.float()
    index, num_groups = rollouts.group_index()
    spread = group_sums(center(rewards, index, num_groups).abs(), index, num_groups)
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "group/zero_signal": float((spread == 0).float().mean()),
        "response/length_mean": float(lengths.mean()),
        "response/length_max": float(lengths.max()),
        "response/truncated": float(rollouts.truncated.float().mean()),
        "response/empty": sum(not text.strip() for text in texts) / len(texts),
        "tokenisation/drift": tokenisation_drift(rollouts, tokenizer),
    }
    for name, values in rollouts.reward_parts.items():
        finite = values[torch.isfinite(values)]
        metrics[f"reward/part/{name}"] = float(finite.mean()) if len(finite) else 0.0
    for name in ("entropy", "blind_logprobs"):
        if name in rollouts.signals:
            metrics[f"signal/{name}"] = float(rollouts.signals[name][rollouts.mask].mean())
    return metrics


def tokenisation_drift(rollouts: Rollouts, tokenizer: Any) -> float:
    """Share of responses whose text, tokenised again, gives other ids than those sampled.

    Training uses the sampled ids, so this is harmless here; a reward or PRM that tokenises text anew would look at
    other tokens in these responses.
    """
    ids = [row[mask].tolist() for row, mask in zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), strict=True)]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    again = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return sum(a != b for a, b in zip(ids, again, strict=True)) / max(1, len(ids))


def credit_metrics(credit: Credit, rollouts: Rollouts) -> dict[str, float]:
    """How much credit there is, and what each method noted."""
    mask = credit.loss_mask
    count = max(1, int(rollouts.mask.sum()))
    advantages = credit.advantages[mask]
    metrics = {
        "credit/nonzero_fraction": float((credit.advantages != 0).sum()) / count,
        "credit/loss_tokens": float(mask.sum()) / count,
        "credit/advantage_abs_mean": float(advantages.abs().mean()) if len(advantages) else 0.0,
        "credit/advantage_max": float(advantages.max()) if len(advantages) else 0.0,
        "credit/advantage_min": float(advantages.min()) if len(advantages) else 0.0,
    }
    for trace in credit.trace:
        metrics |= {f"credit/{trace.name}/{name}": value for name, value in trace.notes.items()}
    return metrics
