"""How near a credit comes to the truth, with intervals that resample prompts.

Shapes: N tokens of all responses; P prompts. Everything that is summed over tokens is kept per prompt, so that a
bootstrap draw is a weighting of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmcredit.audit.estimate import reliability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.audit.estimate import Advantages

    Floats = NDArray[np.float64]

DRAWS = 400


@dataclass(frozen=True)
class Number:
    """An estimate with its 95 % bootstrap interval over prompts; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Tokens:
    """The audited tokens of all batches."""

    prompt: NDArray[np.int64]  # [N] number of the prompt, 0..P-1
    response: NDArray[np.int64]  # [N] number of the response
    truth: Advantages

    @property
    def prompts(self) -> int:
        """P."""
        return int(self.prompt.max()) + 1 if len(self.prompt) else 0


@dataclass(frozen=True)
class Agreement:
    """One credit against the truth. `*_corrected`: divided by the square root of the truth's reliability."""

    correlation: Number  # over all tokens
    correlation_corrected: float | None
    within: Number  # over all tokens, each response's mean taken out on both sides
    within_corrected: float | None
    rank: Number  # Spearman, over all tokens
    rank_within: Number  # of these ranks, each response's mean taken out on both sides
    rank_significant: Number  # Spearman at tokens whose truth is significant
    significant: Number  # Pearson at tokens whose truth is significant
    sign: Number  # of these, where the credit is not 0: share with the sign of the truth
    nonzero: float  # share of tokens with credit
    precision: Number  # area under precision-recall of |credit| for "this token mattered" (significant)
    base: float  # what a credit without information has there: the share of such tokens
    over_grpo: Number | None = None  # paired difference of `correlation` to GRPO's


def resamples(prompts: int, draws: int = DRAWS, seed: int = 0) -> Floats:
    """[draws,P] how often each prompt is in each bootstrap draw."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws).astype(np.float64)


def interval(value: float | None, draws: Floats) -> Number:
    """Percentile interval; draws that are not defined are left out."""
    known = draws[np.isfinite(draws)]
    if value is None or not np.isfinite(value) or len(known) < len(draws) / 2:
        return Number(None if value is None or not np.isfinite(value) else float(value))
    low, high = np.quantile(known, (0.025, 0.975))
    return Number(float(value), float(low), float(high))


def jackknifed(values: Floats) -> Number:
    """The first of `values` [1 + P] with its interval from the other ones, in each of which one prompt is left out.

    value +- 1.96 sqrt((P - 1)/P sum (v_p - mean)^2). For cosines of summed gradients, where a bootstrap is off: a
    resample has fewer distinct prompts than the sample, more noise, and so a smaller cosine; its percentiles may all
    lie below the value.
    """
    value, others = float(values[0]), values[1:]
    if not np.isfinite(value) or len(others) < 2 or not np.isfinite(others).all():
        return Number(value if np.isfinite(value) else None)
    half = 1.96 * float(np.sqrt((len(others) - 1) * others.var()))
    return Number(value, value - half, value + half)


class Judge:
    """Compares credits with one truth; what depends on the truth alone is computed once."""

    def __init__(self, tokens: Tokens, draws: int = DRAWS, seed: int = 0) -> None:
        self.tokens = tokens
        self.weights = resamples(tokens.prompts, draws, seed)
        truth = tokens.truth
        self.mattered = truth.significant
        self._ranks = _ranks(truth.value)
        self._centred = self._within(truth.value)
        self.reliability = reliability(truth.halves)
        centred = np.stack([self._within(truth.halves[:, h]) for h in (0, 1)], 1)
        self.within_reliability = reliability(centred)
        self.grpo: Floats | None = None  # [draws] correlations of GRPO, for paired differences
        self._grpo_value: float | None = None

    def __call__(self, credit: Floats, reference: bool = False) -> Agreement:
        """One credit [N]. `reference`: this is GRPO's; later ones are compared with it."""
        truth = self.tokens.truth.value
        value, draws = self._correlation(credit, truth)
        within, within_draws = self._correlation(self._within(credit), self._centred)
        ranks, chosen = _ranks(credit), self.mattered
        rank = interval(*self._correlation(ranks, self._ranks))
        rank_within = interval(*self._correlation(self._within(ranks), self._within(self._ranks)))
        significant = interval(*self._correlation(credit, truth, chosen))
        if reference:
            self.grpo, self._grpo_value = draws, value
        over = None
        if self.grpo is not None and not reference and value is not None and self._grpo_value is not None:
            over = interval(value - self._grpo_value, draws - self.grpo)
        return Agreement(
            correlation=interval(value, draws),
            correlation_corrected=_corrected(value, self.reliability),
            within=interval(within, within_draws),
            within_corrected=_corrected(within, self.within_reliability),
            rank=rank,
            rank_within=rank_within,
            rank_significant=interval(*self._correlation(self._ranks_at(credit), self._ranks_at(truth), chosen)),
            significant=significant,
            sign=self._signs(credit),
            nonzero=float((credit != 0).mean()) if len(credit) else 0.0,
            precision=self._precision(np.abs(credit)),
            base=float(chosen.mean()) if len(credit) else 0.0,
            over_grpo=over,
        )

    def _within(self, values: Floats) -> Floats:
        response = self.tokens.response
        count = np.bincount(response)
        mean = np.bincount(response, values) / np.maximum(count, 1)
        centred = values - mean[response]
        # The mean of equal floats can differ from them in the last bit.
        return np.where(np.abs(centred) <= 1e-9 * np.abs(mean[response]), 0.0, centred)

    def _ranks_at(self, values: Floats) -> Floats:
        """Ranks among the tokens that matter, 0 elsewhere."""
        out = np.zeros(len(values))
        out[self.mattered] = _ranks(values[self.mattered])
        return out

    def _sum(self, values: Floats) -> Floats:
        return np.bincount(self.tokens.prompt, values, minlength=self.tokens.prompts).astype(np.float64)

    def _correlation(self, x: Floats, y: Floats, where: NDArray[np.bool_] | None = None) -> tuple[float | None, Floats]:
        """Pearson's correlation over tokens, and in every draw; None (NaN) where one side is constant."""
        use = np.ones(len(x)) if where is None else where.astype(np.float64)
        parts = np.stack([self._sum(use * v) for v in (np.ones(len(x)), x, y, x * x, y * y, x * y)], 1)
        every = np.concatenate([parts.sum(0)[None], self.weights @ parts])
        n, sx, sy, xx, yy, xy = every.T
        with np.errstate(invalid="ignore", divide="ignore"):
            vx, vy = xx - sx * sx / n, yy - sy * sy / n
            r = (xy - sx * sy / n) / np.sqrt(vx * vy)
        flat = (vx <= 1e-12 * np.abs(xx)) | (vy <= 1e-12 * np.abs(yy)) | (n < 2)
        r = np.where(flat, np.nan, r)
        return (None if not np.isfinite(r[0]) else float(r[0])), r[1:]

    def _signs(self, credit: Floats) -> Number:
        both = self.mattered & (credit != 0)
        same = both & (np.sign(credit) == np.sign(self.tokens.truth.value))
        right, all_ = self._sum(same.astype(float)), self._sum(both.astype(float))
        with np.errstate(invalid="ignore"):
            share = float(right.sum() / all_.sum()) if all_.sum() else None
            draws = (self.weights @ right) / (self.weights @ all_)
        return interval(share, draws)

    def _precision(self, score: Floats) -> Number:
        if not self.mattered.any():
            return Number(None)
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # equal scores stand together
        hit, prompt = self.mattered[order].astype(float), self.tokens.prompt[order]
        value = average_precision(hit, np.ones(len(hit)), ends)
        weights = self.weights[: min(len(self.weights), 200)]
        draws = np.asarray([average_precision(hit * w[prompt], w[prompt], ends) for w in weights])
        return interval(value, draws)


def average_precision(hits: Floats, weights: Floats, ends: NDArray[np.int64]) -> float:
    """Area under the precision-recall curve, by score from high to low; `ends` are the last places of equal scores.

    sum over groups of equal score of (recall gained) x (precision after the group), as Davis & Goadrich (2006).
    """
    found, seen = hits.cumsum()[ends], weights.cumsum()[ends]
    if not len(found) or found[-1] == 0:
        return float("nan")
    gained = np.diff(found, prepend=0.0) / found[-1]
    return float((gained * found / np.maximum(seen, 1e-300)).sum())


def _corrected(value: float | None, share: float | None) -> float | None:
    return None if value is None or share is None else value / share**0.5


def _ranks(values: Floats) -> Floats:
    """Ranks, equal values sharing their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place].astype(np.float64)
