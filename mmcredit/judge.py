"""A judge model behind an OpenAI-compatible address: scoring of benchmarks, votes on steps, hints."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LARGEST_REPLY = 4 * 2**20  # bytes
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Ask:
    """A question to the judge model. The reply is its text, or None: no judge, or it could not be had."""

    prompt: str
    system: str | None = None
    sample: str = field(default="", compare=False)  # for messages
    seed: int | None = None  # sent along; two votes on one question differ in it


class JudgeConfig(BaseModel):
    """Where the judge is and how it is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(description="address up to and with /v1, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="name of the model at that address")
    api_key_env: str | None = Field(
        default=None, description="environment variable that holds the key; None: no key is sent"
    )
    timeout: float = Field(default=60.0, gt=0, description="seconds for one request")
    retries: int = Field(default=3, ge=0, description="further attempts after a failure that may pass")
    backoff: float = Field(default=1.0, ge=0, description="seconds before the first retry; doubled each time")
    concurrency: int = Field(default=8, ge=1, le=256, description="requests at a time")
    max_tokens: int = Field(default=256, ge=1, description="longest reply")
    temperature: float = Field(default=0.0, ge=0, description="sampling temperature of the judge")
    cache: Path | None = Field(default=None, description="JSON lines file of replies; a rerun asks nothing twice")

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an http or https address is wanted, got {url!r}")
        if parts.username or parts.password:
            raise ValueError("the address must not carry a key; name an environment variable in api_key_env")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _key_is_not_sent_in_the_clear(self) -> JudgeConfig:
        if self.api_key_env and self.base_url.startswith("http:") and not _is_loopback(self.base_url):
            raise ValueError(f"{self.base_url} would get the key in the clear; use https, or a tunnel to 127.0.0.1")
        return self


def _is_loopback(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


class _Failed(Exception):
    """A request that gave no reply; `passing` if another attempt may succeed."""

    def __init__(self, reason: str, message: str, passing: bool) -> None:
        super().__init__(message)
        self.reason, self.passing = reason, passing


class Judge:
    """Asks the judge model, several questions at a time; keeps every reply in a cache.

    A question whose reply cannot be had has the reply None: it is counted under its reason, and the benchmark's rule
    decides. Redirects are not followed, so that a key goes to the configured address only. Questions are sent as chat
    messages; replies are only ever read as text.
    """

    def __init__(self, config: JudgeConfig) -> None:
        """Raises ValueError if the key's environment variable is not set or the cache cannot be read."""
        self.config = config
        self.counts: dict[str, int] = {}  # "asked", "cached", "retried", "failed", "failed/timeout", "failed/http 401"
        self.first_errors: list[str] = []
        self._lock = threading.Lock()
        self._key: str | None = None
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env)
            if not self._key:
                raise ValueError(f"judge: the environment variable {config.api_key_env} (api_key_env) is not set")
            if not self._key.isprintable() or not self._key.isascii():
                raise ValueError(f"judge: the environment variable {config.api_key_env} holds no usable key")
        self._known = self._read_cache()
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if _is_loopback(config.base_url):
            handlers.append(urllib.request.ProxyHandler({}))  # the environment may name a proxy
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, questions: Sequence[Ask]) -> list[str | None]:
        """Replies in the order of the questions. Equal questions are asked once."""
        keys = [self._cache_key(question) for question in questions]
        self._count("cached", sum(key in self._known for key in keys))
        new = {key: q for key, q in zip(keys, questions, strict=True) if key not in self._known}
        failed: dict[str, None] = {}
        if new:
            with ThreadPoolExecutor(max_workers=min(self.config.concurrency, len(new))) as pool:
                for key, reply in zip(new, pool.map(self._one, new, new.values()), strict=True):
                    if reply is None:
                        failed[key] = None
        return [None if key in failed else self._known[key] for key in keys]

    def _one(self, key: str, question: Ask) -> str | None:
        for attempt in range(self.config.retries + 1):
            try:
                reply = self._request(question)
            except _Failed as error:
                if error.passing and attempt < self.config.retries:
                    self._count("retried")
                    time.sleep(min(60.0, self.config.backoff * 2**attempt))
                    continue
                with self._lock:
                    if len(self.first_errors) < 5:
                        self.first_errors.append(f"{question.sample or 'a question'}: {error}")
                self._count("failed")
                self._count(f"failed/{error.reason}")
                return None
            self._count("asked")
            with self._lock:
                self._known[key] = reply
                self._append(key, reply)
            return reply
        return None

    def _messages(self, question: Ask) -> list[dict[str, str]]:
        system = [{"role": "system", "content": question.system}] if question.system else []
        return [*system, {"role": "user", "content": question.prompt}]

    def _body(self, question: Ask) -> dict[str, Any]:
        seed = {} if question.seed is None else {"seed": question.seed}
        return seed | {
            "model": self.config.model,
            "messages": self._messages(question),
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }

    def _request(self, question: Ask) -> str:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.config.base_url}/chat/completions",
            data=json.dumps(self._body(question)).encode(),
            headers=headers,
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self.config.timeout) as answer:
                body = answer.read(LARGEST_REPLY + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode("utf-8", "replace")
            raise _Failed(
                f"http {error.code}", f"HTTP {error.code} from the judge: {said!r}", error.code in RETRIED
            ) from None
        except TimeoutError:
            raise _Failed("timeout", f"no reply within {self.config.timeout:g} s", True) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = "timeout" if isinstance(getattr(error, "reason", None), TimeoutError) else "connection"
            raise _Failed(reason, f"{self.config.base_url}: {error}", True) from None
        if len(body) > LARGEST_REPLY:
            raise _Failed("malformed", f"the reply has more than {LARGEST_REPLY} bytes", False)
        try:
            reply = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise _Failed("malformed", f"no chat completion: {body[:200]!r}", False) from None
        if not isinstance(reply, str):
            raise _Failed("malformed", f"the reply has no text: {reply!r}", False)
        return reply

    # --- the cache

    def _cache_key(self, question: Ask) -> str:
        """A hash of everything that decides the reply; another model or temperature asks anew."""
        text = json.dumps({"base_url": self.config.base_url, **self._body(question)}, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _read_cache(self) -> dict[str, str]:
        path = self.config.cache
        known: dict[str, str] = {}
        if path is None or not path.exists():
            return known
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"judge.cache {str(path)!r} cannot be read: {error}") from None
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                known[entry["key"]] = str(entry["reply"])
            except (ValueError, KeyError, TypeError):
                if number < len(lines) - 1:  # the last line may have been cut off by a kill
                    raise ValueError(f"judge.cache {str(path)!r}, line {number + 1} is no cache entry") from None
                self._count("cache line cut off")
        return known

    def _append(self, key: str, reply: str) -> None:
        path = self.config.cache
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps({"key": key, "model": self.config.model, "reply": reply}) + "\n").encode()
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # after a line that was cut off
                    file.seek(0)
                    whole = file.read().rpartition(b"\n")[0]
                    file.truncate(len(whole) + 1 if whole else 0)
            file.write(line)

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            with self._lock:
                self.counts[what] = self.counts.get(what, 0) + number


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
