"""Tasks made by the generators of the package reasoning-gym."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmcredit.components import nearest, register
from mmcredit.data.columns import plain
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.splits import TEST_SHARE, in_test
from mmcredit.seeds import derive

SPARE = 4  # items that may be made per item that is kept, beyond what the split costs

# Their items depend on the order of Python sets, hence on string hashing, which differs from process to process
# (reasoning-gym 0.1.25).
HASH_DEPENDENT = frozenset({"isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder"})


@dataclass(frozen=True)
class Recipe:
    """All that makes one item again: kept in ``Sample.meta["reasoning_gym"]``, read by the reward of that name."""

    task: str
    settings: str  # JSON of the generator's config fields
    seed: int
    size: int  # of the generator; the items of a few tasks depend on it
    index: int
    digest: str  # of the question, to notice another version or another order of sets

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Recipe:
        """From plain data. Raises ValueError if it is no such record."""
        wanted = {"task": str, "settings": str, "seed": int, "size": int, "index": int, "digest": str}
        whole = isinstance(record, Mapping) and record.keys() == wanted.keys()
        if not whole or any(type(record[name]) is not kind for name, kind in wanted.items()):
            raise ValueError(f"meta['reasoning_gym'] is not a record of the source reasoning_gym: {record!r}")
        return cls(**record)


def digest(question: str) -> str:
    """A hash of a question."""
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def generator(task: str, settings: Mapping[str, Any], seed: int, size: int) -> Any:
    """The package's data set for a task. Raises ModuleNotFoundError without it, ValueError for what it refuses."""
    known = _package()
    if task not in known:
        raise ValueError(f"reasoning-gym has no task {task!r}; {nearest(task, known)}")
    dataset_class, config_class = known[task]
    names = sorted(field.name for field in fields(config_class)) if is_dataclass(config_class) else []
    for name in settings:
        if name in ("seed", "size"):
            raise ValueError(f"reasoning_gym: give {name} beside task, not in settings")
        if name not in names:
            raise ValueError(f"reasoning_gym: task {task!r} has no setting {name!r}; {nearest(name, names)}")
    values = dict(settings)
    if task == "composite":
        values["datasets"] = [_part(part) for part in values.get("datasets") or ()]
    try:
        config = config_class(seed=seed, size=size, **values)
        config.validate()  # states its ranges as assertions
        return dataset_class(config)
    except (AssertionError, ValueError, TypeError, KeyError) as error:
        shown = f": {error}" if str(error) else f" ({type(error).__name__})"
        raise ValueError(f"reasoning-gym refuses task {task!r} with settings {dict(settings)}{shown}") from None


def _part(part: Any) -> Any:
    from reasoning_gym.composite import DatasetSpec

    try:
        return DatasetSpec(**{"weight": 1.0, "config": {}, **part})
    except TypeError:
        raise ValueError(
            f"reasoning_gym: settings.datasets of composite is a list of {{name, weight, config}}, got {part!r}"
        ) from None


def _package() -> dict[str, Any]:
    try:
        import reasoning_gym  # noqa: F401  (fills the registry)
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reasoning_gym needs the package 'reasoning-gym' ({error}): pip install 'mmcredit[tasks]'"
        ) from None
    return dict(DATASETS)


@lru_cache(maxsize=8)
def _generator_of(task: str, settings: str, seed: int, size: int) -> Any:
    return generator(task, json.loads(settings), seed, size)


def hash_dependent(task: str, settings: Mapping[str, Any]) -> bool:
    """Whether the items differ between processes with different string hashing."""
    parts = settings.get("datasets") or [] if task == "composite" else []
    return bool(HASH_DEPENDENT & {task, *(part.get("name") for part in parts)})


def entry_of(
    recipe: Recipe, question: str, answer: str | None, metadata: Mapping[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """(data set, item) for the scorer.

    The item is made again rather than carried along: some scorers need what JSON cannot hold (tuples, numbers as keys).
    Only for tasks that depend on string hashing it is put together from what the sample carries. Raises ValueError if
    the package makes another item than the one the sample was made from.
    """
    if hash_dependent(recipe.task, json.loads(recipe.settings)):
        dataset = _generator_of(recipe.task, recipe.settings, recipe.seed, recipe.size)
        return dataset, {"question": question, "answer": answer, "metadata": dict(metadata or {})}
    return _remake(recipe)


@lru_cache(maxsize=4096)
def _remake(recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    dataset = _generator_of(recipe.task, recipe.settings, recipe.seed, recipe.size)
    item = dataset[recipe.index]
    if digest(item["question"]) != recipe.digest:
        raise ValueError(
            f"reasoning-gym makes another item {recipe.index} of task {recipe.task!r} here than where the sample was "
            f"made; use the same version of the package"
        )
    return dataset, item


@register("source", "reasoning_gym")
class ReasoningGym(TableSource):
    """Verifiable text tasks without a download (PyPI `reasoning-gym` 0.1.25, Apache-2.0; extra `tasks`).

        source:
          - reasoning_gym: {task: chain_sum, settings: {min_terms: 2, max_terms: 3}, size: 2000, split: train}

    `task` is any of the package's 106 generators, `settings` the fields of its config (`composite` mixes tasks:
    ``datasets: [{name, weight, config}]``). Judge the answers with the reward `reasoning_gym`, the task's own scorer.

    Splits cannot overlap. The package makes item i from the number seed + i, so neighbouring seeds share nearly all
    items, and small tasks repeat by chance under any seed. Here a question belongs to `test` (a fifth of all) or to
    `train` by a hash of its text, whatever seed, size and settings; `all` takes both. With `unique` (default) no
    question comes twice within a split. Item numbers start from a hash of `seed` and `task`.

    Columns: `question`, `answer` (none for tasks whose items have no single answer), `task`, `metadata` (the package's,
    as JSON; for `where`: ``metadata.num_terms``). Ids are reasoning_gym/task/seed/item. All items are made at the
    start: 0.01 to 0.1 ms each for arithmetic, 13 ms for countdown, up to 0.4 s for futoshiki; the test split costs five
    items per item. Four tasks (word_ladder, ransom_note, isomorphic_strings, polynomial_multiplication) depend on
    string hashing and need PYTHONHASHSEED fixed.
    """

    task: str = Field(description="name of the generator, for example chain_sum, countdown, gsm_symbolic")
    settings: dict[str, Any] = Field(default_factory=dict, description="fields of the generator's config")
    size: int = Field(default=1000, gt=0, description="items, before `where` and `limit`")
    seed: int = Field(default=0, ge=0, description="other seeds give other items; splits are disjoint for all seeds")
    split: Literal["train", "test", "all"] = Field(default="train", description="train, test or all")
    unique: bool = Field(default=True, description="leave out questions that came before")

    @field_validator("settings")
    @classmethod
    def _is_plain(cls, settings: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings must be plain data: {error}") from None
        return settings

    @model_validator(mode="after")
    def _task_exists(self) -> ReasoningGym:
        """Name, settings and ranges are checked with the config, if the package is here."""
        try:
            generator(self.task, self.settings, 0, 1)
        except ModuleNotFoundError:
            return self  # a config may be read where it is not run; `load` raises
        return self

    def rows(self) -> Rows:
        return GeneratedRows(self)

    def describe(self) -> str:
        return f"{self.name} ({self.task}, {self.split})"


class GeneratedRows:
    """The items of one split, made in the generator's order until there are `size` of them."""

    def __init__(self, source: ReasoningGym) -> None:
        share = {"train": 1 - TEST_SHARE, "test": TEST_SHARE, "all": 1.0}[source.split]
        budget = math.ceil(source.size / share) * SPARE + 100
        settings = json.dumps(source.settings, sort_keys=True)
        if hash_dependent(source.task, source.settings) and os.environ.get("PYTHONHASHSEED", "random") == "random":
            raise ValueError(
                f"reasoning-gym's task {source.task!r} gives other items in every process unless string hashing is "
                f"fixed: start with PYTHONHASHSEED=0 in the environment"
            )
        seed = derive(source.seed, "reasoning_gym", source.task) % 2**31  # one task wants seed + i below 2**32
        dataset = generator(source.task, source.settings, seed, budget)
        self._name = f"reasoning_gym/{source.task}/{source.seed}"
        self._rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        repeated = 0
        for index in range(budget):
            if len(self._rows) == source.size:
                break
            item = dataset[index]
            question = item["question"]
            if source.split != "all" and in_test(question) != (source.split == "test"):
                continue
            key = digest(question)
            if source.unique and key in seen:
                repeated += 1
                continue
            seen.add(key)
            self._rows.append(
                {
                    "question": question,
                    "answer": item["answer"],
                    "task": source.task,
                    "metadata": plain(item["metadata"]),
                    "reasoning_gym": asdict(Recipe(source.task, settings, seed, budget, index, key)),
                }
            )
        if len(self._rows) < source.size:
            raise ValueError(
                f"source {source.describe()}: only {len(self._rows)} different questions among {budget} items "
                f"({repeated} repeated) with settings {source.settings}; set size to at most {len(self._rows)}, widen "
                f"settings, or set unique: false"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def columns(self) -> list[str]:
        return ["question", "answer", "task", "metadata", "reasoning_gym"]

    def column(self, name: str) -> Iterator[Any]:
        for row in self._rows:
            yield row.get(name)

    def read(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def place(self, index: int) -> str:
        return self.id(index)

    def id(self, index: int) -> str:
        return f"{self._name}/{self._rows[index]['reasoning_gym']['index']}"
