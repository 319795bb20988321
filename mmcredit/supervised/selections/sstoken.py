"""Token selection `sstoken`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from mmcredit.components import register
from mmcredit.policy.passes import REFERENCE, Pass
from mmcredit.supervised.selection import Selection

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts
    from mmcredit.supervised.taught import Taught

TokenSelect = Literal["none", "random", "rel", "attn", "sstoken"]


def rel(history_loss: Tensor, current_loss: Tensor) -> Tensor:
    """REL = L_history - L_current per token: what the model has gained over its earlier self; [..., L]."""
    return history_loss - current_loss


def normalise(values: Tensor) -> Tensor:
    """(x - min) / (max - min + 1e-8) over the tokens of one sample [L]; equal values give 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low + 1e-8)


def scores(rel_values: Tensor, attention: Tensor, gamma: float) -> Tensor:
    """gamma NormREL + (1 - gamma) AttnScore of one sample, [L]."""
    return gamma * normalise(rel_values) + (1 - gamma) * attention


def count(length: int, rho: float) -> int:
    """ceil(L rho), at least 1 of a sample with tokens."""
    return math.ceil(length * rho)


def keep_mask(score: Tensor, rho: float) -> Tensor:
    """[L] bool: the ceil(L rho) tokens of one sample with the highest scores, of equal ones the earlier first."""
    kept = torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    if score.numel():
        order = torch.sort(score, descending=True, stable=True).indices
        kept[order[: count(score.shape[0], rho)]] = True
    return kept


def filter_tokens(
    current_loss: Tensor, history_loss: Tensor, attention: Tensor, *, gamma: float = 0.5, rho: float = 0.6
) -> Tensor:
    """[L] bool: which response tokens of a sample enter the loss; all inputs [L] (nats, nats, attention mass)."""
    return keep_mask(scores(rel(history_loss, current_loss), attention, gamma), rho)


@register("selection", "sstoken")
class SsToken(Selection):
    """Self-modulated, semantic-aware token selection: the loss of the best fraction of each target alone.

        REL_i = L_history(x_i) - L_current(x_i),   AttnScore_i = (1/H) sum_h sum_{j in prompt} A^h[i, j]
        score = gamma (REL - min) / (max - min) + (1 - gamma) AttnScore;   kept: the ceil(L rho) highest of a sample

    REL is what the model has gained on a token over its own earlier self, the model as loaded, no outside reference;
    AttnScore is how much the token's own query row looks at the prompt, in one layer. arXiv 2510.18250 (eq. 3-11), code
    jianke0604/ssToken. `token_select`: `rel` (gamma 1), `attn` (gamma 0), `random`, `none`; rho = 1 is plain SFT.

    Loss: the mean over kept tokens of a batch, as the code has it; `average: samples` of the run is the paper's. REL is
    noise before the model has moved: until `rel_warmup_samples` samples were seen the score is attention alone (code:
    10000 samples of 50000). Differs: the history pass of a sample is run when it is first met and remembered, not
    stored on disk; `exclude_sink` leaves out the prompt's first column, which a sink can dominate.

    Cost: the attention mass comes with the pass that is trained on; the history one forward without gradient per
    sample, once, and a frozen copy of the weights in memory (none with LoRA).
    """

    token_select: TokenSelect = Field("sstoken", description="none, random, rel, attn, or sstoken (both)")
    rho: float = Field(0.6, gt=0, le=1, description="fraction of each target's tokens that is kept (14B model: 0.8)")
    gamma: float = Field(0.5, ge=0, le=1, description="weight of REL against attention, for sstoken")
    layer: int | None = Field(None, ge=0, description="decoder layer of the attention, from 0; none = the last one")
    rel_warmup_samples: int = Field(0, ge=0, description="samples before REL counts (code: 10000)")
    exclude_sink: bool = Field(False, description="leave the first prompt token out of the attention sum")

    def model_post_init(self, _: Any) -> None:
        """Fresh state: what the history model says of the samples met so far."""
        self._history: dict[str, Tensor] = {}
        self._seen = 0
        self._seed = 0
        self._batch: list[Tensor] = []
        self._lengths: Tensor = None  # type: ignore[assignment]
        self._ids: list[str] = []
        self._rel_sum = self._rel_count = 0.0

    @property
    def mix(self) -> float:
        """gamma as it counts now."""
        if self.token_select == "rel":
            return 1.0
        if self.token_select != "sstoken" or self._seen < self.rel_warmup_samples:
            return 0.0
        return self.gamma

    @property
    def reads_attention(self) -> bool:
        return self.rho < 1 and (self.token_select == "attn" or (self.token_select == "sstoken" and self.gamma < 1))

    @property
    def _reads_history(self) -> bool:
        return self.rho < 1 and self.token_select in ("rel", "sstoken")

    @property
    def _output(self) -> str:
        parts = ["prompt_attention", "" if self.layer is None else str(self.layer), "no_first" * self.exclude_sink]
        return ":".join(part for part in parts if part)

    def open(self, policy: Policy, seed: int, steps: int) -> None:
        self._seed = seed
        if self._reads_history and not policy.starts_at_base:
            policy.keep_reference()

    def outputs(self) -> frozenset[str]:
        return frozenset({self._output} if self.reads_attention else ())

    def begin(self, batch: Sequence[Taught], rollouts: Rollouts, prompts: Sequence[Prompt], policy: Policy) -> None:
        self._rollouts = rollouts
        self._ids = [f"{each.prompt.sample_id}:{hash(each.tokens)}" for each in batch]
        self._rel_sum = self._rel_count = 0.0
        self._seen += len(batch)
        if not self._reads_history:
            return
        new = [i for i, name in enumerate(self._ids) if name not in self._history]
        if new:
            part = rollouts.select(new).replace(group=torch.arange(len(new)))
            wanted = [Pass(REFERENCE, frozenset({"logprobs"}))]
            found = policy.score([prompts[i] for i in new], part, wanted, temperature=1.0)[REFERENCE]["logprobs"]
            for i, row in zip(new, found, strict=True):
                self._history[self._ids[i]] = -row[rollouts.valid[i]].cpu()

    def counts(self, mask: Tensor) -> Tensor:
        rho = 1.0 if self.token_select == "none" else self.rho
        return torch.tensor([count(int(n), rho) for n in mask.sum(1)], dtype=torch.int64)

    def keep(self, rows: Tensor, found: Mapping[str, Tensor]) -> Tensor:
        mask = self._rollouts.mask[rows]
        kept = mask.clone()
        if self.rho == 1 or self.token_select == "none":
            return kept.to(found["logprobs"].device)
        logprobs = found["logprobs"].detach().cpu()
        for i, row in enumerate(rows.tolist()):
            own = mask[i]
            kept[i, own] = self._of_sample(row, -logprobs[i, own], own, i, found)
        return kept.to(found["logprobs"].device)

    def _of_sample(self, row: int, current: Tensor, own: Tensor, i: int, found: Mapping[str, Tensor]) -> Tensor:
        if self.token_select == "random":
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._seen * 4_099 + row) % 2**63)
            return keep_mask(torch.rand(current.shape, generator=generator), self.rho)
        attention = torch.zeros_like(current)
        if self.reads_attention:
            # The row of a token's own query predicts the token after it.
            attention = found[self._output][i].detach().cpu()[1:][own[:-1]].to(current.dtype)
        history = current
        if self._reads_history:
            history = self._history[self._ids[row]][own[: len(self._history[self._ids[row]])]].to(current.dtype)
            self._rel_sum += float((history - current).sum())
            self._rel_count += len(current)
        return keep_mask(scores(rel(history, current), attention, self.mix), self.rho)

    def sums(self) -> dict[str, tuple[float, float]]:
        """REL: how far the model has come from where it began, nats per token."""
        return {"sstoken/rel": (self._rel_sum, self._rel_count)} if self._reads_history else {}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = int(state["seen"])
