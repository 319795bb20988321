"""Numbers of a batch, for the log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.credit.groups import center, group_sums
from mmcredit.policy.tokenisation import TokenisationCheck, summarise
from mmcredit.rollouts import Credit, Rollouts
from mmcredit.statistics import token_streams
from mmcredit.train import checks

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.prompt import Prompt


def batch_metrics(
    rollouts: Rollouts, texts: Sequence[str], tokenizer: Any, prompts: Sequence[Prompt] | None = None
) -> dict[str, float]:
    """Rewards, groups, lengths, and whether sampled ids read back as themselves."""
    # A response that a strategy keeps out of the loss was sampled all the same.
    lengths = torch.where(rollouts.mask.any(1), rollouts.lengths, rollouts.valid.sum(1)).float()
    rewards = rollouts.rewards
    index, num_groups = rollouts.group_index()
    spread = group_sums(center(rewards, index, num_groups).abs(), index, num_groups)
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std(correction=0)),
        "group/zero_signal": float((spread == 0).float().mean()),
        "response/length_mean": float(lengths.mean()),
        "response/length_max": float(lengths.max()),
        "response/count": float(len(rollouts)),
        "response/tokens": float(lengths.sum()),
        "response/truncated": float(rollouts.truncated.float().mean()),
        "response/empty": sum(not text.strip() for text in texts) / len(texts),
    }
    metrics |= tokenisation_metrics(rollouts, tokenizer, prompts)
    metrics |= stream_metrics(rollouts, prompts)
    if prompts is not None and any(prompt.visual_share < 1 for prompt in prompts):
        metrics["prompt/visual_share"] = sum(prompt.visual_share for prompt in prompts) / len(prompts)
    for name, values in rollouts.reward_parts.items():
        finite = values[torch.isfinite(values)]
        metrics[f"reward/part/{name}"] = float(finite.mean()) if len(finite) else 0.0
    for name in ("entropy", "blind_logprobs"):
        if name in rollouts.signals and bool(rollouts.mask.any()):
            metrics[f"signal/{name}"] = float(rollouts.signals[name][rollouts.mask].mean())
    return metrics


def stream_metrics(rollouts: Rollouts, prompts: Sequence[Prompt] | None) -> dict[str, float]:
    """Entropy of the sampled ids, and their Jensen-Shannon divergence from those of the prompts, in bits."""
    sampled = [tokens[mask].tolist() for tokens, mask in zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), strict=True)]
    metrics = {"tokens/unigram_entropy": token_streams.unigram_entropy(sampled)}
    if prompts is not None:
        asked = [prompt.tokens[~prompt.visual].tolist() for prompt in prompts]
        metrics["tokens/drift"] = token_streams.jensen_shannon(asked, sampled)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def sampled_stretches(rollouts: Rollouts) -> tuple[list[list[int]], list[int]]:
    """The ids between what was inserted (a response is one stretch unless something was), and the row of each stretch
    that follows the prompt directly, -1 for the others. A response without tokens has none."""
    stretches: list[list[int]] = []
    rows: list[int] = []
    for row, (tokens, mask) in enumerate(zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), strict=True)):
        places = mask.nonzero()[:, 0]
        if not len(places):
            continue
        cuts = (places[1:] - places[:-1] > 1).nonzero()[:, 0] + 1
        for part in torch.tensor_split(places, cuts):
            stretches.append(tokens[part].tolist())
            rows.append(row if int(part[0]) == 0 else -1)
    return stretches, rows


def tokenisation_metrics(
    rollouts: Rollouts, tokenizer: Any, prompts: Sequence[Prompt] | None = None
) -> dict[str, float]:
    """Whether sampled ids read back as themselves (see `TokenisationCheck`); with `prompts`, at the prompt's end too.

    Training uses the sampled ids, so drift is harmless here; a reward or PRM that tokenises text anew would look at
    other tokens in these responses.
    """
    check = TokenisationCheck(tokenizer)
    stretches, rows = sampled_stretches(rollouts)
    boundary: list[bool] = []
    if prompts is not None:
        groups = rollouts.group.tolist()
        first = [(prompts[groups[row]], ids) for row, ids in zip(rows, stretches, strict=True) if row >= 0]
        boundary = check.boundary_drift([p.tokens[-64:].tolist() for p, _ in first], [ids for _, ids in first])
    return summarise(check.readings(stretches), boundary).metrics()


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


def mismatch_metrics(rollouts: Rollouts, clean: Tensor | None, seen: Tensor) -> dict[str, float]:
    """Sampler against trainer, from whichever clean log-probs [B,T] this step has (before its first update)."""
    logprobs = clean if clean is not None else seen
    known = rollouts.mask & torch.isfinite(logprobs)
    if not bool(known.any()):
        return {}
    found = checks.mismatch(rollouts.replace(mask=known), logprobs)
    if found is None:
        return {}
    return {"mismatch/kl": found.kl, "mismatch/max": found.largest, "mismatch/not_finite": float(found.not_finite)}
