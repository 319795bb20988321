"""Corrupted views in an update, within the memory of one micro-batch.

A regularizer may couple the views of a response (the worst one per token), so its term needs all of them at once.

`together`: micro-batches of 1/K of the token budget, the graphs of all K views in memory, one forward per view. Taken
where every prompt with its responses fits into such a part.

`in turn`, otherwise, one graph at a time: the gradient of the loss in the log-probs of view k is a plain number per
token, known once the values of all views are. So (1) a forward without gradient per view gives the values; (2) the loss
is computed with them as leaves, together with the clean graph; (3) each view is run again, with gradient, and the sum
of its log-probs times those numbers is differentiated: the chain rule, exact for any term. In (3) a response runs only
under views that have a number other than 0 for it; with one view per response that is cheaper than `together`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from mmcredit.objective.base import Regularizer, RegularizerInputs
from mmcredit.policy.passes import CLEAN, Pass, View, corrupted

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.objective import Objective
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Credit, Rollouts
    from mmcredit.train.engine import TrainingEngine

# Passes of the views, [K,B,T] each, and the output of a view they are stacked from. The second is the exact
# KL(clean || view), constant on the clean side.
VIEW_PASSES = {"view_logprobs": "logprobs", "view_kl": "reverse_kl_to:anchor"}

Prepared = Sequence[dict[str, "Tensor"]]


@dataclass
class Part:
    """An optimizer mini-batch, or a part of one."""

    rollouts: Rollouts
    credit: Credit
    weights: Tensor
    prepared: Prepared
    progress: float

    def select(self, rows: Tensor) -> Part:
        """The responses `rows`."""
        own = [{name: value[rows] for name, value in one.items()} for one in self.prepared]
        return Part(self.rollouts.select(rows), self.credit.select(rows), self.weights[rows], own, self.progress)


class ViewPasses:
    """The corrupted views of an objective's regularizers."""

    def __init__(
        self, policy: Policy, engine: TrainingEngine, objective: Objective, *, token_budget: int, temperature: float
    ) -> None:
        self.policy, self.engine, self.objective = policy, engine, objective
        self.token_budget, self.temperature = token_budget, temperature
        needs = objective.needs()
        self.names = [name for name in needs.passes if name in VIEW_PASSES]
        self.count = int(needs.settings["view_logprobs"]["views"]) if self.names else 0
        own = [(place, r.needs().passes) for place, r in enumerate(objective.regularizers)]
        self.readers = [place for place, passes in own if set(passes) & set(VIEW_PASSES)]
        self._only_views = all(set(own[place][1]) <= set(VIEW_PASSES) for place in self.readers)

    def __bool__(self) -> bool:
        return bool(self.readers)

    def regularizer(self, place: int) -> Regularizer:
        """The regularizer at a position of the objective."""
        return self.objective.regularizers[place]

    def open(self, prompts: Sequence[Prompt], part: Part) -> MiniBatchViews:
        """Look at the views of a mini-batch. Changes `part.prepared` where the views show the clean prompt, or where a
        regularizer wants to see the values of the whole mini-batch."""
        rows = self._rows(part)
        same = self._same(prompts, part.rollouts, rows)
        for place in self.readers:
            own = part.prepared[place]
            own.update(self.regularizer(place).unchanged(own, same.all(0)))
        rows = self._rows(part)
        together = not bool(same[:, rows].any()) and self._may_run_together() and self._fit(prompts, part, rows)
        views = MiniBatchViews(self, prompts, part, same, rows, together)
        if not together:
            views.read_values()
            self._look(prompts, part, views)
        return views

    def _may_run_together(self) -> bool:
        """Whether the term can be computed after the clean graph is gone, and that is not the dearer way."""
        own = [self.regularizer(place) for place in self.readers]
        later = self._only_views and all(r.clean_is_constant and not r.sees_whole_batch for r in own)
        return later and (self.count == 1 or not all(r.one_view_per_response for r in own))

    def _fit(self, prompts: Sequence[Prompt], part: Part, rows: Tensor) -> bool:
        """Whether no prompt has to be split to run K graphs in the memory of one."""
        if self.count == 1:
            return True
        lengths, groups = part.rollouts.valid.sum(1).tolist(), part.rollouts.group.tolist()
        chosen = rows.nonzero()[:, 0].tolist()
        shared = self.policy.layout(prompts, part.rollouts) == "shared"
        sizes: dict[int, int] = {}
        for row in chosen:
            key = groups[row] if shared else row
            sizes[key] = sizes.get(key, len(prompts[groups[row]])) + lengths[row]
        return max(sizes.values(), default=0) <= self.token_budget // self.count

    def _rows(self, part: Part) -> Tensor:
        """[B] bool: responses whose term is not 0 whatever the policy says."""
        rows = torch.zeros(len(part.rollouts), dtype=torch.bool, device=part.weights.device)
        for place in self.readers:
            rows = rows | part.prepared[place]["rows"]
        return rows

    def _same(self, prompts: Sequence[Prompt], rollouts: Rollouts, rows: Tensor) -> Tensor:
        """[K,B] bool: view k shows the clean prompt of the response. Views of other responses are not made."""
        same = torch.ones(self.count, len(rollouts), dtype=torch.bool)
        groups = rollouts.group.tolist()
        for k in range(self.count):
            view = corrupted(k)
            for row in rows.nonzero()[:, 0].tolist():
                prompt = prompts[groups[row]]
                same[k, row] = self.policy.view_prompts[view.name](view, prompt) is prompt
        return same.to(rows.device)

    def _look(self, prompts: Sequence[Prompt], part: Part, views: MiniBatchViews) -> None:
        lookers = [place for place in self.readers if self.regularizer(place).sees_whole_batch]
        chosen = views.rows.nonzero()[:, 0]
        if not lookers or not len(chosen):
            return
        wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
        found = self.policy.score(prompts, part.rollouts.select(chosen), wanted, temperature=self.temperature)
        logprobs = torch.zeros(part.rollouts.tokens.shape, device=chosen.device)
        logprobs[chosen] = found[CLEAN]["logprobs"]
        for place in lookers:
            inputs = views.inputs(place, part, logprobs, views.whole(logprobs))
            part.prepared[place].update(self.regularizer(place).look(inputs))

    def forward(
        self, prompts: Sequence[Prompt], rollouts: Rollouts, rows: Tensor, views: Sequence[View]
    ) -> dict[str, Tensor]:
        """[len(views),b,T] per pass name, with gradient: views of the responses `rows`."""
        asked = [Pass(view, frozenset(VIEW_PASSES[name] for name in self.names)) for view in views]
        found = self.policy.forward(prompts, rollouts, rows.tolist(), asked, temperature=self.temperature)
        return {name: torch.stack([found[view][VIEW_PASSES[name]] for view in views]) for name in self.names}


@dataclass
class MiniBatchViews:
    """The views of one mini-batch on their way through its micro-batches."""

    stage: ViewPasses
    prompts: Sequence[Prompt]
    part: Part
    same: Tensor  # [K,B] bool
    rows: Tensor  # [B] bool, responses whose views are looked at
    together: bool  # the term is computed in `backward`, with the graphs of all views
    values: dict[str, Tensor] = field(default_factory=dict)  # [K,B,T] per pass, 0 where no view was run
    gradients: dict[str, Tensor] = field(default_factory=dict)  # of the loss in `values`
    _leaves: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = self.part.rollouts.tokens
        for name in self.stage.names:
            shape = (self.stage.count, *tokens.shape)
            self.values[name] = torch.zeros(shape, device=tokens.device)
            self.gradients[name] = torch.zeros(shape, device=tokens.device)

    @property
    def without(self) -> Sequence[int]:
        """Regularizers that the loss of a micro-batch leaves out: `backward` adds them."""
        return self.stage.readers if self.together else ()

    def read_values(self) -> None:
        """In turn, (1): the values of every view that differs from the clean prompt."""
        stage = self.stage
        for k in range(stage.count):
            chosen = (self.rows & ~self.same[k]).nonzero()[:, 0]
            if not len(chosen):
                continue
            asked = [Pass(corrupted(k), frozenset(VIEW_PASSES[name] for name in stage.names))]
            picked = self.part.rollouts.select(chosen)
            found = stage.policy.score(self.prompts, picked, asked, temperature=stage.temperature)[corrupted(k)]
            for name in stage.names:
                self.values[name][k, chosen] = found[VIEW_PASSES[name]]

    def given(self, rows: Tensor, current: Tensor) -> dict[str, Tensor]:
        """In turn, (2): the passes of a micro-batch, as leaves; a view that is the clean prompt has the clean log-probs
        `current` [b,T], graph and all."""
        if self.together:
            return {}
        self._leaves = {name: value[:, rows].requires_grad_() for name, value in self.values.items()}
        return self._filled(self._leaves, self.same[:, rows], current)

    @staticmethod
    def _filled(values: Mapping[str, Tensor], same: Tensor, clean: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, value in values.items():
            own = clean[None].to(value.dtype) if name == "view_logprobs" else torch.zeros_like(value)
            found[name] = torch.where(same[..., None], own, value)
        return found

    def keep(self, rows: Tensor) -> None:
        """After the backward of a micro-batch, in turn: what the loss has for the leaves."""
        for name, leaf in self._leaves.items():
            if leaf.grad is not None:
                self.gradients[name][:, rows] = leaf.grad / self.stage.engine.loss_scale
        self._leaves = {}

    def backward(self, logprobs: Tensor) -> None:
        """The gradient of every view. `logprobs` [B,T]: the clean ones, detached."""
        if self.together:
            self._backward_together(logprobs)
            return
        self.stage.policy.world.totals(self.gradients)
        for k in range(self.stage.count):
            chosen = torch.stack([(g[k] != 0).any(1) for g in self.gradients.values()]).any(0)
            for rows, counts in self._micro_batches(chosen, self.stage.token_budget):
                found = self.stage.forward(self.prompts, self.part.rollouts, rows, [corrupted(k)])
                parts = [(self.gradients[name][k, rows] * value[0]).sum() for name, value in found.items()]
                self.stage.engine.backward(torch.stack(parts).sum() if counts else 0 * torch.stack(parts).sum())

    def _backward_together(self, logprobs: Tensor) -> None:
        stage = self.stage
        views = [corrupted(k) for k in range(stage.count)]
        for rows, counts in self._micro_batches(self.rows, stage.token_budget // stage.count):
            part = self.part.select(rows)
            found = stage.forward(self.prompts, self.part.rollouts, rows, views)
            terms = [
                stage.regularizer(place)(self.inputs(place, part, logprobs[rows], found)).loss
                for place in stage.readers
            ]
            stage.engine.backward(torch.stack(terms).sum() if counts else 0 * torch.stack(terms).sum())
            if not counts:
                continue
            for name, value in found.items():
                self.values[name][:, rows] = value.detach().to(self.values[name].dtype)
        stage.policy.world.totals(self.values)

    def _micro_batches(self, chosen: Tensor, budget: int) -> Iterator[tuple[Tensor, bool]]:
        """Rows of each of this rank's micro-batches of the responses `chosen` [B] bool, and whether it counts."""
        index = chosen.nonzero()[:, 0]
        if len(index):
            picked = self.part.rollouts.select(index)
            policy, in_step = self.stage.policy, self.stage.engine.in_step
            for micro, counts in policy.own_micro_batches(self.prompts, picked, budget=max(1, budget), in_step=in_step):
                yield index[torch.as_tensor(micro.rows, device=index.device)], counts

    @staticmethod
    def inputs(place: int, part: Part, logprobs: Tensor, passes: Mapping[str, Tensor]) -> RegularizerInputs:
        """What a regularizer sees of a part."""
        return RegularizerInputs(
            logprobs, part.rollouts, part.credit, passes, part.weights, part.prepared[place], part.progress
        )

    def whole(self, logprobs: Tensor) -> dict[str, Tensor]:
        """[K,B,T] per pass, detached, of the whole mini-batch; `logprobs` [B,T] are the clean ones."""
        return self._filled(self.values, self.same, logprobs)
