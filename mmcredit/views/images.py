"""What the views `masked` and `corrupted` show: settings only, read when a config is checked (no torch here)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmcredit.corruptions.base import Corruption
from mmcredit.corruptions.suite import SEEN, Suite, operator


class MaskedView(BaseModel):
    """Random squares of the image set to black."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = Field(0.5, ge=0, le=1, description="of a square to be black, each by itself")
    patch_size: int = Field(14, gt=0, description="side of a square, pixels of the image as the model sees it")


class CorruptedView(BaseModel):
    """One operator and one severity drawn per prompt, step and view."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    operators: tuple[Corruption, ...] = Field(default=SEEN, validate_default=True, description="drawn from")
    severity: tuple[int, int] = Field((1, 3), description="least and greatest; [0, 0] leaves every image as it is")

    @field_validator("operators", mode="before")
    @classmethod
    def _build(cls, specs: Any) -> tuple[Corruption, ...]:
        if isinstance(specs, str) or not hasattr(specs, "__iter__") or isinstance(specs, dict | Corruption):
            raise ValueError(f"a list of corruptions is wanted, got {specs!r}; write [{specs!r}]")
        built = tuple(operator(spec) for spec in specs)
        if not built:
            raise ValueError("no corruption to draw from; name at least one operator")
        return built

    @model_validator(mode="after")
    def _can_be_drawn(self) -> CorruptedView:
        if self.severity != (0, 0):
            self.suite()
        return self

    def suite(self) -> Suite:
        """The operators as a suite to draw from. Raises ValueError for a severity outside 1 to 5."""
        return Suite(seen=self.operators, unseen=(), severity=self.severity)


ViewSettings = MaskedView | CorruptedView
