"""Frozen rollouts through several credit methods: the same tokens, the same model, one number beside the other."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmcredit.components import names
from mmcredit.config_files import override
from mmcredit.frozen import Frozen, find, thaw
from mmcredit.replay.gradient import Direction, Gradients, accumulate
from mmcredit.replay.methods import REFERENCE, Method, agreeing, make_methods, obstacle
from mmcredit.replay.methods import parse as parse_methods
from mmcredit.replay.model import ReplayModel, Scored, Setting, use_threads
from mmcredit.replay.numbers import Shares, cosine, matrix, rank_correlation, shares

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Credit


@dataclass
class BatchRecord:
    """One frozen batch after its replay."""

    frozen: Frozen
    weights: str  # which weights scored it
    kl: float | None  # KL(sampler || this model), nats per token
    passes: tuple[str, ...]  # views that were run for it, each once
    seconds: float  # of those passes
    credit: dict[str, Tensor] = field(default_factory=dict)  # label -> [B,T], 0 outside the loss mask
    directions: dict[str, Direction] = field(default_factory=dict)


@dataclass
class Row:
    """One method of the result. Shares and agreements are over the sampled tokens of all batches together."""

    label: str
    pipeline: str
    shares: Shares
    cosine: float | None  # of the credit, to GRPO's
    rank: float | None  # Spearman's, to GRPO's
    gradient_cosine: float | None  # mean over the batches in which both gradients are not 0
    gradient_norm: float | None  # divided by GRPO's, mean over the same batches
    passes: tuple[str, ...]  # that a run of its own adds to GRPO's
    credit_seconds: float  # mean per batch
    pass_seconds: float | None  # forwards of its views here, mean per batch; None if its signals came with the batch
    notes: list[str] = field(default_factory=list)


@dataclass
class Replay:
    """What a replay found."""

    source: Path
    batches: list[BatchRecord]
    rows: list[Row]
    cosines: list[list[float | None]]  # [N,N] in the order of rows
    ranks: list[list[float | None]]
    refused: dict[str, str]  # label -> why it could not be replayed
    notes: list[str]
    model: ReplayModel

    @property
    def labels(self) -> list[str]:
        """Labels of the rows."""
        return [row.label for row in self.rows]

    @property
    def tokens(self) -> int:
        """Sampled tokens of all batches."""
        return sum(int(b.frozen.rollouts.mask.sum()) for b in self.batches)


@dataclass(frozen=True)
class Options:
    """How to replay."""

    methods: str = "all"
    model: str | None = None
    recompute: bool = False
    gradient: bool = True
    overrides: tuple[str, ...] = ()  # key.sub=value over the run's config


Stage = Callable[[str, int], Callable[[int], None]]  # (name, total) -> advance(count)


def _silent(name: str, total: int) -> Callable[[int], None]:
    return lambda count: None


def replay(source: str | Path, options: Options | None = None, stage: Stage = _silent) -> Replay:
    """Replay a run directory or one frozen batch. `stage` opens a progress bar.

    Methods with a memory (DCPO) start empty and keep it over the batches, in step order. Credit is the one that enters
    the loss of the first mini-batch: methods that follow the ratio have been called once with the present log-probs.
    Raises ValueError for a source without frozen rollouts, damaged batches, unknown methods, and a model that does not
    fit.
    """
    options = options or Options()
    paths = find(source)
    first = thaw(paths[0])
    setting = Setting.of(override(copy.deepcopy(first.config), options.overrides))
    use_threads(setting.threads)
    entries = parse_methods(options.methods)
    methods, refused = make_methods(entries, setting.objective, setting.sampling.max_new_tokens)
    model = ReplayModel(setting, options.model)
    methods, needs = agreeing(_replayable(methods, first, model, refused), refused)
    model.show_views(needs.views)
    stored = _attached([first]) if options.recompute else frozenset(first.rollouts.signals)
    if any(view.weights == "reference" for method in methods for view in method.views(stored)):
        model.keep_reference()
    work = _Work(model, methods, refused, options, stage)
    batches = [work.batch(first if i == 0 else thaw(path)) for i, path in enumerate(paths)]
    return _result(Path(source), work, batches)


class _Work:
    """The methods still in the game, and what was measured of them."""

    def __init__(
        self, model: ReplayModel, methods: list[Method], refused: dict[str, str], options: Options, stage: Stage
    ) -> None:
        self.model, self.methods, self.refused = model, methods, refused
        self.options, self.stage = options, stage
        self.credit_seconds: dict[str, list[float]] = {m.label: [] for m in methods}
        self.pass_seconds: dict[str, list[float | None]] = {m.label: [] for m in methods}

    def batch(self, frozen: Frozen) -> BatchRecord:
        """Replay one batch."""
        self.methods = _replayable(self.methods, frozen, self.model, self.refused)
        weights = self.model.take_weights(frozen)
        began = time.perf_counter()
        advance = self.stage(f"step {frozen.step}: passes", len(frozen.rollouts))
        _, needs = agreeing(self.methods, {})
        follow = any(method.pipeline.updates_at_update for method in self.methods)
        scored = self.model.complete(frozen, needs, follow, recompute=self.options.recompute, advance=advance)
        seconds = time.perf_counter() - began
        kl = None if scored.mismatch is None else scored.mismatch.kl
        record = BatchRecord(frozen, weights, kl, scored.passes, seconds)
        advance = self.stage(f"step {frozen.step}: credit", len(self.methods))
        credits: dict[str, Credit] = {}
        for method in list(self.methods):
            try:
                credits[method.label] = self._credit(method, frozen, scored)
            except ValueError as error:
                if method.label == REFERENCE:
                    raise
                self._refuse(method, f"step {frozen.step}: {error}")
            advance(1)
        if self.options.gradient:
            self._gradients(frozen, scored, credits, record)
        kept = [m for m in self.methods if m.label in credits]
        record.credit = {m.label: _effective(credits[m.label]).cpu() for m in kept}
        for method in kept:
            cost = [scored.view_seconds.get(view) for view in method.views(_attached([frozen]))]
            self.pass_seconds[method.label].append(None if None in cost else sum(c for c in cost if c is not None))
        return record

    def _credit(self, method: Method, frozen: Frozen, scored: Scored) -> Credit:
        _synchronize()
        began = time.perf_counter()
        credit = method.pipeline(scored.rollouts, frozen.step, frozen.total_steps)
        if method.pipeline.updates_at_update:
            credit = method.pipeline.at_update(credit, scored.rollouts, scored.logprobs, scored.entropy)
        _synchronize()
        self.credit_seconds[method.label].append(time.perf_counter() - began)
        return credit

    def _gradients(self, frozen: Frozen, scored: Scored, credits: dict[str, Credit], record: BatchRecord) -> None:
        gradients = Gradients(self.model.policy)
        setting = self.model.setting
        advance = self.stage(f"step {frozen.step}: gradients", len(credits))
        for method in list(self.methods):
            if method.label not in credits:
                continue
            fill = partial(
                accumulate,
                self.model.policy,
                scored.prompts,
                scored.rollouts,
                credits[method.label],
                method.objective,
                temperature=setting.sampling.temperature,
                budget=setting.token_budget,
                progress=frozen.step / frozen.total_steps,
            )
            try:
                record.directions[method.label] = gradients.compare(fill)
            except ValueError as error:
                if method.label == REFERENCE:
                    raise
                self._refuse(method, f"step {frozen.step}: {error}")
                del credits[method.label]
            advance(1)

    def _refuse(self, method: Method, why: str) -> None:
        self.methods.remove(method)
        self.refused[method.label] = why


def _replayable(methods: Sequence[Method], frozen: Frozen, model: ReplayModel, refused: dict[str, str]) -> list[Method]:
    kept = []
    for method in methods:
        why = obstacle(method, frozen.rollouts, model.policy.view_prompts)
        if why is None:
            kept.append(method)
        else:
            refused[method.label] = why
    return kept


def _attached(batches: Sequence[Frozen]) -> frozenset[str]:
    """Signals that were attached while sampling. One that a pass can make is a cost of its method, stored or not."""
    return frozenset(name for b in batches for name in b.rollouts.signals if name not in names("signal"))


def _effective(credit: Credit) -> Tensor:
    """[B,T]: the advantage where the token is in the loss, else 0."""
    return torch.where(credit.loss_mask, credit.advantages, torch.zeros_like(credit.advantages))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _result(source: Path, work: _Work, batches: list[BatchRecord]) -> Replay:
    """Numbers over all batches, of the methods that went through all of them."""
    columns = []
    for method in work.methods:
        columns.append(torch.cat([b.credit[method.label][b.frozen.rollouts.mask].double() for b in batches]))
    cosines, ranks = matrix(columns, cosine), matrix(columns, rank_correlation)
    assert work.methods[0].label == REFERENCE
    given = _attached([b.frozen for b in batches])
    rows = []
    for i, method in enumerate(work.methods):
        found = [b.directions[method.label] for b in batches if method.label in b.directions]
        defined = [d for d in found if d.cosine is not None]
        seconds = work.pass_seconds[method.label]
        rows.append(
            Row(
                label=method.label,
                pipeline=method.spelled,
                shares=shares(columns[i], columns[0]),
                cosine=cosines[i][0],
                rank=ranks[i][0],
                gradient_cosine=statistics.fmean(d.cosine for d in defined) if defined else None,  # type: ignore[misc]
                gradient_norm=statistics.fmean(d.norm / d.reference_norm for d in defined) if defined else None,
                passes=method.extra_passes(given),
                credit_seconds=statistics.fmean(work.credit_seconds[method.label]),
                pass_seconds=None if None in seconds else statistics.fmean(s for s in seconds if s is not None),
                notes=_notes(method, found),
            )
        )
    return Replay(source, batches, rows, cosines, ranks, work.refused, _remarks(work, batches), work.model)


def _notes(method: Method, found: Sequence[Direction]) -> list[str]:
    notes = list(method.notes)
    zero = sum(d.cosine is None for d in found)
    if zero:
        notes.append(f"no gradient to compare in {zero} of {len(found)} batches (it or GRPO's is 0)")
    fixed = method.pipeline.ratio
    if fixed is not None and fixed != method.objective.ratio.name:
        notes.append(f"gradient under the ratio {fixed!r}, which the method fixes")
    return notes


def _remarks(work: _Work, batches: Sequence[BatchRecord]) -> list[str]:
    remarks = []
    far = [b for b in batches if b.kl is not None and b.kl > 0.01]
    if far:
        steps = ", ".join(str(b.frozen.step) for b in far)
        worst = max(b.kl for b in far if b.kl is not None)
        remarks.append(
            f"The model is not the one that sampled step {steps}: KL(sampler || model) up to {worst:.3g} nats per "
            "token. Gradients are importance-weighted and clipped accordingly; a checkpoint of the same step "
            "(checkpoint.every) or --model brings the two together."
        )
    for b in batches:
        for name, count in b.frozen.left_out.items():
            remarks.append(f"Step {b.frozen.step}: the field {name!r} of {count} samples could not be stored.")
    return remarks
