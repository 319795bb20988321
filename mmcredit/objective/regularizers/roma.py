"""ROMA: answers that were right on the clean image stay likely on degraded ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmcredit.components import Needs, register
from mmcredit.corruptions.base import Corruption
from mmcredit.corruptions.suite import SEEN
from mmcredit.credit.tokens import has_media
from mmcredit.objective.base import (
    MAX_LOG_RATIO,
    Regularizer,
    RegularizerInputs,
    RegularizerLoss,
    masked,
    response_mean,
)
from mmcredit.objective.success import Success
from mmcredit.views.images import CorruptedView

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Credit, Rollouts


class Divergence(BaseModel):
    """The surrogate KL of the corrupted views."""

    model_config = ConfigDict(extra="forbid")

    coef: float = Field(0.01, ge=0, description="weight of the term")
    estimator: Literal["k3", "k2", "full"] = Field("k3", description="from the sampled token, or over the vocabulary")
    grad: Literal["view", "clean", "both"] = Field("view", description="side that is moved")
    view_max: Literal["token", "sample", "batch", "mean", "logsumexp"] = Field(
        "token", description="worst view of each token, response or mini-batch; or all views"
    )
    temperature: float = Field(1.0, gt=0, description="of logsumexp; 0 would be the maximum, infinity the mean")
    clamp: float | None = Field(10.0, gt=0, description="cap of a token's value, with zero gradient above; null = none")
    on_zero_adv: bool = Field(True, description="also for responses without any advantage (groups that are all right)")

    @model_validator(mode="after")
    def _full_moves_the_view(self) -> Divergence:
        if self.estimator == "full" and self.grad != "view":
            raise ValueError(
                f"kl.estimator full has its gradient in the view alone; set kl.grad view (got {self.grad!r})"
            )
        return self


class Auxiliary(BaseModel):
    """The policy gradient under a corrupted view."""

    model_config = ConfigDict(extra="forbid")

    coef: float = Field(0.1, ge=0, description="weight of the term")
    form: Literal["logprob", "ratio_view", "ratio_clean"] = Field("logprob", description="the surrogate")
    mask: Literal["success", "all"] = Field("success", description="responses it is taken over")
    view: Literal["auto", "random", "worst"] = Field(
        "auto", description="which view; auto = worst with kl.view_max sample or batch, else random"
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="of the ratio forms: the ratio may fall to 1 - low")
    clip_high: float = Field(0.28, ge=0, description="of the ratio forms: the ratio may rise to 1 + high")

    @model_validator(mode="after")
    def _bounded(self) -> Auxiliary:
        if self.form == "logprob" and self.mask == "all":
            raise ValueError(
                "aux.mask all with aux.form logprob: -A log p is unbounded below where A < 0; use form ratio_view"
            )
        return self


@register("regularizer", "roma")
class ROMA(Regularizer):
    """L = kl.coef * L_KL + aux.coef * L_aux, over responses that succeeded on the clean image they were sampled on.

    lc, lv_k: log-probs of the sampled tokens on the clean image and, teacher forced, under K corrupted views of it;
    c_i: response i succeeded; m: tokens in the loss; A: advantages from clean rewards, never recomputed.
      D_k = exp(d) - d - 1 with d = lv_k - sg(lc) clamped to +-20, at most `clamp`
      L_KL = sum c m max_k D_k / max(1, sum c m);  L_aux = sum c m l / max(1, sum c m), view k* drawn per response
      l: `logprob` -A lv;  `ratio_view`, `ratio_clean`: clipped surrogate of exp(lv - old), old under that view or clean
    Both denominators are those of the whole mini-batch. With sg on the clean side the expected gradient of D is that of
    KL(clean || view) in the view. The maximum of sampled estimates is biased up; `full` is exact, `sample` averages
    over the response first, `logsumexp` is T log mean_k exp(D_k/T).
    Success: the `success.key` part of the reward is above `success.threshold`.

    Source: arXiv 2605.09262. Neither its text nor code was available beyond the abstract: worst case per token,
    dual pass, clean advantages and correctness mask are the paper's; estimator, coefficients, K, operators, the form of
    the auxiliary term and the schedule are ours. Prompts without media have no views and enter no denominator.
    Passes: for successful responses one forward with gradient per view. Where K graphs do not fit into
    train.token_budget (or kl.grad is not view), K forwards without gradient first, then views one at a time, with the
    same gradient. Cheap: `kl: {view_max: sample}` has K forwards without and one with gradient. `full` adds a clean
    forward without gradient to each; `ratio_view` adds K passes per rollout batch.
    Both coefficients 0, or views 0, is the objective without it, bit for bit.
    """

    views: int = Field(2, ge=0, description="K, corrupted views per prompt and step")
    operators: tuple[Corruption, ...] = Field(
        default=SEEN, validate_default=True, description="corruptions that a view draws from"
    )
    severity: tuple[int, int] = Field((1, 3), description="least and greatest; [0, 0] = identical views, for checks")
    kl: Divergence = Field(default_factory=Divergence, description="worst-case divergence; a number sets its coef")
    aux: Auxiliary = Field(default_factory=Auxiliary, description="auxiliary policy gradient; a number sets its coef")
    success: Success = Field(default_factory=Success, description="which responses count as right")
    warmup_frac: float = Field(0.05, ge=0, le=1, description="share of the run in which both coefficients rise from 0")

    @field_validator("kl", "aux", mode="before")
    @classmethod
    def _coefficient(cls, value: Any) -> Any:
        return {"coef": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("operators", mode="before")
    @classmethod
    def _operators(cls, value: Any) -> Any:
        return CorruptedView(operators=value).operators

    @model_validator(mode="after")
    def _can_be_drawn(self) -> ROMA:
        self._shown()
        return self

    def _shown(self) -> CorruptedView:
        return CorruptedView(operators=self.operators, severity=self.severity)

    @property
    def _off(self) -> bool:
        return self.views == 0 or (self.kl.coef == 0 and self.aux.coef == 0)

    @property
    def _full(self) -> bool:
        return self.kl.coef > 0 and self.kl.estimator == "full"

    @property
    def _worst_aux(self) -> bool:
        return self.aux.view == "worst" or (self.aux.view == "auto" and self.kl.view_max in ("sample", "batch"))

    def needs(self) -> Needs:
        if self._off:
            return Needs()
        in_ratio = self.aux.coef > 0
        return Needs(
            passes={"view_logprobs": True, **({"view_kl": True} if self._full else {})},
            signals=("view_logprobs",) if in_ratio and self.aux.form == "ratio_view" else (),
            old_logprobs=in_ratio and self.aux.form == "ratio_clean",
            reward_parts=self.success.parts,
            views={"corrupted": self._shown()},
            settings={"view_logprobs": {"views": self.views}},
        )

    @property
    def clean_is_constant(self) -> bool:
        return self.kl.grad == "view" or self.kl.coef == 0

    @property
    def one_view_per_response(self) -> bool:
        if self.kl.coef == 0:
            return True
        return self.kl.view_max in ("sample", "batch") and (self.aux.coef == 0 or self._worst_aux)

    @property
    def sees_whole_batch(self) -> bool:
        return not self._off and self.views > 1 and self.kl.coef > 0 and self.kl.view_max == "batch"

    def prepare(
        self,
        rollouts: Rollouts,
        credit: Credit,
        weights: Tensor,
        *,
        progress: float | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        mask, scored = credit.loss_mask, (credit.loss_mask & (credit.advantages != 0)).any(1)
        seen = has_media(rollouts)
        right = self.success(rollouts) & seen
        warm = 0.0 if self._off else self._warm(progress)
        for_kl = right if self.kl.on_zero_adv else right & scored
        for_aux = right if self.aux.mask == "success" else seen
        kl = _share(mask & for_kl[:, None], weights) * (self.kl.coef * warm)
        # Without advantage a response has no auxiliary gradient, but it counts in the mean.
        aux = _share(mask & for_aux[:, None], weights) * (self.aux.coef * warm) * scored[:, None]
        drawn = torch.randint(max(1, self.views), (len(rollouts),), generator=generator).to(mask.device)
        return {"rows": ((kl != 0) | (aux != 0)).any(1), "kl": kl, "aux": aux, "aux_view": drawn, "right": right}

    def unchanged(self, prepared: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        kl = masked(prepared["kl"], ~rows[:, None])  # D = 0, with a gradient of 0 on either side
        return {"kl": kl, "rows": ((kl != 0) | (prepared["aux"] != 0)).any(1)}

    def look(self, inputs: RegularizerInputs) -> dict[str, Tensor]:
        worst = (inputs.prepared["kl"] * self._divergence(inputs)).sum((1, 2)).argmax()
        return {"worst": worst.expand(len(inputs.rollouts))}

    def _warm(self, progress: float | None) -> float:
        if progress is None or self.warmup_frac == 0:
            return 1.0
        return min(1.0, progress / self.warmup_frac)

    def __call__(self, inputs: RegularizerInputs) -> RegularizerLoss:
        zero = inputs.logprobs.new_zeros(())
        if self._off:
            return RegularizerLoss(zero, {})
        given = inputs.passes["view_logprobs"]
        if tuple(given.shape) != (self.views, *inputs.logprobs.shape):
            raise ValueError(
                f"passes['view_logprobs'] must have shape {[self.views, *inputs.logprobs.shape]} ([views, B, T]), "
                f"got {list(given.shape)}"
            )
        kl, aux = inputs.prepared["kl"], inputs.prepared["aux"]
        mask = (kl != 0) | (aux != 0)
        divergence = self._divergence(inputs)
        per_view = response_mean(divergence.flatten(0, 1), mask.repeat(self.views, 1)).view(self.views, -1)
        worst = per_view.argmax(0)  # [B]
        if self.kl.view_max == "batch":
            worst = inputs.prepared.get("worst", self._worst_of_all(kl, divergence, worst))
        l_kl = (kl * self._combined(divergence, worst)).sum()
        chosen = worst if self._worst_aux else inputs.prepared["aux_view"]
        l_aux = (aux * self._surrogate(inputs, masked(given, mask), chosen, aux != 0)).sum()
        return RegularizerLoss(l_kl + l_aux, self._metrics(inputs, divergence, mask, l_kl, l_aux))

    def _divergence(self, inputs: RegularizerInputs) -> Tensor:
        """[K,B,T]: D, 0 where it does not count."""
        mask = inputs.prepared["kl"] != 0
        mask = mask | (inputs.prepared["aux"] != 0)
        if self._full:
            values = masked(inputs.passes["view_kl"], mask).clamp(min=0)
        else:
            clean, view = masked(inputs.logprobs, mask), masked(inputs.passes["view_logprobs"], mask)
            clean = clean.detach() if self.kl.grad == "view" else clean
            view = view.detach() if self.kl.grad == "clean" else view
            d = (view - clean).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            values = d**2 / 2 if self.kl.estimator == "k2" else torch.expm1(d) - d
        return values if self.kl.clamp is None else values.clamp(max=self.kl.clamp)

    @staticmethod
    def _worst_of_all(kl: Tensor, divergence: Tensor, like: Tensor) -> Tensor:
        return (kl * divergence).sum((1, 2)).argmax().expand_as(like)

    def _combined(self, divergence: Tensor, worst: Tensor) -> Tensor:
        """[B,T] from [K,B,T]."""
        how = self.kl.view_max
        if how == "token":
            return divergence.max(0).values  # on ties the gradient goes to one view
        if how == "mean":
            return divergence.mean(0)
        if how == "logsumexp":
            t = self.kl.temperature
            return t * ((divergence / t).logsumexp(0) - torch.tensor(float(self.views)).log())
        return _of_view(divergence, worst)

    def _surrogate(self, inputs: RegularizerInputs, views: Tensor, chosen: Tensor, mask: Tensor) -> Tensor:
        """[B,T]: the auxiliary loss per token under the chosen view [B]."""
        current, advantages = masked(_of_view(views, chosen), mask), inputs.credit.advantages
        if self.aux.form == "logprob" or self.aux.coef == 0:
            return -advantages * current
        old = inputs.rollouts.old_logprobs
        if self.aux.form == "ratio_view":
            old = _of_view(inputs.rollouts.signal("view_logprobs"), chosen)
        if old is None:
            raise ValueError("roma's aux.form ratio_clean needs old_logprobs; score the rollouts by the policy first")
        ratio = (current - masked(old, mask)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        clipped = ratio.clamp(1 - self.aux.clip_low, 1 + self.aux.clip_high)
        return -torch.minimum(ratio * advantages, clipped * advantages)

    def _metrics(
        self, inputs: RegularizerInputs, divergence: Tensor, mask: Tensor, l_kl: Tensor, l_aux: Tensor
    ) -> dict[str, float]:
        with torch.no_grad():  # a decorator would load torch when configs are read
            count = mask.sum().clamp(min=1)
            shift = masked(inputs.passes["view_logprobs"] - inputs.logprobs, mask)
            metrics = {
                "roma_kl": float(l_kl),
                "roma_aux": float(l_aux),
                "roma_success": float(inputs.prepared["right"].float().mean()) if len(inputs.rollouts) else 0.0,
                "roma_shift": float(shift.sum() / count / self.views),  # mean lv - lc
            }
            worst = masked(divergence.argmax(0) + 1, mask)
            for k in range(self.views):
                metrics[f"roma_divergence_{k}"] = float(divergence[k].sum() / count)
                metrics[f"roma_worst_{k}"] = float((worst == k + 1).sum() / count)  # share of tokens
            return metrics


def _share(mask: Tensor, like: Tensor) -> Tensor:
    """[B,T]: 1 / number of tokens in the mask, on them."""
    return mask.to(like.dtype) / mask.sum().clamp(min=1)


def _of_view(values: Tensor, view: Tensor) -> Tensor:
    """[B,T]: of values [K,B,T] the view of each response, view [B] int64."""
    return values.gather(0, view[None, :, None].expand(1, *values.shape[1:]))[0]
