"""What a benchmark is: a component that loads its public files, asks its questions, judges answers and adds them up.

Use:

    benchmark = build("benchmark", {"mathvista": {"split": "testmini"}})
    samples = benchmark.load(root, limits)                  # a sequence of Sample; samples.id(i), samples.meta(i)
    with Referee(judge=None) as referee:                    # mathematics in a worker process; a judge model or none
        scores = benchmark.scores([(sample, response), ...], referee)
    items = [Scored.of(sample, score, attempt) ...]         # or from what was written down: Scored(id, meta, score)
    benchmark.summary(items)                                # overall metrics and a table per subgroup, with intervals

Two families of scoring stand side by side, and every result says which one it is. `official` is the benchmark's own
prompt, extraction and comparison; where that asks a language model, a judge is asked if there is one
(`scored_by: judge`) and a rule decides otherwise (`scored_by: rule`). `rl` is what papers on reinforcement learning
report: a boxed answer and a rule grader (`mmcredit.evaluate.benchmarks.rules.boxed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmcredit.components import Component, nearest
from mmcredit.evaluate.benchmarks.referee import Referee, drive
from mmcredit.evaluate.benchmarks.rules import boxed
from mmcredit.evaluate.benchmarks.scoring import Score, Scored
from mmcredit.evaluate.benchmarks.steps import Steps
from mmcredit.evaluate.benchmarks.summary import ACCURACY, Metric, Summary, summarise

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.item import Item
    from mmcredit.data.benchmarks.layout import Format
    from mmcredit.data.benchmarks.samples import BenchmarkSamples
    from mmcredit.data.benchmarks.table import Row
    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Sample

# The system instruction of the `rl` family (EasyR1's template for mathematics, which PAPO, VPPO and PGPO use).
BOXED = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)


class Benchmark(Component):
    """A benchmark. A subclass gives `format`, `item`, `official_prompt` and `judge`, and says how results add up."""

    format: ClassVar[Format]
    headline: ClassVar[str] = "accuracy"  # the metric that papers quote

    split: str = Field(description="which split; see the page of the benchmark")
    scoring: Literal["official", "rl"] = Field(
        default="official", description="official: the benchmark's own rule; rl: boxed answer and rule grader"
    )
    prompt_style: Literal["official", "boxed", "plain"] | None = Field(
        default=None, description="what is put around the question; None: official, or boxed with scoring: rl"
    )

    @model_validator(mode="after")
    def _split_is_known(self) -> Benchmark:
        if self.split not in self.format.splits:
            raise ValueError(
                f"{self.name} has no split {self.split!r}; {nearest(self.split, self.format.splits)} "
                f"(splits: {', '.join(self.format.splits)})"
            )
        return self

    # --- rows to samples

    def load(self, root: str | Path, limits: MediaLimits | None = None) -> BenchmarkSamples:
        """The samples of the split, from files below `root`; pictures are read when a sample is asked for.

        Every row is checked now, pictures apart: raises ValueError naming file, row and column. `limits` bounds the
        pictures; its own root is not used, they lie below `root`.
        """
        from mmcredit.data.benchmarks.samples import load

        return load(self, Path(root), limits)

    def item(self, row: Row) -> Item:
        """The row in the common form. Raises ValueError through `row` for what is missing or of a wrong kind."""
        raise TypeError(f"{type(self).__name__} does not implement item(row)")

    def keeps(self, item: Item) -> bool:
        """Whether an item belongs to the chosen part of the split."""
        return True

    def official_prompt(self, item: Item) -> str:
        """The benchmark's own prompt, with "<image>" where a picture stands."""
        raise TypeError(f"{type(self).__name__} does not implement official_prompt(item)")

    def prompt(self, item: Item) -> str:
        """The text of the user's turn in the chosen style, with "<image>" where a picture stands."""
        style = self.prompt_style or ("boxed" if self.scoring == "rl" else "official")
        if style == "official":
            return self.official_prompt(item)
        text = item.question + (f"\nChoices:\n{item.options('({letter}) {text}')}" if item.choices else "")
        return text if style == "plain" else f"{text}\n\n{BOXED}"

    def reference(self, answer: str | None, letter: str | None) -> str | None:
        """The reference as the chosen scoring compares it: `rl` takes the letter where there is one."""
        return letter if self.scoring == "rl" and letter is not None else answer

    # --- answers to scores

    def score(self, sample: Sample, response: str, referee: Referee | None = None) -> Score:
        """Judge one response. Without a referee one is made for it, without a judge: costly in a loop, use `scores`."""
        return self.scores([(sample, response)], referee)[0]

    def scores(self, answers: Iterable[tuple[Sample, str]], referee: Referee | None = None) -> list[Score]:
        """Judge responses, in order. Mathematics and judge questions of all of them are asked together.

        Raises ValueError for a sample without a reference (a split that hides its answers).
        """
        if referee is None:
            with Referee() as own:
                return drive([self.steps(sample, response) for sample, response in answers], own)
        return drive([self.steps(sample, response) for sample, response in answers], referee)

    def steps(self, sample: Sample, response: str) -> Steps:
        """The scoring of one response: asks the referee by ``yield``, returns a Score."""
        meta = sample.meta
        if meta.get("benchmark") != self.name:
            raise ValueError(f"sample {sample.id} is not one of {self.name}, but of {meta.get('benchmark')}")
        # From the meta: a sample that was loaded for one scoring may be judged by the other.
        reference = self.reference(meta["answer"], meta["letter"])
        if reference is None:
            raise ValueError(
                f"sample {sample.id} has no reference: {self.name} hides the answers of split {self.split!r}"
            )
        if self.scoring == "rl":
            return boxed.steps([reference, *meta.get("answers", [])[1:]], response)
        return self.judge(replace(sample, answer=reference), response)

    def judge(self, sample: Sample, response: str) -> Steps:
        """The official scoring of one response, like `steps`."""
        raise TypeError(f"{type(self).__name__} does not implement judge(sample, response)")

    # --- scores to a table

    def metrics(self) -> Sequence[Metric]:
        """What is computed over all items, and over each subgroup."""
        return (ACCURACY,)

    def axes(self) -> Mapping[str, Callable[[Scored], Iterable[str]]]:
        """By name of a subgroup table: the groups to which an item belongs."""
        return {}

    def summary(self, items: Iterable[Scored], seed: int = 0) -> Summary:
        """Metrics over all items and per subgroup, each with a 95 % interval.

        With several attempts per item every metric is computed per attempt and averaged. Raises ValueError for no
        items, or if items have different numbers of attempts.
        """
        return summarise(self, list(items), seed)


def in_meta(key: str) -> Callable[[Scored], Iterable[str]]:
    """An axis by a value, or by each value of a list, in the meta of the sample; a dot enters a mapping."""

    def groups(item: Scored) -> Iterable[str]:
        value: Any = item.meta
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or value == "":
            return ()
        return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]

    return groups


def without_thinking(response: str) -> str:
    """The response without ``<think>..</think>`` and the blanks around, as official rules want it.

    A response without thinking stays as it is, to the blank; an unclosed one keeps its text.

    A closing tag without an opening one ends thinking that the prompt began: what comes before it goes too.
    """
    kept: list[str] = []
    at = 0
    while True:
        start, end = response.find("<think>", at), response.find("</think>", at)
        if end < 0:
            return "".join([*kept, response[at:]]).strip() if at else response
        if 0 <= start < end:
            kept.append(response[at:start])
        at = end + len("</think>")
