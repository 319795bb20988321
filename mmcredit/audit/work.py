"""The batches of an audit: the model that goes on from them, their truth, every method's credit and its gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save

from mmcredit.audit import gradients, truth
from mmcredit.audit.bench import Bench
from mmcredit.audit.collect import DENSE, GOES_ON, TREE_GROUP, TREES, plain_config
from mmcredit.audit.estimate import Plan
from mmcredit.audit.truth import Truth, find_truth
from mmcredit.components import build, build_all, lookup
from mmcredit.config import parse
from mmcredit.prepare import make_pool
from mmcredit.replay.methods import REFERENCE, Method, agreeing, make_methods, obstacle
from mmcredit.replay.methods import parse as parse_methods
from mmcredit.replay.model import ReplayModel, Scored, Setting, use_threads
from mmcredit.report.files import replace_file
from mmcredit.rollouts import Credit
from mmcredit.verifiers.background import Verifying
from mmcredit.verifiers.base import RunContext

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.frozen import Frozen
    from mmcredit.objective import Objective
    from mmcredit.rollouts import Rollouts

    Stage = Callable[[str, int], Callable[[int], None]]

HALVES = ("half 0", "half 1")  # of the truth, as gradients
RANDOM = "random"
TRUTHS, GRADIENTS = "truth", "gradients"


@dataclass(frozen=True)
class Options:
    """How to audit. `prompts`, `batch`, `regroup` and `dense` only matter where rollouts are sampled."""

    methods: str = "all"
    prompts: int = 200
    batch: int = 16  # prompts per batch: the batch over which methods take their statistics
    regroup: int = 2  # independent groups per prompt
    dense: int = 32  # continuations before every token for the second SPO-chain row; 0 = no such row
    plan: Plan | None = field(default_factory=Plan)  # None: exact
    gradient: bool = True
    model: str | None = None
    trees: bool = True  # SPO-trees of the same prompts, for spo_tree

    def __post_init__(self) -> None:
        for name in ("prompts", "batch", "regroup"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.dense < 0:
            raise ValueError(f"--dense must be at least 0, got {self.dense}")


@dataclass
class Audited:
    """One batch: tokens with their truth and every credit. N tokens, M groups per prompt."""

    frozen: Frozen
    truth: Truth
    group: NDArray[np.int64]  # [B] which of the prompt's groups a response belongs to
    weights: str
    kl: float | None
    credit: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # label -> [N]
    parts: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # label -> [M,P,W]
    seconds: dict[str, float] = field(default_factory=dict)  # label -> credit and its own passes


class Work:
    """The model, the bench, and the methods still in the game."""

    def __init__(
        self,
        first: Frozen,
        folder: Path,
        options: Options,
        regroup: int,
        stage: Stage,
        verifiers: Sequence[Any] | None,
        left_out: Mapping[str, str],
        trees: bool,
    ) -> None:
        """`verifiers`: entries, None for those of the rollouts' config; `left_out`: strategy -> why there are none of
        its signals."""
        self.folder, self.options, self.regroup, self.stage = folder, options, regroup, stage
        own = parse(first.config)
        self.config = plain_config(own)
        setting = Setting.of(first.config)
        use_threads(setting.threads)
        entries = parse_methods(options.methods)
        methods, self.refused = make_methods(entries, setting.objective, setting.sampling.max_new_tokens)
        self.dense: str | None = None
        if f"{DENSE}boundary_index" in first.rollouts.signals:
            extra, _ = make_methods(
                [{"spo_chain": {"rho": 1.0, "whiten": "none"}}], setting.objective, setting.sampling.max_new_tokens
            )
            self.dense = f"spo_chain before every token, {options.dense} continuations"
            methods.append(replace(extra[-1], label=self.dense))
        self.model = ReplayModel(setting, options.model)
        self.methods: list[Method] = []
        self.tree: Method | None = None  # judged on rollouts of its own
        asked: list[Any] = build_all("verifier", own.verifiers if verifiers is None else verifiers)
        self.verified = frozenset(s for v in asked for s in v.gives) - set(first.rollouts.signals)
        for method in methods:
            if trees and self.tree is None and "parent_value" in method.pipeline.needs().signals:
                self.tree = method
            elif (why := obstacle(method, first.rollouts, self.model.policy.view_prompts, self.verified)) is None:
                self.methods.append(method)
            else:
                self.refused[method.label] = _why_not(method, first.rollouts, left_out) or why
        self.methods, needs = agreeing(self.methods, self.refused)
        self.model.show_views(needs.views)
        given = {*first.rollouts.signals, *self.verified}
        if any(v.weights == "reference" for m in self.methods for v in m.views(given)):
            self.model.keep_reference()
        engine: Any = build("engine", self.config.rollout.engine)
        self.engine = engine.open(self.model.policy)
        self.pool = make_pool(self.config)
        self._open = ExitStack()
        reacts: Any = None
        for strategy in build_all("strategy", self.config.rollout.strategies):
            if (found := strategy.reactions(self.model.policy)) is not None:  # type: ignore[attr-defined]
                reacts = self._open.enter_context(found)
        self.bench = Bench(self.model.policy, self.engine, self.pool, setting.sampling, setting.seed, reacts)
        chosen = [v for v in asked if set(v.gives) & self.verified]
        context = RunContext(self.model.policy.tokenizer, folder, setting.seed, setting.media)
        self.verifying = Verifying(chosen, context)
        self.sketch = gradients.Sketch(self.model.policy) if options.gradient else None

    def close(self) -> None:
        """End the workers."""
        self.verifying.close()
        self._open.close()
        self.pool.close()
        self.engine.close()

    def batch(self, frozen: Frozen, number: int, count: int) -> Audited:
        """One batch; its truth and gradients are read where they are there."""
        name = f"batch {number + 1} of {count}"
        weights = self.model.take_weights(frozen)
        if self.verifying:
            frozen = self._verified(frozen)
        found = self._truth(frozen, name, TRUTHS)
        group = _group_of_rows(frozen.rollouts, self.regroup)
        return self._audited(frozen, found, group, weights, self.methods, name, GRADIENTS)

    def tree_batch(self, frozen: Frozen, number: int, count: int) -> Audited:
        """One batch of trees, for the method that credits their edges."""
        assert self.tree is not None
        name = f"trees, batch {number + 1} of {count}"
        weights = self.model.take_weights(frozen)
        signals = frozen.rollouts.signals
        found = self._truth(frozen, name, f"{TREES}/{TRUTHS}", signals[GOES_ON].tolist())
        group = signals[TREE_GROUP].numpy()
        return self._audited(frozen, found, group, weights, [self.tree], name, f"{TREES}/{GRADIENTS}")

    def _verified(self, frozen: Frozen) -> Frozen:
        """With the signals of the verifiers, asked now about what was sampled then."""
        rollouts, policy = frozen.rollouts, self.model.policy
        assert rollouts.samples is not None
        texts = [policy.decode(t[keep].tolist()) for t, keep in zip(rollouts.tokens, rollouts.valid, strict=True)]
        self.verifying.begin()
        answered = self.verifying.collect(rollouts, rollouts.samples, texts)
        return replace(frozen, rollouts=rollouts.with_signals(answered.signals))

    def _audited(
        self,
        frozen: Frozen,
        found: Truth,
        group: NDArray[np.int64],
        weights: str,
        methods: list[Method],
        name: str,
        folder: str,
    ) -> Audited:
        follow = any(m.pipeline.updates_at_update for m in methods)
        _, needs = agreeing(methods, {})
        advance = self.stage(f"{name}: passes", len(frozen.rollouts))
        scored = self.model.complete(frozen, needs, follow, advance=advance)
        kl = None if scored.mismatch is None else scored.mismatch.kl
        made = Audited(frozen, found, group, weights, kl)
        credits = self._credits(frozen, scored, made, methods)
        shape = frozen.rollouts.tokens.shape
        for label, table in {m.label: credits[m.label] for m in methods if m.label in credits}.items():
            whole = np.zeros(tuple(shape), dtype=np.float32)
            for rows, (credit, _) in table:
                whole[rows] = torch.where(credit.loss_mask, credit.advantages, 0.0).float().cpu().numpy()
            made.credit[label] = whole[found.row, found.column]
        if self.sketch is not None:
            path = self.folder / folder / f"{frozen.path.name}.safetensors"
            made.parts = self._parts(frozen, scored, credits, made, name, path)
        return made

    def _truth(self, frozen: Frozen, name: str, folder: str, goes_on: Sequence[bool] | None = None) -> Truth:
        path = self.folder / folder / f"{frozen.path.name}.safetensors"
        known = truth.read(path)
        if known is not None:
            return known
        assert frozen.rollouts.samples is not None
        prompts = self.model.prompts(frozen)
        advance = self.stage(f"{name}: continuations", 0)
        began = time.perf_counter()
        samples = frozen.rollouts.samples
        found = find_truth(frozen.rollouts, prompts, samples, self.bench, self.options.plan, advance, goes_on)
        found.facts["seconds"] = time.perf_counter() - began
        truth.write(found, path)
        return found

    def _credits(
        self, frozen: Frozen, scored: Scored, made: Audited, methods: Sequence[Method]
    ) -> dict[str, list[tuple[NDArray[np.int64], tuple[Credit, Objective]]]]:
        """label -> per group of the prompts (rows, credit): each group is a batch of its own."""
        out: dict[str, list[tuple[Any, tuple[Credit, Objective]]]] = {}
        for part in range(self.regroup):
            rows = np.flatnonzero(made.group == part)
            rollouts = scored.rollouts.select(torch.from_numpy(rows))
            entropy = None if scored.entropy is None else scored.entropy[rows]
            for method in [m for m in methods if m.label not in self.refused]:
                given = self._with_dense(rollouts) if method.label == self.dense else rollouts
                began = time.perf_counter()
                try:
                    credit = method.pipeline(given, frozen.step, frozen.total_steps)
                    if method.pipeline.updates_at_update:
                        credit = method.pipeline.at_update(credit, given, scored.logprobs[rows], entropy)
                except ValueError as error:
                    if method.label == REFERENCE:
                        raise
                    self.refused[method.label] = f"step {frozen.step}: {error}"
                    continue
                spent = time.perf_counter() - began
                if part == 0:
                    views = method.views(frozen.rollouts.signals)
                    spent_views = sum(scored.view_seconds.get(v, 0.0) for v in views)
                    made.seconds[method.label] = spent + spent_views / self.regroup
                out.setdefault(method.label, []).append((rows, (credit, method.objective)))
        return {label: parts for label, parts in out.items() if len(parts) == self.regroup}

    @staticmethod
    def _with_dense(rollouts: Rollouts) -> Rollouts:
        names = ("boundary_index", "boundary_value")
        return rollouts.with_signals({n: rollouts.signals[f"{DENSE}{n}"] for n in names})

    def _parts(
        self, frozen: Frozen, scored: Scored, credits: dict[str, Any], made: Audited, name: str, path: Path
    ) -> dict[str, NDArray[np.float32]]:
        """label -> [M,P,W] gradients, and of the truth's halves and random credit."""
        assert self.sketch is not None
        found = made.truth
        known = load_file(str(path)) if path.is_file() else {}
        shape = frozen.rollouts.tokens.shape
        tables = {label: found.table(found.advantages.halves[:, half], shape) for half, label in enumerate(HALVES)}
        tables[RANDOM] = found.table(random_credit(frozen.step, len(found.row)), shape)
        wanted = [label for label in [*credits, *tables] if label not in known]
        if wanted:
            groups: list[dict[str, Any]] = []
            objective = self.methods[0].objective
            advance = self.stage(f"{name}: gradients", self.regroup * len(scored.prompts))
            for part in range(self.regroup):
                rows = np.flatnonzero(made.group == part)
                rollouts = scored.rollouts.select(torch.from_numpy(rows))
                chosen = {label: credits[label][part][1] for label in wanted if label in credits}
                for label in wanted:
                    if label in tables:
                        values = torch.from_numpy(tables[label][rows]).to(rollouts.tokens.device)
                        plain = Credit.empty(rollouts).replace(advantages=values, loss_mask=rollouts.mask)
                        chosen[label] = (plain, objective)
                groups.append(
                    gradients.prompt_gradients(
                        self.model.policy,
                        scored.prompts,
                        rollouts,
                        chosen,
                        self.sketch,
                        temperature=self.model.setting.sampling.temperature,
                        progress=frozen.step / frozen.total_steps,
                        advance=advance,
                    )
                )
            known |= {label: np.stack([g[label].numpy() for g in groups]) for label in wanted}
            replace_file(path, save(known))
        return {label: known[label] for label in [*credits, *tables]}


def _why_not(method: Method, rollouts: Rollouts, left_out: Mapping[str, str]) -> str | None:
    """Why the strategy could not be had that gives the first signal which is missing."""
    missing = next((s for s in method.pipeline.needs().signals if s not in rollouts.signals), None)
    for name, why in left_out.items():
        if missing in lookup("strategy", name).gives:  # type: ignore[attr-defined]
            return f"needs the strategy {name!r}, which this run cannot have: {why}"
    return None


def random_credit(step: int, count: int) -> NDArray[np.float64]:
    """[count] standard normal numbers: credit that knows nothing."""
    return np.random.default_rng([step, count]).normal(size=count)


def _group_of_rows(rollouts: Rollouts, regroup: int) -> NDArray[np.int64]:
    """[B] which of its prompt's `regroup` equal groups a response belongs to."""
    groups = rollouts.group.tolist()
    sizes: dict[int, int] = {}
    members = []
    for group in groups:
        members.append(sizes.get(group, 0))
        sizes[group] = members[-1] + 1
    return np.asarray([m * regroup // sizes[g] for m, g in zip(members, groups, strict=True)], dtype=np.int64)
