"""What an evaluation asks: benchmarks, or the held-out questions of a config, read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmcredit import yaml_values
from mmcredit.components import build
from mmcredit.data.chosen import Chosen
from mmcredit.data.sample import Sample
from mmcredit.evaluate.ask.answer_lines import file_stem
from mmcredit.evaluate.benchmarks.limited import limited
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.evaluate.benchmarks.base import Benchmark

HELD_OUT = "held-out"


@dataclass(frozen=True)
class Target:
    """One set of questions."""

    name: str  # of its file
    samples: Sequence[Sample]  # read when asked for
    spec: Mapping[str, Any]  # what the questions are, for the settings
    benchmark: Benchmark | None = None  # None: a reward judges


def listed(text: str) -> list[str | dict[str, Any]]:
    """Component entries of an option: names with commas between, or `{name: {field: value}}`, as in YAML.

    Raises ValueError for anything else.
    """
    try:
        found = yaml_values.read(f"[{text}]")
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(each, str | dict) for each in found):
        raise ValueError(f"names with commas between are wanted, or {{name: {{field: value}}}}, got {text!r}")
    return found


def read_benchmarks(entries: Iterable[str | Mapping[str, Any]], scoring: str | None) -> list[Benchmark]:
    """Benchmarks by name, `{name: fields}`; `scoring` where the fields do not say. Raises ValueError: unknown names or
    fields, two of one name and split, and splits whose answers are hidden."""
    found: list[Benchmark] = []
    for entry in entries:
        if isinstance(entry, str):
            entry = {entry: {}}
        name, fields = next(iter(entry.items())) if len(entry) == 1 else (None, None)
        if scoring is not None and name is not None:
            entry = {name: {"scoring": scoring, **(fields or {})}}
        benchmark: Benchmark = build("benchmark", entry)  # type: ignore[assignment]
        if not benchmark.format.splits[benchmark.split].answers:
            raise ValueError(
                f"{benchmark.name} hides the answers of split {benchmark.split!r}; splits with answers: "
                + ", ".join(name for name, split in benchmark.format.splits.items() if split.answers)
            )
        found.append(benchmark)
    names = [target_name(b) for b in found]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{twice[0]} stands twice among the benchmarks; evaluate its variants in folders of their own")
    return found


def target_name(benchmark: Benchmark) -> str:
    """Such as ``mathvista-testmini``."""
    return file_stem(f"{benchmark.name}-{benchmark.split}")


def benchmark_target(benchmark: Benchmark, root: Path, config: RunConfig, limit: int | None) -> Target:
    """The questions of a benchmark; with a limit that many of a seeded shuffle (whole groups where its metrics ask for
    them), in the order of the file.

    Every row is checked now, pictures when they are due. Raises ValueError naming file, row and column, and for a
    limit below the size of every group.
    """
    samples = benchmark.load(root, config.data.media)
    if limit is not None and limit < len(samples):
        rows = samples.rows()
        chosen = limited(benchmark, samples, _shuffled(config, len(samples)), limit)
        samples = samples.selected([rows[i] for i in chosen])
    spec = {"benchmark": benchmark.spec(), "questions": len(samples), "limit": limit}
    return Target(target_name(benchmark), samples, spec, benchmark)


def held_out_target(config: RunConfig) -> Target:
    """The held-out questions of a config: those that a run answers before and after training, in the same order.

    Raises ValueError if there are none.
    """
    from mmcredit.prepare import load_samples

    if config.data.evaluate is None:
        raise ValueError("data.evaluate is not set; name the source of the questions there, or a --benchmark")
    source = load_samples(config, config.data.evaluate)
    samples = Chosen(source, _shuffled(config, len(source))[: config.evaluate.limit])
    spec = {
        "source": config.data.evaluate,
        "rewards": config.rewards,
        "reward": config.evaluate.reward,
        "questions": len(samples),
        "limit": config.evaluate.limit,
    }
    return Target(HELD_OUT, samples, spec)


def _shuffled(config: RunConfig, n: int) -> list[int]:
    """The order of `mmcredit.train.setup.held_out_samples`."""
    import numpy as np

    return [int(i) for i in np.random.RandomState(derive(config.run.seed, "held-out") % 2**32).permutation(n)]
