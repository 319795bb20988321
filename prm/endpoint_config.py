"""The settings of a verifier behind an address. No torch here: config checks must not load it."""

from __future__ import annotations

import urllib.parse
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointConfig(BaseModel):
    """Where the verifier is and how it is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: tuple[str, ...] | str = Field(description="address up to and with /v1, or a list of replicas")
    model: str = Field(min_length=1, description="name of the model at that address")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; none: no key is sent")
    layout: Literal["full", "short"] = Field(
        "full", description="full: instructions and an example; short: question and response alone"
    )
    max_tokens: int = Field(4096, ge=1, description="longest verification")
    temperature: float = Field(0.0, ge=0, description="of the verifier's sampling")
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of a request, e.g. {chat_template_kwargs: {enable_thinking: false}}; null leaves "
        "one out: {max_tokens: null, max_completion_tokens: 4096}",
    )
    max_pixels: int | None = Field(None, ge=1, description="larger images are scaled down to this many pixels")
    timeout: float = Field(120.0, gt=0, description="seconds for one request, all of it")
    retries: int = Field(2, ge=0, description="further attempts after a failure that may pass")
    backoff: float = Field(
        1.0,
        ge=0,
        description="seconds before the first retry; doubled each time, +-25 %; or what Retry-After asks",
    )
    concurrency: int = Field(16, ge=1, le=1024, description="requests at a time")
    break_after: int = Field(8, ge=1, description="failures in a row after which a replica is left alone")
    rest: float = Field(30.0, ge=0, description="seconds for which it is left alone; then one request tries it")
    max_reply_bytes: int = Field(4 * 2**20, ge=1, description="longer replies are an error")

    @field_validator("extra")
    @classmethod
    def _leaves_the_question_alone(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := {"messages", "model", "stream", "n"} & set(extra):
            raise ValueError(f"field {sorted(taken)[0]!r} of a request is the verifier's own business")
        return extra

    @field_validator("base_url")
    @classmethod
    def _are_http(cls, urls: tuple[str, ...] | str) -> tuple[str, ...]:
        found = (urls,) if isinstance(urls, str) else urls
        if not found:
            raise ValueError("at least one address is wanted")
        for url in found:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"an http or https address is wanted, got {url!r}")
            if parts.username or parts.password:
                raise ValueError("the address must not carry a key; name an environment variable in api_key_env")
        return tuple(url.rstrip("/") for url in found)

    @model_validator(mode="after")
    def _key_is_not_sent_in_the_clear(self) -> EndpointConfig:
        for url in self.urls:
            parts = urllib.parse.urlsplit(url)
            if self.api_key_env and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
                raise ValueError(f"{url} would get the key in the clear; use https, or a tunnel to 127.0.0.1")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The replicas."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url
