"""Which pipelines a replay compares, and what each of them would cost a run of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from mmcredit import config, yaml_values
from mmcredit.components import Needs, build, lookup, names
from mmcredit.config import ObjectiveBlock
from mmcredit.config_files import find, merge, read_yaml
from mmcredit.credit import Pipeline
from mmcredit.objective import Objective
from mmcredit.policy.passes import CLEAN
from mmcredit.signals.plan import plan_scores
from mmcredit.train.update import UPDATE_PASSES, signals_for_update

if TYPE_CHECKING:
    from mmcredit.policy.passes import View
    from mmcredit.rollouts import Rollouts

REFERENCE = "grpo"  # every number that compares, compares with it
_RECIPE = "recipe:"


@dataclass
class Method:
    """One row of a replay: a credit pipeline with memory of its own, and the loss its gradient is taken of."""

    label: str
    credit: list[Any]  # config entries
    objective: Objective  # without regularizers: they do not depend on credit, and all methods would share them
    pipeline: Pipeline
    full: Objective = field(repr=False)  # with regularizers: what a run of its own would pay for
    notes: list[str] = field(default_factory=list)  # what of a recipe does not apply to frozen rollouts

    @property
    def spelled(self) -> str:
        """The pipeline in words."""
        return " + ".join(method.name for method in self.pipeline.methods)

    def extra_passes(self, given: Collection[str] = ()) -> tuple[str, ...]:
        """Passes this method adds to a run of its own, over an on-policy GRPO run (which scores nothing beforehand).

        `given`: signals that come with the rollouts. A pass repeated at every mini-batch, or run beside the update,
        is marked so.
        """
        needs = self.pipeline.needs() | self.full.needs()
        update = signals_for_update(self.full.needs())
        signals = tuple(dict.fromkeys([*needs.signals, *update]))
        plan = plan_scores(replace(needs, signals=signals), on_policy=True, given=given)
        found = [view.label for view in plan.views]
        if self.pipeline.updates_at_update:
            found.append("clean (each mini-batch)")
        for name in self.full.needs().passes:
            if name in update:
                continue
            if name in UPDATE_PASSES:
                found += [f"{p.view.label} (update)" for p in UPDATE_PASSES[name][0] if p.view != CLEAN]
            else:
                found.append(f"{name} (update)")
        return tuple(dict.fromkeys(found))

    def views(self, given: Collection[str] = ()) -> tuple[View, ...]:
        """The views its signals are read from, as far as the rollouts do not carry them."""
        return plan_scores(self.pipeline.needs(), on_policy=True, given=given).views


def parse(text: str) -> list[Any]:
    """The entries of ``--methods``, flow-style YAML: names, ``recipe:NAME``, {name: fields}, or [pipeline, in, order].

    >>> parse("grpo, {pgpo: {tau: 0.2}}, [rloo, forking_tokens], recipe:dapo")
    ['grpo', {'pgpo': {'tau': 0.2}}, ['rloo', 'forking_tokens'], 'recipe:dapo']

    ``all`` stands for every registered credit method. Raises ValueError for text that is no such list.
    """
    try:
        entries = yaml_values.read(f"[{text}]")
    except yaml.YAMLError as error:
        raise ValueError(f"--methods {text!r} cannot be read: {' '.join(str(error).split())}") from None
    found: list[Any] = []
    for entry in entries:
        if not isinstance(entry, str | Mapping | list) or not entry:
            raise ValueError(
                f"--methods holds {entry!r}; an entry is a name, recipe:NAME, {{name: {{field: value}}}} or [a, list]"
            )
        found += names("credit") if entry == "all" else [entry]
    return found


def make_methods(
    entries: Sequence[Any], objective: Mapping[str, Any], max_new_tokens: int
) -> tuple[list[Method], dict[str, str]]:
    """The methods of `entries`, GRPO first, and label -> reason for those that cannot be built without fields.

    `objective`: the run's block; a recipe's own is laid over it. A method that reshapes advantages is put behind GRPO.
    Entries that build the same twice are taken once. Raises ValueError for unknown names and fields.
    """
    made: dict[str, Method] = {}
    refused: dict[str, str] = {}
    for entry in [REFERENCE, *entries]:
        label, block, notes = _label(entry), objective, []
        if isinstance(entry, str) and entry.startswith(_RECIPE):
            recipe = read_yaml(find(entry.removeprefix(_RECIPE), "configs/methods"))
            credit = recipe.get("credit", [REFERENCE])
            block = merge(objective, recipe.get("objective", {}))
            notes = _not_applied(recipe)
        elif isinstance(entry, list):
            credit = entry
        else:
            name = entry if isinstance(entry, str) else next(iter(entry))
            cls = lookup("credit", name)
            if isinstance(entry, str) and any(info.is_required() for info in cls.model_fields.values()):
                wanted = [key for key, info in cls.model_fields.items() if info.is_required()]
                refused[label] = f"needs a value for {', '.join(wanted)}: write {{{name}: {{{wanted[0]}: ...}}}}"
                continue
            credit = [entry] if build("credit", entry).starts else [REFERENCE, entry]  # type: ignore[attr-defined]
        if label not in made:
            full = make_objective(block, max_new_tokens)
            bare = make_objective({**block, "regularizers": []}, max_new_tokens)
            made[label] = Method(label, list(credit), bare, Pipeline(credit), full, notes)
    return list(made.values()), refused


def make_objective(block: Mapping[str, Any], max_new_tokens: int) -> Objective:
    """An objective from a config block, with the response limit where its aggregate wants one. Raises ValueError."""
    fields = dict(config.block(ObjectiveBlock, block, "objective"))
    if fields["mismatch"] is None:
        del fields["mismatch"]
    objective = Objective(**fields)
    if getattr(objective.aggregate, "max_length", 0) is None:
        objective.aggregate = objective.aggregate.model_copy(update={"max_length": max_new_tokens})
    return objective


def agreeing(methods: Sequence[Method], refused: dict[str, str]) -> tuple[list[Method], Needs]:
    """The methods whose needs can be met by one set of passes, and the union of these needs.

    A method that wants a signal or view with other settings than one before it goes to `refused`: it has to be
    replayed in a call of its own.
    """
    kept: list[Method] = []
    union = Needs()
    for method in methods:
        try:
            union = union | method.pipeline.needs() | method.objective.needs()
        except ValueError as error:
            refused[method.label] = (
                f"cannot share its passes with a method before it ({error}); replay it in a call of its own"
            )
            continue
        kept.append(method)
    return kept, union


def obstacle(
    method: Method, rollouts: Rollouts, known_views: Collection[str], given: Collection[str] = ()
) -> str | None:
    """Why frozen rollouts cannot be given to this method, or None.

    `known_views`: names of views that the policy can show; `given`: signals that will be attached. What was attached
    while sampling (probes, trees, prefix continuations) cannot be made afterwards: it must be in the rollouts.
    """
    needs = method.pipeline.needs() | method.objective.needs()
    for name in needs.signals:
        if name in rollouts.signals or name in given:
            continue
        if name not in names("signal"):
            if judges := [v for v in names("verifier") if name in lookup("verifier", v).gives]:  # type: ignore[attr-defined]
                return f"needs the signal {name!r}, which a verifier gives (verifiers: {', '.join(judges)})"
            makers = [s for s in names("strategy") if name in lookup("strategy", s).gives]  # type: ignore[attr-defined]
            how = f", which the strategy {makers[0]!r} attaches while sampling" if makers else ""
            return f"needs the signal {name!r}{how}; these rollouts do not carry it"
        for view in plan_scores(Needs(signals=(name,), settings=needs.settings), on_policy=True).views:
            if view.name not in ("clean", "blind", *known_views):
                return f"needs the signal {name!r}, read from the view {view.name!r}, which this policy cannot show"
    for part in needs.reward_parts:
        if part not in rollouts.reward_parts:
            return f"needs the reward part {part!r}; these rollouts have {', '.join(rollouts.reward_parts) or 'none'}"
    if needs.segments and rollouts.segments is None:
        return "needs segments, which these rollouts do not carry"
    if needs.sampler_logprobs and rollouts.sampler_logprobs is None:
        return "needs the sampler's log-probs, which these rollouts do not carry"
    return None


def _not_applied(recipe: Mapping[str, Any]) -> list[str]:
    names = [f"regularizer {_label(r)}" for r in recipe.get("objective", {}).get("regularizers", [])]
    names += [f"sampling by {_label(s)}" for s in recipe.get("rollout", {}).get("strategies", [])]
    return [f"left out: {', '.join(names)}"] if names else []


def _label(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, list):
        return " + ".join(_label(item) for item in entry)
    name, fields = next(iter(entry.items()))
    shown = ", ".join(f"{key}={value}" for key, value in (fields or {}).items())
    return f"{name}({shown})" if shown else str(name)
