"""Passes over packed or padded rows: what views show, which weights they run under, and what is read off them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcredit.policy import scores, shown
from mmcredit.policy.attention_entropy import Recorder
from mmcredit.policy.forward import Body, LayoutName
from mmcredit.policy.layout import Row
from mmcredit.policy.passes import Pass, View
from mmcredit.policy.prompt import Prompt
from mmcredit.policy.shown import MakePrompt
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from mmcredit.policy.config import ModelConfig
    from mmcredit.policy.costs import Costs
    from mmcredit.policy.scope import Scope

Scores = dict[View, dict[str, Tensor]]
Viewed = tuple[Tensor, Tensor | None]


@dataclass
class Runner:
    """Runs the passes of a `Policy`; its fields are the policy's."""

    model: Any
    body: Body
    config: ModelConfig
    costs: Costs
    suppressed_ids: tuple[int, ...]
    adapters: bool
    reference: Body | None = None
    view_prompts: dict[str, MakePrompt] = field(default_factory=dict)
    layout: LayoutName | None = None  # in use; `Policy.layout` chooses it before the first pass

    def wanted(self, passes: Sequence[Pass]) -> dict[View, frozenset[str]]:
        wanted: dict[View, frozenset[str]] = {}
        for item in passes:
            for name in item.outputs:
                if not scores.known_outputs(name):
                    known = ", ".join(sorted(scores.PER_TOKEN | scores.FROM_BODY | {"kl_to:VIEW"}))
                    raise ValueError(f"a pass asks for the unknown output {name!r}; known: {known}")
            wanted[item.view] = wanted.get(item.view, frozenset()) | item.outputs
        return wanted

    def rows(self, prompts: Sequence[Prompt], rollouts: Rollouts, rows: Sequence[int]) -> list[Row]:
        groups, lengths = rollouts.group.tolist(), rollouts.valid.sum(1).tolist()
        tokens = rollouts.tokens.cpu()
        inserted = rollouts.inserted or ((),) * len(rollouts)
        return [Row(prompts[groups[i]], tokens[i, : lengths[i]], groups[i], inserted[i]) for i in rows]

    def run(
        self,
        prompts: Sequence[Prompt],
        rollouts: Rollouts,
        rows: Sequence[int],
        wanted: Mapping[View, frozenset[str]],
        temperature: float,
        scope: Scope | None = None,
    ) -> tuple[Scores, tuple[Tensor, Tensor]]:
        """Outputs [N] of the scored tokens of `rows`, and where they stand: (index into rows, column), both [N].
        `scope`: of a forward that all ranks make in step."""
        lengths = [int(n) for n in rollouts.valid.sum(1)[torch.tensor(list(rows), device=rollouts.tokens.device)]]
        inside = [i for i, n in enumerate(lengths) if n > 0]
        if not inside:
            raise ValueError(f"responses {list(rows)} have no tokens to score; leave them out (micro_batches does)")
        batch = self.rows(prompts, rollouts, [rows[i] for i in inside])
        columns = [row.scored.nonzero()[:, 0] for row in batch]
        row_of = torch.cat([torch.full((len(own),), i) for i, own in zip(inside, columns, strict=True)])
        column = torch.cat(columns)
        targets = {v: [t for n in names if (t := scores.target_view(v, n)) is not None] for v, names in wanted.items()}
        views = list(dict.fromkeys([*wanted, *(t for found in targets.values() for t in found)]))
        views.sort(key=lambda v: v.name != "clean")  # blind rows without media take over the clean states
        hidden: dict[View, Tensor] = {}
        there: dict[View, Tensor | None] = {}
        recorders: dict[View, Recorder] = {}
        for view in views:
            recorded = [n for n in wanted.get(view, ()) if scores.from_body(n) and n != "head_input"]
            if recorded:
                recorders[view] = Recorder.of(recorded, self.body.config)
            clean = None if recorded else hidden.get(View(weights=view.weights))
            hidden[view], there[view] = self._view(view, batch, clean, recorders.get(view), scope)
        target = torch.cat([r.targets for r in batch]).to(self.body.device)
        found = self.read(hidden, target, wanted, temperature, scope)
        for view, recorder in recorders.items():
            found[view] |= recorder.values
        for view, outputs in found.items():
            for name, values in outputs.items():
                sides = (view, scores.target_view(view, name) or view)
                outputs[name] = shown.blanked(values, [there[side] for side in sides])
        return found, (row_of, column)

    def _view(
        self, view: View, rows: list[Row], clean: Tensor | None, recorder: Recorder | None, scope: Scope | None
    ) -> Viewed:
        """States [N,d] of one view; and [N] bool, the tokens that it has a prompt for (None: all)."""
        assert self.layout is not None
        blind = view.name == "blind"
        seen = shown.of_view(view, rows, self.view_prompts)
        rest, there = clean, seen.picked
        if blind and clean is not None:
            seen = shown.with_media(rows)
        elif clean is not None and there is None:
            seen = shown.changed(rows, seen.rows)  # a view that shows the clean prompt has the clean states
        elif there is not None:
            size = (there.shape[0], int(self.body.config.hidden_size))
            rest = torch.zeros(size, dtype=self.body.embed.weight.dtype, device=self.body.device)
        states = idle = None
        run = bool(seen.rows) if scope is None else scope.any([bool(seen.rows)])[0]
        if run:
            body, weights = self._weights(view)
            with weights, torch.no_grad() if view.frozen else nullcontext():
                states = body.hidden(
                    seen.rows or rows[:1],
                    blind=blind,
                    layout=self.layout,
                    weights=view.weights,
                    cost=self.costs.of(view),
                    backward=4 if self.config.gradient_checkpointing else 3,
                    recorder=recorder if seen.rows else None,
                    scope=scope if body is self.body else None,
                )
        if run and not seen.rows:  # another rank has rows of this view
            states, idle = None, states
        if recorder is not None:
            seen.spread_recorded(recorder)
        found = seen.spread(states, rest)
        return found if idle is None else found + 0 * idle.sum(), there

    def _weights(self, view: View) -> tuple[Body, AbstractContextManager[Any]]:
        if view.weights == "policy":
            return self.body, nullcontext()
        if self.reference is not None:
            return self.reference, nullcontext()
        if self.adapters:
            model: Any = self.model
            return self.body, model.disable_adapter()
        raise ValueError(
            "a pass asks for the reference model, but there is none: set Policy.reference (keep_reference()), or train "
            "with model.lora, whose base weights are the reference"
        )

    def read(
        self,
        hidden: Mapping[View, Tensor],
        target: Tensor,
        wanted: Mapping[View, frozenset[str]],
        temperature: float,
        scope: Scope | None,
    ) -> Scores:
        if not temperature > 0:
            raise ValueError(f"temperature of scores must be positive, got {temperature} (rollout.temperature)")
        heads = {view: self._head(view) for view in hidden}
        if scope is not None:
            gathered = scope.head()
            heads = {view: gathered if head is self.body.head else head for view, head in heads.items()}
        return scores.token_scores(
            hidden,
            heads,
            target,
            wanted,
            vocabulary=self.body.vocabulary,
            temperature=temperature,
            suppressed=torch.tensor(self.suppressed_ids, dtype=torch.int64, device=target.device),
        )

    def _head(self, view: View) -> Callable[[Tensor], Tensor]:
        if view.weights == "policy":
            return self.body.head
        if self.reference is not None:
            return self.reference.head
        head: Any = self.body.head
        return getattr(head, "base_layer", head)  # without its adapter, if it has one
