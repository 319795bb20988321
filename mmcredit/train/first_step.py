"""The passes before an update; at the first step also the checks that stop a run which cannot learn what it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.passes import BLIND, CLEAN, Pass
from mmcredit.train import checks

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.config import RunConfig
    from mmcredit.rollout.batch import Batch
    from mmcredit.rollouts import Rollouts
    from mmcredit.train.setup import Parts

Event = Callable[..., None]


def score(parts: Parts, config: RunConfig, batch: Batch, first: bool, event: Event) -> tuple[Rollouts, Tensor | None]:
    """The batch with signals and old log-probs, and the clean log-probs [B,T] if a pass gave them.

    At the `first` step sampler and trainer are compared, and the image is hidden once. Raises RuntimeError naming the
    setting to look at.
    """
    plan = parts.first_plan if first else parts.plan
    made = plan.of_tokens(batch.rollouts, parts.policy.tokenizer)
    if not plan.passes:
        return batch.rollouts.with_signals(made), None
    passes = list(plan.passes)
    inserted = batch.rollouts.inserted or ((),) * len(batch)
    has_media = torch.tensor(
        [
            any(bool(p.visual.any()) for p in (batch.prompts[g], *(one.piece for one in own)))
            for g, own in zip(batch.rollouts.group.tolist(), inserted, strict=True)
        ]
    )
    has_media = has_media.to(parts.policy.device)
    probe = first and config.check.image_probe and bool(has_media.any())
    if probe:
        passes.append(Pass(BLIND, frozenset({"logprobs"})))
    temperature = config.rollout.sampling.temperature
    results = parts.policy.score(batch.prompts, batch.rollouts, passes, temperature=temperature)
    clean = results[CLEAN].get("logprobs") if CLEAN in results else None
    rollouts = batch.rollouts.with_signals(made | plan.read(results))
    if plan.old_logprobs and clean is not None:
        known = batch.rollouts.old_logprobs  # of replayed responses: those of the policy that sampled them
        old = clean if known is None else torch.where(torch.isfinite(known), known, clean)
        rollouts = rollouts.replace(old_logprobs=old)
    if first and clean is not None:
        blind = results[BLIND]["logprobs"] if probe else None
        _check(config, rollouts, clean, blind, has_media, event)
    return rollouts, clean


def _check(
    config: RunConfig, rollouts: Rollouts, clean: Tensor, blind: Tensor | None, has_media: Tensor, event: Event
) -> None:
    """The parity gate and the image probe. `has_media` [B] bool."""
    if not bool(rollouts.mask.any()):
        event("no token of the first step bears credit: sampler and trainer were not compared", "alarm", "warning")
        return
    found = checks.mismatch(rollouts, clean)
    if found is not None and config.check.parity:
        event(f"parity: KL(sampler || trainer) {found.kl:.3g} nats per token, largest {found.largest:.3g}")
        checks.parity_gate(found, config.check)
    if blind is not None and bool((rollouts.mask & has_media[:, None]).any()):
        moved = checks.image_sensitivity(clean, blind, has_media, rollouts.mask)
        event(f"image probe: hiding the image moves a log-prob by {moved:.3g} nats on average")
        checks.image_gate(moved, config.check)
