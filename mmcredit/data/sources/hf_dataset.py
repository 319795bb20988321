"""Data sets of the Hugging Face `datasets` package, from a local folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from mmcredit.components import nearest, register
from mmcredit.data.sources.base import Rows, TableSource
from mmcredit.data.sources.files import named
from mmcredit.data.sources.labels import class_name
from mmcredit.data.sources.parquet import ParquetRows

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")


@register("source", "hf_dataset")
class HfDataset(TableSource):
    """A local folder: saved by `Dataset.save_to_disk`, or holding the Parquet or Arrow files of a downloaded data set.

        source:
          - hf_dataset: {path: geometry3k, split: train}

    Nothing is fetched from the hub, and no loading script is run. `split` may be left out where there is only one.
    Parquet files need pyarrow alone, the other two the package `datasets` (extra `datasets`). Pictures stay encoded as
    they were stored; class labels become their names. Ids are FILE[ROW], of a saved data set SPLIT[ROW], rows from 0.
    """

    path: str = Field(description="folder of the data set")
    split: str | None = Field(default=None, description="which split, where there are several")
    cache_bytes: int = Field(default=2 * 2**30, gt=0, description="decoded Parquet row groups kept in memory")

    def rows(self) -> Rows:
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"source hf_dataset: {self.path!r} is not a folder here; a hub name is not fetched: download it first"
            )
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return self._saved(folder)
        parquet = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
        if parquet:
            return ParquetRows(named(self._of_split(folder, parquet)), self.cache_bytes)
        arrow = sorted(p for p in folder.rglob("*.arrow") if p.is_file())
        if arrow:
            datasets = _package()
            chosen = self._of_split(folder, arrow)
            parts = [datasets.Dataset.from_file(str(path)) for path in chosen]
            return SavedRows(datasets.concatenate_datasets(parts), split_of(chosen[0]), str(folder))
        raise ValueError(f"source hf_dataset: {self.path!r} holds no saved data set and no .parquet or .arrow file")

    def _saved(self, folder: Path) -> SavedRows:
        data = _package().load_from_disk(str(folder))
        if not isinstance(data, dict):
            if self.split is not None and str(data.split) != self.split:
                raise ValueError(f"source hf_dataset: {self.path!r} is the single split {data.split}, not {self.split}")
            return SavedRows(data, self.split or str(data.split or folder.name), str(folder))
        split = self._choose(list(data))
        return SavedRows(data[split], split, str(folder))

    def _choose(self, splits: list[str]) -> str:
        if self.split is None and len(splits) == 1:
            return splits[0]
        if self.split not in splits:
            said = "which split?" if self.split is None else f"there is no split {self.split!r};"
            if self.split is not None and (hint := nearest(self.split, splits)).startswith("did you mean"):
                said += f" {hint}"
            raise ValueError(f"source hf_dataset: {self.path!r}: {said} set split to one of {', '.join(splits)}")
        return self.split

    def _of_split(self, folder: Path, paths: list[Path]) -> list[Path]:
        split = self._choose(sorted({split_of(path) for path in paths}))
        chosen = [path for path in paths if split_of(path) == split]
        folders = sorted({path.parent.relative_to(folder).as_posix() for path in chosen})
        if len(folders) > 1:
            raise ValueError(
                f"source hf_dataset: split {split!r} lies in several folders of {self.path!r}: {', '.join(folders)}; "
                f"point path at one of them"
            )
        return chosen


def split_of(path: Path) -> str:
    """The split a data file belongs to: `train-00000-of-00002.parquet`, `train.parquet`, `train/0000.parquet`."""
    shard = _SHARD.match(path.stem)
    stem = shard.group(1) if shard else path.stem
    if stem.isdigit():
        return path.parent.name
    return stem.rsplit("-", 1)[-1] if path.suffix == ".arrow" else stem  # the cache of `datasets`: parquet-train.arrow


def _package() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "source hf_dataset needs the package 'datasets' for this folder: pip install 'mmcredit[datasets]'"
        ) from error
    return datasets


class SavedRows:
    """The rows of a `datasets.Dataset`, read as Arrow: no picture is decoded."""

    def __init__(self, data: Any, name: str, folder: str) -> None:
        self._data = data.with_format("arrow")
        self._name, self._folder = name, folder
        self._labels = {
            column: list(feature.names)
            for column, feature in data.features.items()
            if type(feature).__name__ == "ClassLabel"
        }

    def __len__(self) -> int:
        return len(self._data)

    def columns(self) -> list[str]:
        return list(self._data.column_names)

    def column(self, name: str) -> Iterator[Any]:
        if name not in self._data.column_names:
            yield from [None] * len(self)
            return
        for batch in self._data.select_columns([name]).iter(1000):
            for value in batch.column(name).to_pylist():
                yield class_name(value, self._labels.get(name))

    def read(self, index: int) -> dict[str, Any]:
        row = self._data[index].to_pylist()[0]
        return {name: class_name(value, self._labels.get(name)) for name, value in row.items()}

    def place(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def id(self, index: int) -> str:
        return self.place(index)

    def folder(self, index: int) -> Path:
        """The folder of the data set, where the paths of its media may start."""
        return Path(self._folder)
