"""Local copies of the mathematics data sets of the field, in the formats in which they are published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from mmcredit.components import nearest, register
from mmcredit.data.columns import Columns, is_empty
from mmcredit.data.dropped import Dropped, UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sources.base import Rows, TableSamples, TableSource
from mmcredit.data.sources.files import DataFile, expand
from mmcredit.data.sources.hf_dataset import split_of
from mmcredit.data.sources.jsonl import JsonRows
from mmcredit.data.sources.math_formats import FORMATS, Format, question_text, reference, without_instruction
from mmcredit.data.sources.parquet import ParquetRows

SUFFIXES = (".parquet", ".jsonl", ".json")
SPLITS = frozenset({"train", "test", "validation", "val", "dev"})
CACHE_BYTES = 2 * 2**30  # decoded Parquet row groups kept in memory


@register("source", "math_set")
class MathSet(TableSource):
    """A mathematics data set from local files (Parquet, JSON lines, JSON), with its reference answers taken out.

        source:
          - math_set: {name: gsm8k, path: data/gsm8k/main, split: train}

    `name` is the format: `gsm8k` (answer after ``####``), `math` and `math500` (column `answer`, else the last
    ``\\boxed{}`` of the solution), `dapo_math_17k` (verl: `prompt`, `reward_model.ground_truth`), `aime24`, `aime25`,
    `amc`, `minerva`, `olympiadbench` (list `final_answer`; `context` goes before the question). Nothing is downloaded.

    `path` is a file, a folder or a pattern. In a folder, `split` picks the files whose name or folder says so
    (``train-00000-of-00001.parquet``, ``test.jsonl``, ``MATH/train/algebra/1.json``).

    A question that came before (same text up to white space) is left out: the Parquet file of DAPO-Math-17k holds each
    of its 17 thousand questions about a hundred times. `MathSamples.dropped` counts them, apart if the answer
    differs (the first one stays). Rows without a reference answer (proofs), with a picture, or with values of a wrong
    kind are refused when they are read, each under its reason.

    Columns: `question`, `answer`, `data_set` (`name`), `level` (a number where the set says "Level 5"), `subject` (also
    for MATH's `type`), and the other columns of the set; GSM8K's worked solution is `solution`.
    """

    name_: str = Field(alias="name", description=f"format: {', '.join(FORMATS)}")
    path: str | list[str] = Field(description="file, folder, pattern, or a list of them")
    split: str | None = Field(default=None, description="which split, where a folder holds several")
    instruction: bool = Field(
        default=False, description="keep the instruction that DAPO's prompts put around the problem"
    )

    def spec(self) -> dict[str, Any]:
        return {self.name: self.model_dump(mode="json", by_alias=True)}

    @field_validator("name_")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"no such data set; {nearest(name, FORMATS)}")
        return name

    @model_validator(mode="after")
    def _columns_are_given(self) -> MathSet:
        if self.columns != Columns(id=self.columns.id):
            raise ValueError(
                "math_set knows the columns of its data sets; for other columns use the source jsonl or parquet"
            )
        return self

    def rows(self) -> Rows:
        files = of_split(expand(self.path, SUFFIXES), self.split, self.describe())
        return MathRows(open_files(files), self.name_, FORMATS[self.name_], self.instruction)

    def columns_to_read(self) -> Columns:
        return self.columns.model_copy(update={"prompt": "question", "answer": "answer"})

    def load(self, limits: MediaLimits) -> MathSamples:
        table = super().load(limits)
        assert isinstance(table, TableSamples)
        return MathSamples.of(table)

    def describe(self) -> str:
        return f"{self.name} {self.name_} ({self.path})"


class MathSamples(TableSamples):
    """Samples of a mathematics data set."""

    @classmethod
    def of(cls, table: TableSamples) -> MathSamples:
        return cls(table._rows, table._indices, table._reading, table._ids)

    @property
    def dropped(self) -> Dropped:
        """Rows of the files that were left out when they were opened: repeated questions."""
        assert isinstance(self._rows, MathRows)
        return self._rows.dropped


def of_split(files: Sequence[DataFile], split: str | None, where: str) -> list[DataFile]:
    """The files of one split. Raises ValueError if it is not there, not said, or in several folders."""
    if split is None:
        found = sorted({name for file in files if (name := split_of(file.path)) in SPLITS})
        if len(found) > 1:
            raise ValueError(f"source {where} holds several splits; set split to one of {', '.join(found)}")
        return list(files)
    chosen = [f for f in files if split_of(f.path) == split or split in Path(f.name).parts[:-1]]
    if not chosen and len(files) == 1 and split_of(files[0].path) not in SPLITS:
        chosen = list(files)  # one file whose name says nothing, such as gsm8k.jsonl: the config says what it is
    if not chosen:
        raise ValueError(
            f"source {where} has no file of split {split!r}; files there: "
            + ", ".join(f.path.name for f in files[:5])
            + (", ..." if len(files) > 5 else "")
        )
    folders = sorted({str(f.path.parent) for f in chosen})
    if len(folders) > 1 and any(f.path.suffix != ".json" for f in chosen):
        raise ValueError(f"source {where}: split {split!r} lies in several folders: {', '.join(folders)}; name one")
    return chosen


def open_files(files: Sequence[DataFile]) -> Rows:
    """The rows of files of one kind. Raises ValueError for a mixture, or for files that cannot be read."""
    kinds = {file.path.suffix for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{files[0].path.parent} mixes {', '.join(sorted(kinds))} files; name those of one kind")
    if kinds == {".parquet"}:
        return ParquetRows(list(files), CACHE_BYTES)
    if kinds == {".json"} and _is_object(files[0].path):
        return ProblemFiles(files)
    return JsonRows(list(files))


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False  # JsonRows says what is wrong with it


class ProblemFiles:
    """One JSON object a file, as MATH was first published."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self._files = list(files)
        self._rows: list[dict[str, Any]] = []
        for file in self._files:
            try:
                row = json.loads(file.path.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                raise ValueError(f"{file.path} cannot be read as JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file.path} is a JSON {type(row).__name__}; an object is wanted, as next to it")
            self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def column(self, name: str) -> Iterator[Any]:
        for row in self._rows:
            yield row.get(name)

    def read(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def place(self, index: int) -> str:
        return self._files[index].name

    def id(self, index: int) -> str:
        return self._files[index].name


_LEVEL = re.compile(r"Level (\d+)")
_TAKEN = frozenset({"prompt", "problem", "question", "Problem", "answer", "Answer", "final_answer", "reward_model"})


class MathRows:
    """The rows of a data set in the common form, each question once."""

    def __init__(self, rows: Rows, name: str, form: Format, instruction: bool = False) -> None:
        self._rows, self._name, self._form, self._instruction = rows, name, form, instruction
        self.dropped = Dropped()
        present = list(rows.columns())
        self._question = next((c for c in form.question if c in present), None)
        tops = list(dict.fromkeys(column.partition(".")[0] for column, _ in form.answer))
        self._answers = [column for column in tops if column in present]
        if len(rows):
            if self._question is None:
                self._refuse("question", form.question, present)
            if not self._answers:
                self._refuse("answer", [column for column, _ in form.answer], present)
        self._kept = self._once()

    def _refuse(self, what: str, wanted: Sequence[str], present: Sequence[str]) -> None:
        raise ValueError(
            f"{self._rows.place(0)}: {self._name} has its {what} in column {' or '.join(wanted)}, which is not there; "
            f"columns there: {', '.join(present) or 'none'}"
        )

    def _once(self) -> list[int]:
        """Numbers of the rows whose question did not come before."""
        kept: list[int] = []
        seen: dict[int, str | None] = {}
        values = self._rows.column(self._question or "")
        answers = zip(*(self._rows.column(name) for name in self._answers), strict=True)
        contexts = self._rows.column("context")
        for index, (value, found, context) in enumerate(zip(values, answers, contexts, strict=True)):
            try:
                key = hash(" ".join(self._text(value, context).split()))
            except ValueError:
                kept.append(index)  # refused with its reason when it is read
                continue
            answer = reference(dict(zip(self._answers, found, strict=True)), self._form)
            if key not in seen:
                seen[key] = answer
                kept.append(index)
            elif seen[key] == answer:
                self.dropped.add("repeated question", self._rows.id(index))
            else:
                self.dropped.add("repeated question, other answer", self._rows.id(index))
        return kept

    def _text(self, value: Any, context: Any) -> str:
        text = question_text(value)
        if not self._instruction:
            text = without_instruction(text)
        return f"{context.strip()}\n\n{text}" if isinstance(context, str) and context.strip() else text

    def __len__(self) -> int:
        return len(self._kept)

    def columns(self) -> list[str]:
        present = self._rows.columns()
        made = ["question", "answer", "data_set", *(["solution"] if self._name == "gsm8k" else [])]
        others = [c for c in present if c not in (*made, *_TAKEN, "context")]
        if "type" in others and "subject" not in others:
            others[others.index("type")] = "subject"
        return [*made, *others]

    def column(self, name: str) -> Iterator[Any]:
        for index in range(len(self)):
            try:
                yield self.read(index).get(name)
            except UnusableSample:
                yield None  # such a row passes no filter, and is refused if it is kept without one

    def read(self, index: int) -> dict[str, Any]:
        row = self._rows.read(self._kept[index])
        place = self.place(index)
        assert self._question is not None
        if is_empty(row.get(self._question)):
            raise UnusableSample(f"{place}: no {self._question!r}; {_columns(row)}", "column missing")
        pictures = [key for key, value in row.items() if re.fullmatch(r"images?(_\d+)?", key) and not is_empty(value)]
        if pictures:
            raise UnusableSample(f"{place}: the question needs a picture ({', '.join(pictures)})", "needs a picture")
        try:
            question = self._text(row[self._question], row.get("context"))
        except ValueError as error:
            raise UnusableSample(f"{place}, column {self._question!r}: {error}", "row malformed") from None
        answer = reference(row, self._form)
        if answer is None:
            columns = " or ".join(column for column, _ in self._form.answer)
            raise UnusableSample(f"{place}: no reference answer in {columns}; {_columns(row)}", "reference missing")
        made = {"question": question, "answer": answer, "data_set": self._name}
        others = {key: value for key, value in row.items() if key not in (*made, *_TAKEN, "context")}
        if self._name == "gsm8k":
            others["solution"] = str(row["answer"]).rpartition("####")[0].strip()
        if "type" in others and "subject" not in others:
            others["subject"] = others.pop("type")
        level = _LEVEL.fullmatch(str(others.get("level")))
        if level:
            others["level"] = int(level[1])
        return {**made, **others}

    def place(self, index: int) -> str:
        return self._rows.place(self._kept[index])

    def id(self, index: int) -> str:
        return self._rows.id(self._kept[index])


def _columns(row: Mapping[str, Any]) -> str:
    return f"columns there: {', '.join(row) or 'none'}"
