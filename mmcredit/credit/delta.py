"""DelTA: tokens that tell good responses from bad ones weigh more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, model_validator

from mmcredit.components import Needs, register
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.tokens import old_logprobs
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 4096  # tokens whose hidden states are in float32 at once: 64 MiB at d = 4096


@register("credit", "delta")
class DelTA(CreditMethod):
    """Discriminative token credit assignment: a token nearer its own side's mean gradient than the other's weighs more.

    v = (1 - p) h, the gradient of log p with respect to the sampled token's row of the LM head: h is the input of the
    head, p the old policy's probability. Side + or - by the sign of A. Centroids mu = sum |A| v / sum |A| of each side;
    margin g = |v - mu_other|^2 - |v - mu_own|^2; scale gamma = sqrt(max(var of g over the side, 1e-8)).
    `iterations` times: alpha = sigmoid(g/gamma); mu = sum alpha |A| v / sum alpha |A|. Then
    lambda = lambda_min + (lambda_max - lambda_min) * sigmoid(g/gamma), gamma still that of the centroids before the
    last; tokens with A = 0 get lambda_min. A <- A * lambda * (number of tokens / sum lambda).

    Source: arXiv 2605.21467 and its released code. Margins are computed in the linear form
    2 v.(mu_own - mu_other) + |mu_other|^2 - |mu_own|^2, so hidden states are read in chunks and never copied whole.
    Differs: centroids are those of the whole batch (released: of each worker). If one side is empty nothing is
    weighed (released: a centroid at 0). `neutral: excluded` leaves tokens with A = 0 out of the normaliser, where the
    release lets them raise the others a little. The stale gamma is the released code's.
    Defaults: one iteration, lambda in [.8, 1.2] (paper). Use with DAPO's objective.
    Passes: none beyond the head input of the clean pass, which is B*T*d numbers.
    """

    iterations: int = Field(1, ge=0, description="refinements of the centroids, the paper's K")
    lambda_min: float = Field(0.8, ge=0, description="weight of the least telling token")
    lambda_max: float = Field(1.2, ge=0, description="weight of the most telling token")
    neutral: Literal["lambda_min", "excluded"] = Field("lambda_min", description="tokens with A = 0 in the normaliser")

    @model_validator(mode="after")
    def _ordered(self) -> DelTA:
        if self.lambda_max < self.lambda_min or self.lambda_max == 0:
            raise ValueError(f"lambda_max must be > 0 and >= lambda_min, got {self.lambda_max} and {self.lambda_min}")
        return self

    def needs(self) -> Needs:
        return Needs(signals=("head_input",), old_logprobs=True)

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Step) -> Credit:
        mask = credit.loss_mask
        hidden = rollouts.signal("head_input")
        if hidden.ndim != 3 or hidden.shape[:2] != mask.shape:
            raise ValueError(f"signal 'head_input' must have shape {[*mask.shape, 'd']}, got {list(hidden.shape)}")
        advantages = torch.where(mask, credit.advantages, torch.zeros_like(credit.advantages)).double()
        where = (advantages != 0).flatten().nonzero()[:, 0]
        size = advantages.flatten()[where]
        positive, size = size > 0, size.abs()
        step.note("positive_tokens", positive.sum())
        step.note("negative_tokens", (~positive).sum())
        if not bool(positive.any()) or bool(positive.all()):
            return credit
        away = -torch.expm1(old_logprobs(rollouts, self.name).flatten()[where].double())  # 1 - p
        tokens = _Tokens(hidden.flatten(0, 1), where, away, positive)
        weights = torch.full_like(advantages, self.lambda_min)
        alpha = tokens.closeness(size, self.iterations)
        weights.view(-1)[where] = self.lambda_min + (self.lambda_max - self.lambda_min) * alpha
        counted = mask if self.neutral == "lambda_min" else advantages != 0
        weights = weights * (counted.sum() / weights[counted].sum())
        step.note("weight_max", weights.view(-1)[where].max())
        step.note("weight_min", weights.view(-1)[where].min())
        return credit.scale(weights.to(credit.advantages.dtype))


class _Tokens:
    """The proxies v of the tokens with an advantage; numbers are float64, hidden states are read in float32 chunks."""

    def __init__(self, hidden: Tensor, where: Tensor, away: Tensor, positive: Tensor) -> None:
        self.hidden, self.where, self.away, self.positive = hidden, where, away, positive

    def _chunks(self) -> list[tuple[slice, Tensor]]:
        return [(slice(i, i + CHUNK), self.where[i : i + CHUNK]) for i in range(0, len(self.where), CHUNK)]

    def _read(self, rows: Tensor) -> Tensor:
        return self.hidden[rows].to(torch.promote_types(self.hidden.dtype, torch.float32))

    def centroids(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """[d], [d]: weighted means of v over the positive and the negative side."""
        sides = torch.stack([weights * self.positive, weights * ~self.positive])
        factors = sides * self.away
        sums = torch.zeros(2, self.hidden.shape[1], dtype=torch.float64, device=self.hidden.device)
        for part, rows in self._chunks():
            states = self._read(rows)
            sums += (factors[:, part].to(states.dtype) @ states).double()
        plus, minus = sums / sides.sum(1, keepdim=True)
        return plus, minus

    def margins(self, plus: Tensor, minus: Tensor) -> Tensor:
        """[N]: how much nearer a token is to its own side's centroid, in squared distance."""
        direction = plus - minus
        states = (self._read(rows) for _, rows in self._chunks())
        dots = torch.cat([s @ direction.to(s.dtype) for s in states]).double()
        g = 2 * self.away * dots + minus @ minus - plus @ plus
        return torch.where(self.positive, g, -g)

    def scales(self, margins: Tensor) -> Tensor:
        """[N]: gamma of each token's side."""
        sides = (self.positive, ~self.positive)
        plus, minus = (margins[side].var(correction=0).clamp(min=1e-8).sqrt() for side in sides)
        return torch.where(self.positive, plus, minus)

    def closeness(self, size: Tensor, iterations: int) -> Tensor:
        """[N] in (0,1): alpha after `iterations` refinements; `size` is |A|."""
        margins = self.margins(*self.centroids(size))
        gamma = self.scales(margins)
        for _ in range(iterations):
            alpha = torch.sigmoid(margins / gamma)
            gamma = self.scales(margins)
            margins = self.margins(*self.centroids(alpha * size))
        return torch.sigmoid(margins / gamma)
