"""The configs of `mmcredit sft` and, in what they share, of `mmcredit dpo`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from mmcredit.components import build
from mmcredit.config import Block, CheckpointBlock, Entry, OptimizerBlock, block
from mmcredit.config_files import find, override, read_yaml
from mmcredit.data.media import MediaLimits
from mmcredit.policy.config import ModelConfig
from mmcredit.yaml_values import Kind


class FitRunBlock(Block):
    """What the run is."""

    name: str = Field("run", description="name shown in the report")
    dir: Path = Field(Path("runs/sft"), description="run directory; a new run needs a new or empty one")
    seed: int = Field(0, description="derives data order, dropout and new adapters")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none = torch's own choice")


class FitBlock(OptimizerBlock):
    """The optimizer steps."""

    batch: int = Field(32, ge=1, description="samples (or pairs) of an optimizer step")
    epochs: int = Field(1, ge=1, description="passes over the data")
    steps: int | None = Field(None, ge=1, description="optimizer steps at most; none: all of the epochs")
    learning_rate: float = Field(1e-5, gt=0, description="peak of the schedule")
    schedule: Literal["constant", "linear", "cosine"] = "cosine"


class FitLogBlock(Block):
    """What is written down."""

    tensorboard: bool = True
    wandb: str | None = Field(None, description="Weights & Biases project; none = off")


class FitEvaluateBlock(Block):
    """Held-out measures, before and after training and on the way."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0 = only before and after")
    limit: int | None = Field(None, ge=1, description="samples, the first ones of a seeded shuffle; none = all")


class FitConfig(Block):
    """What supervised runs have in common."""

    run: FitRunBlock = Field(default_factory=lambda: FitRunBlock())
    model: ModelConfig
    train: FitBlock = Field(default_factory=lambda: FitBlock())
    checkpoint: CheckpointBlock = Field(default_factory=lambda: CheckpointBlock(every=0))
    log: FitLogBlock = Field(default_factory=lambda: FitLogBlock())
    evaluate: FitEvaluateBlock = Field(default_factory=lambda: FitEvaluateBlock())


class TeachBlock(Block):
    """What is taught, and on what it is measured."""

    train: Annotated[Entry, Kind("source")] = Field(description="source of the examples: a name or {name: fields}")
    evaluate: Annotated[Entry | None, Kind("source")] = Field(None, description="source of held-out examples")
    target: str | None = Field(
        None, description="column of the target text; none: `completion`, else the reference (or last assistant turn)"
    )
    insert: Annotated[Entry | None, Kind("strategy")] = Field(
        None, description="rollout strategy that puts into targets what it puts into responses, as `retrieval` does"
    )
    every_turn: bool = Field(False, description="teach every assistant turn of a chat, not the last one alone")
    media: MediaLimits = Field(default_factory=MediaLimits, description="where media may lie, and how big they may be")
    max_prompt_tokens: int | None = Field(None, ge=1, description="prompts over it are dropped and counted, never cut")
    max_tokens: int | None = Field(4096, ge=2, description="prompts with targets over it are dropped and counted")


class SFTConfig(FitConfig):
    """A run of `mmcredit sft`, as a YAML file says it."""

    data: TeachBlock
    average: Literal["tokens", "samples"] = Field(
        "tokens", description="the loss is the mean over the tokens of a batch, or over samples of their means"
    )
    selection: Annotated[Entry | None, Kind("selection")] = Field(
        None, description="which target tokens enter the loss; none: all"
    )

    @model_validator(mode="after")
    def _components(self) -> SFTConfig:
        """A wrong name or field is found before anything is loaded."""
        build("source", self.data.train)
        if self.data.evaluate is not None:
            build("source", self.data.evaluate)
        if self.selection is not None:
            build("selection", self.selection)
        if self.data.insert is not None:
            from mmcredit.rollout.strategies.base import Strategy

            strategy = build("strategy", self.data.insert)
            if type(strategy).reactions is Strategy.reactions:  # type: ignore[attr-defined]
                raise ValueError(f"data.insert: strategy {strategy.name!r} inserts nothing into responses")
        build("train_engine", self.train.engine)
        return self


AnyConfig = TypeVar("AnyConfig", bound=FitConfig)


def load(cls: type[AnyConfig], path: str | Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read and check a config: the file, then the overrides. Raises ValueError, one line per problem."""
    return block(cls, override(read_yaml(find(path)), overrides), "config")
