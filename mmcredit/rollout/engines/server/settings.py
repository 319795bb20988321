"""The fields of the engine `server`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from mmcredit.components import Component
from mmcredit.yaml_values import Kind


class Settings(Component):
    """The fields of the engine `server`; the component that adds `open` is `Server`."""

    urls: list[str] = Field(
        default_factory=list, description="servers that run already, http://HOST:PORT; none = start some"
    )
    start: int = Field(1, ge=1, description="without urls: servers that the run starts on this machine")
    engine: Annotated[str | dict[str, Any], Kind("engine")] = Field(
        "vllm", description="engine of started servers: vllm or hf, with its fields"
    )
    gpus: list[str] = Field(
        default_factory=list, description="CUDA_VISIBLE_DEVICES of each started server; none = as this process"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of each started server; none = torch's own choice")
    token_env: str = Field("MMCREDIT_ROLLOUT_TOKEN", description="environment variable with the token of urls")
    start_timeout: float = Field(900.0, gt=0, description="seconds until a server has loaded its model")
    answer_timeout: float = Field(60.0, gt=0, description="seconds until a server answers anything at all")
    stall_timeout: float = Field(300.0, gt=0, description="seconds without a token drawn while responses are awaited")
    reconnect_timeout: float = Field(60.0, gt=0, description="seconds that a lost server of urls is tried again")
    faults: int = Field(3, ge=0, description="faults in a row that are borne; one more ends the run")
    bucket_mb: int = Field(256, ge=1, description="MiB of weights sent at a time")
    probe: bool = Field(True, description="after each update compare log-probs of a few tokens with the trainer's")

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
                raise ValueError(f"{url!r} is no address of a rollout server; write http://HOST:PORT")
        if len(set(urls)) < len(urls):
            raise ValueError("a server stands there twice")
        return [url.rstrip("/") for url in urls]

    @field_validator("engine")
    @classmethod
    def _served(cls, engine: str | dict[str, Any]) -> str | dict[str, Any]:
        name = engine if isinstance(engine, str) else next(iter(engine), "")
        if name not in ("vllm", "hf"):
            raise ValueError(f"a server runs vllm or hf, not {name!r}")
        return engine
