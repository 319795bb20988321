"""Run credit methods in order, and write down what each of them did."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import Component, Needs, build_all
from mmcredit.credit.base import CreditMethod, Step
from mmcredit.rollouts import Credit, Rollouts, Trace

if TYPE_CHECKING:
    from torch import Tensor

Spec = str | Mapping[str, Any] | CreditMethod


class Pipeline:
    """An ordered list of credit methods; the first turns rewards into advantages.

    Raises ValueError if the list is empty, if the first method does not start from rewards, if a later one does, or
    if two methods fix the ratio to different kinds.
    """

    def __init__(self, methods: Sequence[Spec]) -> None:
        self.methods: list[CreditMethod] = build_all("credit", methods)  # type: ignore[assignment]
        if not self.methods:
            raise ValueError("credit: the list of methods is empty; the plain choice is [grpo]")
        first, *rest = self.methods
        if not first.starts:
            raise ValueError(
                f"credit: {first.name!r} reshapes advantages and cannot stand first; put a method that turns rewards "
                "into advantages before it, for example grpo"
            )
        for method in rest:
            if method.starts:
                raise ValueError(
                    f"credit: {method.name!r} starts from rewards and would undo {first.name!r}; keep one of them"
                )
        fixed = {m.name: m.fixes_ratio for m in self.methods if m.fixes_ratio}
        if len(set(fixed.values())) > 1:
            said = ", ".join(f"{name} wants {ratio}" for name, ratio in fixed.items())
            raise ValueError(f"credit: two methods fix the ratio and disagree: {said}")
        self.ratio: str | None = next(iter(fixed.values()), None)

    def needs(self) -> Needs:
        """The union of what the methods need."""
        return _union(self.methods)

    def __call__(self, rollouts: Rollouts, step: int = 0, total_steps: int = 1) -> Credit:
        """Credit for the whole batch. Raises ValueError if a method gives credit to a token it may not."""
        with torch.no_grad():
            return self._run(rollouts, step, total_steps)

    def _run(self, rollouts: Rollouts, step: int, total_steps: int) -> Credit:
        credit = Credit.empty(rollouts).replace(ratio=self.ratio)
        trace: list[Trace] = []
        for method in self.methods:
            notes: dict[str, float] = {}
            began = time.perf_counter()
            with _named(method, credit, rollouts):
                after = method(credit, rollouts, Step(step, total_steps, notes))
                _verify(after, rollouts)
            seconds = time.perf_counter() - began
            weights = None if method.starts else _weights(credit, after)
            trace.append(Trace(method.name, seconds, weights, notes))
            credit = after
        return credit.replace(trace=tuple(trace))

    def at_update(self, credit: Credit, rollouts: Rollouts, logprobs: Tensor, entropy: Tensor | None) -> Credit:
        """Let the methods that follow the current ratio revise the credit of one optimizer mini-batch."""
        with torch.no_grad():
            for method in self.methods:
                if hasattr(method, "at_update"):
                    with _named(method, credit, rollouts):
                        after = method.at_update(credit, rollouts, logprobs.detach(), entropy)
                        if after is not credit:
                            _verify(after, rollouts)
                    credit = after
        return credit

    @property
    def updates_at_update(self) -> bool:
        """Whether any method asks for the current log-probs at every mini-batch."""
        return any(hasattr(m, "at_update") and m.acts_at_update for m in self.methods)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Memory of all methods, by position and name."""
        return {f"{i}.{m.name}": state for i, m in enumerate(self.methods) if (state := m.state_dict())}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back what `state_dict` gave. Raises ValueError for memory of a method that is not here."""
        here = {f"{i}.{m.name}": m for i, m in enumerate(self.methods)}
        for key, value in state.items():
            if key not in here:
                raise ValueError(f"credit state {key!r} does not belong to this pipeline ({', '.join(here)})")
            here[key].load_state_dict(value)


def assign_credit(
    rollouts: Rollouts,
    methods: Sequence[Spec],
    step: int = 0,
    total_steps: int = 1,
    state: dict[str, Any] | None = None,
) -> Credit:
    """Credit of each token under `methods`, a list of names or {name: fields}, applied in order.

    `state` is the memory of stateful methods: a dict that is read before and updated after the call; pass the same
    one at every step. Raises ValueError for an unknown method or field, and for a signal that is missing.

    >>> credit = assign_credit(rollouts, ["grpo", {"pgpo": {"tau": 0.4}}], step=0, total_steps=100)  # doctest: +SKIP
    """
    pipeline = Pipeline(methods)
    if state:
        pipeline.load_state_dict(state)
    credit = pipeline(rollouts, step, total_steps)
    if state is not None:
        state.update(pipeline.state_dict())
    return credit


def _union(components: Sequence[Component]) -> Needs:
    needs = Needs()
    for component in components:
        needs = needs | component.needs()
    return needs


@contextmanager
def _named(method: CreditMethod, credit: Credit, rollouts: Rollouts) -> Iterator[None]:
    """What goes wrong in a method, whatever it is, as one ValueError with the method's name and its line of code; and
    that it left its inputs as they were, which the methods after it and the replay read again."""
    inputs = {f"credit.{f.name}": getattr(credit, f.name) for f in fields(credit)}
    inputs |= {f"rollouts.{f.name}": getattr(rollouts, f.name) for f in fields(rollouts)}
    inputs |= {f"rollouts.signals[{name!r}]": value for name, value in rollouts.signals.items()}
    versions = {n: (x, x._version) for n, x in inputs.items() if isinstance(x, torch.Tensor) and not x.is_inference()}
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        said = " ".join(str(error).split())
        own = "" if isinstance(error, ValueError) and repr(method.name) in said else f"credit method {method.name!r}"
        place = _line_of(method, error)
        raise ValueError(f"{own}{f' ({place})' if own and place else ''}{': ' if own else ''}{kind}{said}") from error
    changed = [name for name, (x, version) in versions.items() if x._version != version]
    if changed:
        raise ValueError(
            f"credit method {method.name!r} changed {changed[0]} in place; others read it too: make a new tensor "
            "(x = x * w, not x *= w)"
        )


def _line_of(method: CreditMethod, error: Exception) -> str:
    """FILE:LINE of the method's own code that led to an error."""
    file = sys.modules[type(method).__module__].__file__ if type(method).__module__ in sys.modules else None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _verify(credit: Credit, rollouts: Rollouts) -> None:
    if not isinstance(credit, Credit):
        raise ValueError(f"a Credit must be returned, got {type(credit).__name__}")
    for name, value in (("advantages", credit.advantages), ("loss_mask", credit.loss_mask)):
        if value.shape != rollouts.tokens.shape:
            raise ValueError(f"returned {name} of shape {list(value.shape)}, expected {list(rollouts.tokens.shape)}")
    outside = {
        "put into the loss": credit.loss_mask & ~rollouts.mask,
        "given credit": (credit.advantages != 0) & ~rollouts.mask,
    }
    for what, where in outside.items():
        if bool(where.any()):
            row, column = (int(i) for i in where.nonzero()[0])
            kind = "padding" if not bool(rollouts.valid[row, column]) else "inserted, not sampled by the policy"
            raise ValueError(
                f"{int(where.sum())} tokens outside rollouts.mask are {what}, first: response {row}, token {column} "
                f"({kind}); keep to credit.loss_mask"
            )


def _weights(before: Credit, after: Credit) -> Tensor:
    """[B,T]: the factor a method applied to each advantage; 1 where there was nothing to change."""
    old, new = before.advantages, after.advantages
    factor = torch.where(old != 0, new / torch.where(old != 0, old, torch.ones_like(old)), torch.ones_like(old))
    return torch.where(after.loss_mask, factor, torch.zeros_like(factor))
