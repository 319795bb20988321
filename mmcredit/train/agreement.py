"""Whether every rank holds the same batch before it is trained on: silent differences become one error of all ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts
    from mmcredit.world import World

# Of the credit of a batch, relative to its size. Atomic additions on a GPU come in another order on every rank.
TOLERANCE = 1e-3


def check_prompts(world: World, what: str, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> None:
    """Raise RuntimeError unless all ranks are about to ask the same questions, pictures included."""
    if world.size > 1:
        pairs = zip(samples, prompts, strict=True)
        world.agree(what, [f"{s.name} {_digest(p.tokens)} {_text_digest(*p.media_keys)}" for s, p in pairs])


def check_batch(world: World, rollouts: Rollouts, credit: Credit) -> None:
    """Raise RuntimeError unless all ranks have the same responses, rewards, tokens in the loss, and credit."""
    if world.size == 1:
        return
    rows = zip(rollouts.tokens.cpu(), rollouts.mask.cpu(), rollouts.group.tolist(), strict=True)
    world.agree("responses", [f"{i} {group} {_digest(ids, mask)}" for i, (ids, mask, group) in enumerate(rows)])
    world.agree("rewards", [f"of response {i}: {value!r}" for i, value in enumerate(rollouts.rewards.tolist())])
    advantages = credit.advantages.double() * credit.loss_mask
    place = torch.linspace(1, 2, advantages.shape[1], device=advantages.device, dtype=advantages.dtype)
    first, *others = world.gather(torch.stack([(advantages * place).sum(1), advantages.abs().sum(1)]).tolist())
    for rank, found in enumerate(others, 1):
        for row, (mine, theirs, size) in enumerate(zip(first[0], found[0], first[1], strict=True)):
            if not abs(mine - theirs) <= TOLERANCE * max(1.0, size) and not (mine != mine and theirs != theirs):
                raise RuntimeError(
                    f"ranks 0 and {rank} give response {row} different credit ({mine:.6g} against {theirs:.6g}, summed "
                    "with a weight by place), but all ranks of a run work on one batch: look for a credit method or a "
                    "signal that depends on the process"
                )


def _digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _text_digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
