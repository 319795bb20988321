"""From what components need to the passes that are run, each once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.components import Needs, build
from mmcredit.policy.passes import CLEAN, Pass, View
from mmcredit.signals.base import Results, Signal, TokenSignal

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Rollouts


def merge(passes: Iterable[Pass]) -> tuple[Pass, ...]:
    """Passes of equal views become one, with the union of their outputs; clean first, then in order of appearance."""
    outputs: dict[View, frozenset[str]] = {}
    for item in passes:
        outputs[item.view] = outputs.get(item.view, frozenset()) | item.outputs
    ordered = sorted(outputs, key=lambda view: view != CLEAN)
    return tuple(Pass(view, outputs[view]) for view in ordered)


@dataclass(frozen=True)
class ScorePlan:
    """The no-gradient passes over one rollout batch, and the signals read from them."""

    passes: tuple[Pass, ...]
    signals: Mapping[str, Signal]
    old_logprobs: bool

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are run."""
        return tuple(p.view for p in self.passes)

    def read(self, results: Results) -> dict[str, Tensor]:
        """The signals, by name."""
        return {n: signal.read(results) for n, signal in self.signals.items() if not isinstance(signal, TokenSignal)}

    def of_tokens(self, rollouts: Rollouts, tokenizer: Any) -> dict[str, Tensor]:
        """The signals that are made of the sampled ids, by name."""
        own = {name: signal for name, signal in self.signals.items() if isinstance(signal, TokenSignal)}
        return {name: signal.make(rollouts, tokenizer) for name, signal in own.items()}


def plan_scores(needs: Needs, on_policy: bool, check_mismatch: bool = False, given: Collection[str] = ()) -> ScorePlan:
    """The passes a rollout batch needs before its update.

    When the update is on-policy (one mini-batch, one epoch) the old log-probs equal the first current ones: that
    pass is left out unless a component reads old log-probs, a signal already pays for the clean pass, or the
    mismatch between sampler and trainer is to be measured. Signals in `given` come with the batch already. Raises
    ValueError for a signal that nothing can compute.
    """
    signals: dict[str, Signal] = {}
    for name in needs.signals:
        if name in given:
            continue
        signal = build("signal", {name: needs.settings[name]} if name in needs.settings else name)
        assert isinstance(signal, Signal)
        signals[name] = signal
    passes = [p for signal in signals.values() for p in signal.passes()]
    clean = any(p.view == CLEAN for p in passes)
    old = needs.old_logprobs or not on_policy or check_mismatch or clean
    if old:
        passes.append(Pass(CLEAN, frozenset({"logprobs"})))
    return ScorePlan(merge(passes), signals, old)
