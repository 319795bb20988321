"""Cross-sampling: one model writes, and where another disagrees enough, the other draws the token.

Sparse but Critical (arXiv 2603.22446), section 3 of our notes. At every step both models see the same prefix, and

    S_t = 1[ JS(P_primary, P_other) > eps ];    y_t ~ (1 - S_t) P_primary + S_t P_other.

Both draws of a step use the same uniform number, so that "the token differs from what the primary would have drawn" is
a fact and not a matter of luck: such a step is an *effective* intervention, and only these use up the budget. With the
budget spent, the primary goes on alone. (The paper counts effective interventions; the coupling and the order of
spending, first come first served, are ours.) The divergence is that at temperature 1; tokens are drawn at the sampling
temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from mmcredit.diagnose.divergence import TOP_P
from mmcredit.diagnose.models import check_pair
from mmcredit.intervals import Interval, paired_gain
from mmcredit.policy.divergences import HIDDEN, js, top_p
from mmcredit.rollout.drawing.sampler import Sampler, row_uniforms
from mmcredit.rollout.engines.hf.attention import rollout_attention
from mmcredit.rollout.engines.hf.decoder import Decoder
from mmcredit.rollout.engines.hf.engine import HFEngine
from mmcredit.rollout.engines.hf.prefill import prefill
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.evaluate.accuracy import Evaluation
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engine import Request, Response, Sampling
    from mmcredit.rollout.engines.hf import HF
    from mmcredit.rollout.engines.hf.loop import Rows
    from mmcredit.rollout.engines.hf.waves import Wave


@dataclass(frozen=True)
class Rule:
    """When the other model draws.

    `divergence`: where JS exceeds `threshold` (at least log 2 = 0.693: never; below 0: always). `random`: at random
    places with chance `rate`, the control for "any switch helps".
    """

    budget: float = math.inf  # effective interventions per response
    threshold: float = 0.1
    top_p: float = TOP_P  # both distributions are cut to this mass before JS; 1 = whole vocabulary
    switch: Literal["divergence", "random"] = "divergence"
    rate: float = 0.0

    def __post_init__(self) -> None:
        if not self.budget >= 0:
            raise ValueError(f"a budget counts interventions, got {self.budget}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"the rate of random switches must lie in 0..1, got {self.rate}")
        if math.isnan(self.threshold):
            raise ValueError("the threshold of the divergence is NaN")


@dataclass(frozen=True)
class Crossed:
    """One cross-sampled response."""

    response: Response
    switches: int  # steps at which the other model drew
    effective: tuple[int, ...]  # positions of those whose token differs from the primary's draw
    compared: int  # steps at which both models were asked


class CrossEngine(HFEngine):
    """The engine `hf` on the primary model with another one at its side.

    Both keep real caches: a step costs one forward of each over the responses that are left. When every response of a
    wave has spent its budget the other model is not run any more. With budget 0 or a threshold that is never exceeded
    the responses are the primary's own, with a negative threshold and no limit the other's, bit for bit.
    """

    def __init__(self, primary: Policy, other: Policy, config: HF, rule: Rule) -> None:
        """Raises ValueError for models with different tokenizers."""
        super().__init__(primary, config)
        check_pair(primary, other)
        self.other = other
        self.rule = rule
        self.crossed: list[Crossed] = []  # of the last `generate`
        self.log: dict[int, _Log] = {}  # by number of the response
        self.seeds: list[int] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """As `HFEngine.generate`; `crossed` says what happened on the way. An end token of either model ends a
        response. Log-probs are those of the model that drew."""
        self.log, self.crossed = {}, []
        ends = {*self.policy.eos_token_ids, *self.other.eos_token_ids, *sampling.stop_token_ids}
        sampling = sampling.model_copy(update={"stop_token_ids": tuple(sorted(ends))})
        self.seeds = [int(seed) for request in requests for seed in request.seeds]
        with ExitStack() as stack:
            if self.rule.budget > 0:
                stack.enter_context(rollout_attention(Decoder(self.other).body))
            responses = super().generate(requests, sampling, progress)
        # A finished row stays in the batch for some steps: what is logged behind its end is no part of the response.
        for number, response in enumerate(responses):
            log, length = self.log.get(number, _Log()), len(response.tokens)
            effective = tuple(p for p in log.effective if p < length)
            switches = sum(p < length for p in log.switches)
            self.crossed.append(Crossed(response, switches, effective, min(log.seen, length)))
        return responses

    def wave_hook(self, wave: Wave, sampling: Sampling) -> _Intervention | None:
        """The other model, having read the wave's prompts."""
        if self.rule.budget == 0:
            return None
        return _Intervention(self, wave, sampling)


@dataclass
class _Log:
    switches: list[int] = field(default_factory=list)
    effective: list[int] = field(default_factory=list)
    seen: int = 0


class _Intervention:
    """The hook of one wave: steps the other model along and decides who draws."""

    def __init__(self, engine: CrossEngine, wave: Wave, sampling: Sampling) -> None:
        self.engine, self.rule = engine, engine.rule
        self.decoder = Decoder(engine.other)
        ready = prefill(self.decoder, wave, wave.new_tokens, engine.config.prefill_tokens)
        self.cache, self.hidden, self.positions = ready.cache, ready.hidden, ready.positions
        self.responses = torch.tensor([n for _, n in wave.rows])
        self.spent = {int(n): 0 for n in self.responses}
        suppressed = {*engine.policy.suppressed_ids, *engine.other.suppressed_ids}
        ends = {*engine.policy.eos_token_ids, *sampling.stop_token_ids}
        self.sampler = Sampler(sampling, suppressed, ends, self.decoder.device)
        self.done = False
        self.chance: Tensor | None = None
        if self.rule.switch == "random":
            seeds = [derive(engine.seeds[int(n)], "switch") for n in self.responses]
            self.chance = row_uniforms(seeds, wave.new_tokens)  # [T,N], columns as in `spent`
            self.column = {int(n): i for i, n in enumerate(self.responses)}

    def __call__(self, step: int, logits: Tensor, rows: Rows) -> Tensor:
        """The logits to draw from: the primary's, or where it switches the other's."""
        if self.done:
            return logits
        self._follow(step, rows)
        other = self.decoder.head(self.hidden)
        numbers = rows.responses.tolist()
        left = torch.tensor([self.spent[n] < self.rule.budget for n in numbers], device=logits.device)
        switch = self._wants(step, logits, other, numbers) & left
        if not bool(switch.any()):
            for n, open_ in zip(numbers, left.tolist(), strict=True):
                self.engine.log.setdefault(n, _Log()).seen += open_
            return logits
        mine, _ = self.sampler(logits, rows.uniforms[step], step)
        theirs, _ = self.sampler(other, rows.uniforms[step], step)
        differs = (switch & (mine != theirs)).tolist()
        for n, open_, switched, effective in zip(numbers, left.tolist(), switch.tolist(), differs, strict=True):
            log = self.engine.log.setdefault(n, _Log())
            log.seen += open_
            if switched:
                log.switches.append(step)
            if effective:
                log.effective.append(step)
                self.spent[n] += 1
        self.done = all(self.spent[n] >= self.rule.budget for n in numbers)
        return torch.where(switch[:, None], other, logits)

    def _follow(self, step: int, rows: Rows) -> None:
        """Drop the rows that have left, and read the tokens that the others got."""
        if len(rows.responses) != len(self.responses):
            keep = torch.isin(self.responses, rows.responses).nonzero()[:, 0]
            index = keep.to(self.hidden.device)
            self.cache.select_rows(keep)
            self.positions = self.positions.index_select(0, index)
            self.responses = self.responses[keep]
        assert torch.equal(self.responses, rows.responses), "both models must hold the same rows in the same order"
        if step == 0:
            return
        out = self.decoder.body(
            inputs_embeds=self.decoder.embed_tokens(rows.tokens[step - 1][:, None]),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            shared_prompt=self.cache,
        )
        self.hidden = out.last_hidden_state[:, 0]
        self.cache.filled += 1
        self.positions = self.positions + 1

    def _wants(self, step: int, logits: Tensor, other: Tensor, numbers: Sequence[int]) -> Tensor:
        """[N] bool."""
        if self.chance is not None:
            columns = torch.tensor([self.column[n] for n in numbers])
            return (self.chance[step, columns] < self.rule.rate).to(logits.device)
        log_p, log_q = (self._log_probs(z) for z in (logits, other))
        if self.rule.top_p < 1:
            log_p, log_q = top_p(log_p, self.rule.top_p), top_p(log_q, self.rule.top_p)
        return js(log_p, log_q) > self.rule.threshold

    def _log_probs(self, logits: Tensor) -> Tensor:
        return logits.float().index_fill(1, self.sampler.suppressed, HIDDEN).log_softmax(1)


@dataclass(frozen=True)
class CurvePoint:
    """One budget: what came out, and how often the other model spoke. Counts are means per response."""

    budget: float
    switch: str  # divergence or random
    evaluation: Evaluation
    gain: Interval  # against budget 0, paired over the questions
    switches: float
    effective: float
    effective_share: float  # effective interventions per token
    crossed: list[Crossed]


def budget_curve(
    primary: Policy,
    other: Policy,
    config: HF,
    budgets: Sequence[float],
    judge: Callable[[CrossEngine], Evaluation],
    *,
    threshold: float = 0.1,
    top_p: float = TOP_P,
    control: bool = True,
) -> Iterator[CurvePoint]:
    """Accuracy as a function of the budget; 0 goes first. `judge` lets an engine answer the questions.

    With `control` every budget is tried a second time with switches at random places, as frequent among the compared
    positions as the divergence's were under that budget.
    """
    base: Evaluation | None = None
    settled: dict[str, tuple[float, CurvePoint]] = {}  # by switch: its rate, and a point whose budget nobody used up
    for budget in sorted({0.0, *budgets}):
        rules = [Rule(budget=budget, threshold=threshold, top_p=top_p)]
        while rules:
            rule = rules.pop(0)
            rate, point = settled.get(rule.switch, (math.nan, None))
            if point is None or rate != rule.rate:  # else a larger budget changes nothing
                engine = CrossEngine(primary, other, config, rule)
                found = judge(engine)
                base = base or found
                answers = len(found.responses) // len(found.correct)  # to each question
                point = _point(rule, found, paired_gain(base.correct, found.correct, answers), engine.crossed)
                if all(len(c.effective) < budget for c in engine.crossed):
                    settled[rule.switch] = (rule.rate, point)
            yield replace(point, budget=budget)
            if control and rule.switch == "divergence" and point.switches:
                rate = sum(c.switches for c in point.crossed) / sum(c.compared for c in point.crossed)
                rules.append(Rule(budget=budget, switch="random", rate=rate, top_p=top_p))


def _point(rule: Rule, found: Evaluation, gain: Interval, crossed: list[Crossed]) -> CurvePoint:
    n, tokens = max(1, len(crossed)), max(1, sum(len(c.response.tokens) for c in crossed))
    effective = sum(len(c.effective) for c in crossed)
    switches = sum(c.switches for c in crossed)
    return CurvePoint(rule.budget, rule.switch, found, gain, switches / n, effective / n, effective / tokens, crossed)
