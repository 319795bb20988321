"""Policy gradients of several credits, per prompt, in sketches that keep angles.

A count sketch (Charikar et al. 2002) adds every parameter with a fixed random sign into one of `WIDTH` places: a linear
map, under which inner products keep their expectation, with a relative error of about 1/sqrt(WIDTH). So a prompt's
gradient takes 16 KiB, gradients of prompts can be summed later in any combination, and a bootstrap over prompts or a
variance over groups needs no further pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmcredit.policy.passes import CLEAN, Pass

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts

    Floats = NDArray[np.float64]

WIDTH = 4096


class Sketch:
    """The linear map of a policy's trained parameters to [WIDTH]."""

    def __init__(self, policy: Policy, seed: int = 0, width: int = WIDTH) -> None:
        self.parameters = list(policy.trainable_parameters().values())
        if not self.parameters:
            raise ValueError("the model has no trained parameter; check model.lora and model.freeze_vision")
        generator = torch.Generator().manual_seed(seed)
        size = sum(p.numel() for p in self.parameters)
        device = self.parameters[0].device
        self.width = width
        self.place = torch.randint(width, (size,), generator=generator).to(device)
        self.sign = (torch.randint(2, (size,), generator=generator) * 2 - 1).float().to(device)

    def __call__(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """[WIDTH] f32 of one gradient, None standing for zeros."""
        flat = torch.cat(
            [
                torch.zeros_like(p, dtype=torch.float32).flatten() if g is None else g.detach().float().flatten()
                for g, p in zip(gradients, self.parameters, strict=True)
            ]
        )
        return torch.zeros(self.width, device=flat.device).index_add_(0, self.place, self.sign * flat)


def prompt_gradients(
    policy: Policy,
    prompts: Sequence[Prompt],
    rollouts: Rollouts,
    credits: Mapping[str, tuple[Credit, Objective]],
    sketch: Sketch,
    *,
    temperature: float,
    progress: float = 0.0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """label -> [P,WIDTH]: each prompt's part of the gradient of the whole batch as one on-policy mini-batch.

    One forward per prompt; a credit without gradient there costs nothing. The parts sum to the batch's gradient.
    """
    weights = {label: objective.weights(rollouts, credit) for label, (credit, objective) in credits.items()}
    rollouts = rollouts.replace(old_logprobs=None)  # on-policy: the ratio is 1 and carries the gradient
    groups = rollouts.group.tolist()
    numbers = list(dict.fromkeys(groups))
    out = {label: torch.zeros(len(prompts), sketch.width) for label in credits}
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    for number in numbers:
        rows = torch.tensor([i for i, g in enumerate(groups) if g == number], device=rollouts.tokens.device)
        live = {
            label: found
            for label, found in credits.items()
            if bool(((weights[label][rows] != 0) & (found[0].advantages[rows] != 0)).any())
        }
        if live:
            logprobs = policy.forward(prompts, rollouts, rows.tolist(), wanted, temperature=temperature)
            scores, part = logprobs[CLEAN]["logprobs"], rollouts.select(rows)
            for place, (label, (credit, objective)) in enumerate(live.items()):
                result = objective(scores, part, credit.select(rows), {}, weights[label][rows], progress)
                keep = place + 1 < len(live)
                found = torch.autograd.grad(result.loss, sketch.parameters, retain_graph=keep, allow_unused=True)
                out[label][number] = sketch(found).cpu()
        if advance is not None:
            advance(1)
    return out


def all_and_without_each(parts: Floats) -> Floats:
    """[1 + P,W]: the sum of `parts` [P,W], then the sums without each of them, for the jackknife."""
    whole = parts.sum(0, keepdims=True)
    return np.concatenate([whole, whole - parts])


def cosines(parts: Floats, halves: tuple[Floats, Floats]) -> Floats:
    """Cosine of a credit's gradient to that of the truth, [1 + P]: of all prompts, then without each of them.

    `parts` [P,W], `halves` two [P,W] from independent halves of the truth. The truth's length is taken from the product
    of the halves, so that noise in the truth does not lower the cosine: (g.h0 + g.h1)/2 / (|g| sqrt(h0.h1)). NaN where
    a length is not defined.
    """
    g, h0, h1 = (all_and_without_each(x.astype(np.float64)) for x in (parts, *halves))
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt((g * g).sum(1)) * np.sqrt((h0 * h1).sum(1))
        return np.where(size > 0, ((g * h0).sum(1) + (g * h1).sum(1)) / 2 / size, np.nan)


def noise(groups: Floats) -> float | None:
    """Noise of the batch gradient over resampled groups of the same prompts, in units of its mean's length.

    `groups` [M,P,W]: M independent groups per prompt. sqrt(trace of the covariance / |mean|^2); the mean's squared
    length is that of products of different groups, which carry no noise. A step of n times as many prompts has
    1/sqrt(n) of it. None for one group, or where the mean cannot be told from 0.
    """
    count = len(groups)
    if count < 2:
        return None
    spread = float(((groups - groups.mean(0)) ** 2).sum() / (count - 1))
    whole = groups.sum(1)
    gram = whole @ whole.T
    apart = float((gram.sum() - np.trace(gram)) / (count * (count - 1)))
    return (spread / apart) ** 0.5 if apart > 0 else None
