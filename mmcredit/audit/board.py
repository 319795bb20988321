"""The numbers of an audit: a row per method against the truth, with the rows at the upper and the lower end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcredit.audit import gradients
from mmcredit.audit.collect import DENSE, strategy_costs
from mmcredit.audit.estimate import Advantages
from mmcredit.audit.measures import Judge, Number, Tokens, jackknifed
from mmcredit.audit.work import HALVES, RANDOM, random_credit
from mmcredit.replay.methods import REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.audit.command import Audit
    from mmcredit.audit.measures import Agreement

    Floats = NDArray[np.float64]

TRUTH, HALF = "truth", "half of the truth"  # labels of rows
OWN = "(on trees of its own)"


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard."""

    label: str
    kind: str  # method | sanity
    agreement: Agreement
    gradient: Number  # cosine to the gradient under the truth
    gradient_over_grpo: Number | None  # paired difference
    noise: float | None  # of the gradient over resampled groups, in units of its length
    passes: tuple[str, ...]
    sampled: float  # further tokens sampled per response token
    seconds: float | None  # credit and its own passes, mean per batch
    against_grpo: str = ""  # better | worse | as good | –


@dataclass(frozen=True)
class Board:
    """The leaderboard and the facts above it."""

    rows: list[Row]
    facts: dict[str, Any]
    notes: list[str]
    verdict: dict[str, list[str]] = field(default_factory=dict)  # better, as good, worse -> labels


def board(found: Audit, draws: int = 400) -> Board:
    """All numbers, methods ordered by their gradient (or, without, their correlation)."""
    tokens, columns, ids = _columns(found)
    judge = Judge(tokens, draws)
    parts = _parts(found, ids)
    size = sum(len(b.truth.row) for b in found.batches)
    sampled = strategy_costs(found.costs)
    rows: list[Row] = []
    against: np.ndarray | None = None
    for label in [REFERENCE, *[x for x in columns if x != REFERENCE]]:
        agreement = judge(columns[label], reference=label == REFERENCE)
        if label == TRUTH:  # its noise is the truth's own: there is nothing to correct
            agreement = replace(agreement, correlation_corrected=None, within_corrected=None)
        gradient, over, loud = Number(None), None, None
        if parts and label in parts:
            halves = (parts[HALVES[0]].sum(0), parts[HALVES[1]].sum(0))
            values = gradients.cosines(parts[label].sum(0), halves)
            gradient = jackknifed(values)
            if label == REFERENCE:
                against = values
            elif against is not None and label in found.labels:
                over = jackknifed(values - against)
            loud = gradients.noise(parts[label])
        method = next((m for m in found.methods if m.label == label), None)
        seconds = [b.seconds[label] for b in found.batches if label in b.seconds]
        extra = 0.0
        if label == found.dense and method is not None:
            extra = sampled[f"{DENSE}boundary_index"] / max(1, size)
        elif method is not None:
            needs = method.pipeline.needs().signals
            extra = max((sampled.get(s, 0.0) for s in needs), default=0.0) / max(1, size)
        rows.append(
            Row(
                label,
                "method" if method is not None else "sanity",
                agreement,
                gradient,
                over,
                loud,
                () if method is None else method.extra_passes(found.given),
                extra,
                float(np.mean(seconds)) if seconds else None,
                _against(over if over is not None else agreement.over_grpo, label, method is not None),
            )
        )
    rows.append(_half(tokens, judge, parts, draws))
    if found.trees:
        rows.append(_tree(found, draws))

    def place(row: Row) -> float:
        if row.label == TRUTH:
            return -9.0
        value = row.gradient.value if parts else row.agreement.correlation.value
        return -(value if value is not None else -2.0)

    rows.sort(key=place)
    verdict = {kind: [r.label for r in rows if r.against_grpo == kind] for kind in ("better", "as good", "worse")}
    return Board(rows, _facts(found, judge), _notes(found), verdict)


def _against(over: Number | None, label: str, method: bool) -> str:
    if label == REFERENCE or not method or over is None or over.low is None or over.high is None:
        return ""
    return "better" if over.low > 0 else "worse" if over.high < 0 else "as good"


def _half(tokens: Tokens, judge: Judge, parts: dict[str, NDArray[Any]], draws: int) -> Row:
    """One half of the truth, judged by the other: what noise alone leaves."""
    truth = tokens.truth
    other = Advantages(truth.halves[:, 1], truth.halves, truth.error, truth.low, truth.high)
    agreement = Judge(Tokens(tokens.prompt, tokens.response, other), draws)(truth.halves[:, 0])
    gradient = Number(None)
    if parts:
        one, two = parts[HALVES[0]].sum(0), parts[HALVES[1]].sum(0)
        g, h = gradients.all_and_without_each(one), gradients.all_and_without_each(two)
        with np.errstate(invalid="ignore"):
            values = (g * h).sum(1) / np.sqrt((g * g).sum(1) * (h * h).sum(1))
        gradient = jackknifed(values)
    return Row(HALF, "sanity", agreement, gradient, None, None, (), 0.0, None)


def _tree(found: Audit, draws: int) -> Row:
    """SPO-tree against the truth of its own edges: other responses of the same prompts, so nothing is paired."""
    assert found.tree is not None
    own = replace(found, batches=found.trees, methods=[found.tree])
    tokens, columns, ids = _columns(own)
    judge, label = Judge(tokens, draws), found.tree.label
    gradient, loud = Number(None), None
    if parts := _parts(own, ids):
        halves = (parts[HALVES[0]].sum(0), parts[HALVES[1]].sum(0))
        values = gradients.cosines(parts[label].sum(0), halves)
        gradient, loud = jackknifed(values), gradients.noise(parts[label])
    given = frozenset(found.trees[0].frozen.rollouts.signals)
    seconds = float(np.mean([b.seconds[label] for b in found.trees]))
    passes = found.tree.extra_passes(given)
    return Row(f"{label} {OWN}", "method", judge(columns[label]), gradient, None, loud, passes, 0.0, seconds)


def _columns(found: Audit) -> tuple[Tokens, dict[str, Floats], list[Any]]:
    """Tokens of all batches, label -> credit [N], and the ids of the prompts in the order of their numbers."""
    ids: dict[str, int] = {}
    prompt, response, rows = [], [], 0
    values: dict[str, list[Any]] = {label: [] for label in [*found.labels, TRUTH, RANDOM]}
    for batch in found.batches:
        rollouts = batch.frozen.rollouts
        assert rollouts.samples is not None
        numbers = np.asarray([ids.setdefault(s.id, len(ids)) for s in rollouts.samples])
        prompt.append(numbers[rollouts.group.numpy()][batch.truth.row])
        response.append(batch.truth.row + rows)
        rows += len(rollouts)
        for label in found.labels:
            values[label].append(batch.credit[label])
        values[TRUTH].append(batch.truth.advantages.value)
        values[RANDOM].append(random_credit(batch.frozen.step, len(batch.truth.row)))
    truths = [b.truth.advantages for b in found.batches]
    joined = {
        name: np.concatenate([getattr(t, name) for t in truths]) for name in ("value", "halves", "error", "low", "high")
    }
    tokens = Tokens(np.concatenate(prompt), np.concatenate(response), Advantages(**joined))
    return tokens, {k: np.concatenate(v).astype(np.float64) for k, v in values.items()}, list(ids)


def _parts(found: Audit, ids: Sequence[str]) -> dict[str, NDArray[Any]]:
    """label -> [M,P,W] over the prompts of all batches."""
    if not found.batches[0].parts:
        return {}
    place = {name: i for i, name in enumerate(ids)}
    labels = [*found.labels, *HALVES, RANDOM]
    out: dict[str, NDArray[Any]] = {}
    for label in labels:
        first = found.batches[0].parts[label]
        table = np.zeros((len(first), len(ids), first.shape[2]), dtype=np.float32)
        for batch in found.batches:
            assert batch.frozen.rollouts.samples is not None
            for i, sample in enumerate(batch.frozen.rollouts.samples):
                table[:, place[sample.id]] += batch.parts[label][:, i]
        out[label] = table
    out[TRUTH] = (out[HALVES[0]] + out[HALVES[1]]) / 2
    return out


def _facts(found: Audit, judge: Judge) -> dict[str, Any]:
    facts = [b.truth.facts for b in found.batches]

    def total(name: str) -> float:
        return sum(f.get(name, 0) for f in facts)

    error = judge.tokens.truth.error
    return {
        "source": found.source,
        "prompts": judge.tokens.prompts,
        "responses": sum(len(b.frozen.rollouts) for b in found.batches),
        "tokens": int(total("tokens")),
        "states": int(total("states")),
        "mode": "enumeration" if found.options.plan is None else "Monte Carlo",
        "continuations": int(total("continuations")),
        "sampled_tokens": int(total("sampled_tokens")),
        "unfinished": int(total("unfinished")),
        "seconds": total("seconds"),
        "error_mean": float(error.mean()),
        "error_q95": float(np.quantile(error, 0.95)),
        "truth_sd": float(judge.tokens.truth.value.std()),
        "significant": float(judge.mattered.mean()),
        "reliability": judge.reliability,
        "within_reliability": judge.within_reliability,
        "missing_mass": max((f.get("missing_mass", 0.0) for f in facts), default=0.0),
        "weights": sorted({b.weights for b in found.batches}),
        "groups_per_prompt": max(int(b.group.max()) + 1 for b in found.batches),
    }


def _notes(found: Audit) -> list[str]:
    far = max((b.kl for b in found.batches if b.kl is not None), default=0.0)
    notes = []
    if far > 0.01:
        notes.append(
            f"The model is not the one that sampled (KL up to {far:.3g} nats per token): values are those of the "
            "model used here."
        )
    if found.options.plan is not None:
        notes.append(
            "The truth is measured with noise, which lowers every correlation with it; numbers marked corrected are "
            "divided by the square root of its split-half reliability (Spearman-Brown). Gradient cosines take the "
            "truth's length from the product of its two halves."
        )
    if found.trees:
        edges = sum(len(b.frozen.rollouts) for b in found.trees)
        tokens = sum(len(b.truth.row) for b in found.trees)
        notes.append(
            f"spo_tree credits edges of sampled trees, not whole responses: its row compares its credit with the true "
            f"advantages of the {tokens:,} tokens of {edges:,} edges sampled for the same prompts, so it has no paired "
            "difference to GRPO."
        )
    return notes
