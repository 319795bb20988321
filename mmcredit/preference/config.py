"""The config of `mmcredit dpo`. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmcredit.components import build
from mmcredit.config import Block, Entry
from mmcredit.data.media import MediaLimits
from mmcredit.supervised.config import FitConfig
from mmcredit.yaml_values import Kind


class FromRunBlock(Block):
    """Pairs from the frozen rollouts of a run."""

    run: Path = Field(description="run directory with frozen rollouts (train with log.rollouts_every)")
    by: Literal["reward", "verifier"] = Field(
        "reward", description="right against wrong of a group, or clean against flagged by the run's verifier"
    )
    part: str | None = Field(None, description="reward part that says right or wrong; none: the run's own first one")
    threshold: float = Field(0.5, description="the part is right above it (before its weight)")
    per_group: int = Field(1, ge=1, description="pairs of a group at most")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of the prompts whose pairs are held out")


class PairsBlock(Block):
    """Where pairs come from."""

    train: Annotated[Entry | None, Kind("source")] = Field(
        None, description="source whose rows have `chosen` and `rejected`, and `prompt` or chats with their prompt"
    )
    evaluate: Annotated[Entry | None, Kind("source")] = Field(None, description="source of held-out pairs")
    from_run: FromRunBlock | None = Field(None, description="frozen rollouts of a run instead (--from-run)")
    media: MediaLimits = Field(default_factory=MediaLimits, description="where media may lie, and how big they may be")
    max_prompt_tokens: int | None = Field(None, ge=1, description="prompts over it are dropped and counted, never cut")
    max_tokens: int | None = Field(4096, ge=2, description="prompts with an answer over it are dropped and counted")


class DPOConfig(FitConfig):
    """A run of `mmcredit dpo`, as a YAML file says it."""

    data: PairsBlock
    loss: Annotated[Entry, Kind("preference")] = Field("dpo", description="preference loss: dpo, tab_po, tgdpo, t_reg")
    reference: str | None = Field(None, description="frozen reference model; none: the model as loaded")

    @model_validator(mode="after")
    def _components(self) -> DPOConfig:
        """A wrong name or field is found before anything is loaded."""
        for entry in (self.data.train, self.data.evaluate):
            if entry is not None:
                build("source", entry)
        build("preference", self.loss)
        build("train_engine", self.train.engine)
        if (self.data.train is None) == (self.data.from_run is None):
            raise ValueError("data: give train (a source of pairs) or from_run (--from-run RUN), exactly one of them")
        return self
