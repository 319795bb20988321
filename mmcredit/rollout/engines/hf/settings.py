"""The fields of the engine `hf`."""

from __future__ import annotations

from pydantic import Field

from mmcredit.components import Component


class Settings(Component):
    """The fields of the engine `hf`; the component that adds `open` is `HF`."""

    max_concurrent: int = Field(256, ge=1, description="responses sampled at a time")
    max_cache_tokens: int = Field(262_144, ge=1, description="tokens whose keys and values are held at a time")
    prefill_tokens: int = Field(8192, ge=1, description="prompt tokens read in one forward, padding included")
