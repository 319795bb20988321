"""The true advantages of a frozen batch: computed once, kept beside it, read back by a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from mmcredit.audit.estimate import Advantages, Plan, sample_values, token_advantages
from mmcredit.audit.exact import Enumeration
from mmcredit.audit.states import find_points
from mmcredit.report.files import replace_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mmcredit.audit.bench import Bench
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts

_FIELDS = ("value", "halves", "error", "low", "high")


@dataclass(frozen=True)
class Truth:
    """True advantages of the N sampled tokens of a batch, row by row, and what they took."""

    advantages: Advantages
    row: NDArray[np.int64]  # [N]
    column: NDArray[np.int64]  # [N]
    facts: dict[str, Any] = field(default_factory=dict)

    def table(self, values: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float32]:
        """[B,T] of one number per token, 0 elsewhere."""
        out = np.zeros(tuple(shape), dtype=np.float32)
        out[self.row, self.column] = values
        return out


def find_truth(
    rollouts: Rollouts,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    bench: Bench,
    plan: Plan | None,
    advance: Callable[[int], None] | None = None,
    goes_on: Sequence[bool] | None = None,
) -> Truth:
    """Values of every state and advantages of every token. `plan` None: by enumeration; `goes_on` as `find_points`."""
    points = find_points(rollouts, bench.sampling.max_new_tokens, goes_on)
    bench.begin()
    before = (bench.tokens, bench.continuations, bench.unfinished)
    facts: dict[str, Any] = {"tokens": len(points.before), "states": len(points.states)}
    if plan is None:
        enumeration = Enumeration(bench)
        values = enumeration(points.states, prompts, samples)
        facts["missing_mass"] = float(enumeration.missing.max()) if len(enumeration.missing) else 0.0
    else:

        def draw(chosen: NDArray[np.int64], stream: int, first: int, count: int) -> NDArray[np.float64]:
            states = [points.states[i] for i in chosen.tolist()]
            return bench.draw(states, prompts, samples, stream, first, count, advance)

        values = sample_values(len(points.states), draw, plan)
        facts["value_error"] = float(values.error(1).mean())
        facts["value_error_max"] = float(values.error(1).max())
    found = token_advantages(values, points.before, points.after, points.reward)
    facts |= {
        "continuations": bench.continuations - before[1],
        "sampled_tokens": bench.tokens - before[0],
        "unfinished": bench.unfinished - before[2],
        "low": values.low,
        "high": values.high,
    }
    return Truth(found, points.row, points.column, facts)


def write(truth: Truth, path: Path) -> None:
    """Aside, then renamed."""
    tensors = {name: np.ascontiguousarray(getattr(truth.advantages, name)) for name in _FIELDS}
    tensors |= {"row": truth.row, "column": truth.column}
    replace_file(path, save(tensors, {"facts": json.dumps(truth.facts)}))


def read(path: Path) -> Truth | None:
    """What `write` left; None if there is nothing. Raises ValueError for a file that cannot be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            facts = json.loads((file.metadata() or {})["facts"])
        advantages = Advantages(**{name: tensors[name] for name in _FIELDS})
        return Truth(advantages, tensors["row"], tensors["column"], facts)
    except Exception as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); remove it to sample it again") from None
