"""A benchmark, or a training set in a benchmark's format, as a data source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from mmcredit.components import build, names, nearest, register
from mmcredit.data.order import permutation
from mmcredit.data.sources.base import Source
from mmcredit.data.templates import compile_template, read_template

if TYPE_CHECKING:
    from mmcredit.data.benchmarks.samples import BenchmarkSamples
    from mmcredit.data.media import MediaLimits


class Loads(Protocol):
    """What the source asks of a component of the kind `benchmark` (`mmcredit.evaluate.benchmarks.base`)."""

    def load(self, root: str | Path, limits: MediaLimits | None = None) -> BenchmarkSamples:
        """The samples of the chosen split."""
        ...


@register("source", "benchmark")
class BenchmarkSource(Source):
    """Questions of a multimodal benchmark or training set, from local files in its public format.

        source:
          - benchmark: {name: geometry3k, root: data, split: train}

    `root` is the data root: the folder that holds the benchmark's folder, that folder, or one file; pictures lie below
    it, so `data.media.root` is not needed. Prompt and reference are those of `scoring`: `rl` (the default here) asks
    for a boxed answer and refers to a choice by its letter, `official` is the benchmark's own prompt and reference.
    `options` are further fields of the benchmark (`mmcredit methods mathverse`). `meta` holds the columns of the row,
    `choices` among them for the reward `option`. Every row is checked when the source is loaded.
    """

    name_: str = Field(alias="name", description="name of a benchmark: mathvista, geometry3k, virl39k, ...")
    root: str = Field(description="data root: folder or file")
    split: str | None = Field(default=None, description="which split; None: the benchmark's default")
    scoring: Literal["official", "rl"] = Field(
        default="rl", description="prompt and reference: boxed answer, or official"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further fields of the benchmark")
    system: str | None = Field(default=None, description="system prompt")
    template: str | None = Field(
        default=None, description="Jinja2 template of the user's turn: {{ content }}, {{ row.NAME }} of the meta"
    )
    template_file: Path | None = Field(default=None, description="file that holds the template instead")
    where: dict[str, Any] = Field(
        default_factory=dict, description="keep items whose meta has this value, or one of this list"
    )
    shuffle: int | None = Field(default=None, ge=0, description="seed of a fixed shuffle before `limit`")
    limit: int | None = Field(default=None, gt=0, description="keep at most this many items")

    def spec(self) -> dict[str, Any]:
        return {self.name: self.model_dump(mode="json", by_alias=True)}

    @field_validator("name_")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = names("benchmark")
        if name not in known:
            raise ValueError(f"no such benchmark; {nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _fields_are_usable(self) -> BenchmarkSource:
        for key in ("split", "scoring"):
            if key in self.options:
                raise ValueError(f"{key} stands beside options, not in it")
        text = read_template(self.template, self.template_file)
        if text is not None:
            compile_template(text)
        self.benchmark()
        return self

    def benchmark(self) -> Loads:
        """The benchmark with its fields. Raises ValueError for an unknown split or field."""
        fields = {**self.options, "scoring": self.scoring}
        if self.split is not None:
            fields["split"] = self.split
        return build("benchmark", {self.name_: fields})  # type: ignore[return-value]

    def load(self, limits: MediaLimits) -> BenchmarkSamples:
        samples = self.benchmark().load(Path(self.root), limits)
        kept = [i for i in range(len(samples)) if self._passes(samples.meta(i))]
        if not kept:
            raise ValueError(
                f"source benchmark {self.name_}: none of its {len(samples)} items passes where={self.where}"
            )
        if self.shuffle is not None:
            kept = [kept[i] for i in permutation(len(kept), self.shuffle)]
        rows = samples.rows()
        chosen = samples.selected([rows[i] for i in kept[: self.limit]])
        text = read_template(self.template, self.template_file)
        return chosen.wrapped(self.system, None if text is None else compile_template(text))

    def _passes(self, meta: dict[str, Any]) -> bool:
        for key, wanted in self.where.items():
            value: Any = meta
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value not in (wanted if isinstance(wanted, list) else [wanted]):
                return False
        return True
