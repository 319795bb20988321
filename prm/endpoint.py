"""A verifier behind an OpenAI-compatible address (vLLM's server, for one)."""

from __future__ import annotations

import base64
import http.client
import io
import json
import math
import os
import random
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from mmcredit.data.media import MediaLimits, load_image, read_bytes
from mmcredit.data.sample import Media
from prm.endpoint_config import EndpointConfig
from prm.parse import Verification, failed, parse_verification
from prm.prompt import parts_of, prompt_version
from prm.verifier import Query, sound_queries

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_MIME = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"))


_OVERFLOW = re.compile(rb"context.length|max_model_len|maximum model length|max_(completion_)?tokens", re.IGNORECASE)


class _Failed(Exception):
    """A request without a reply; `passing`: another attempt may succeed; `sick`: it speaks against the replica.

    `busy`: the replica asks for patience, `wait` seconds where it says how long.
    """

    def __init__(self, message: str, passing: bool, sick: bool = True, busy: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.sick, self.busy, self.wait = passing, sick, busy, wait


class Breaker:
    """Circuit breaker of one replica: after `after` failures in a row open for `rest` seconds, then one trial."""

    def __init__(self, after: int, rest: float) -> None:
        self.after, self.rest = after, rest
        self.failures = 0
        self.opened = 0  # times
        self._until = 0.0
        self._trial = False
        self._lock = threading.Condition()

    def allows(self, patience: float = 0.0) -> bool:
        """Whether a request may go out now. The first one after the rest is a trial.

        Others wait for its outcome, at most `patience` seconds: when the server is back, no query of the batch is lost.
        """
        with self._lock:
            if patience and self._trial:
                self._lock.wait_for(lambda: not self._trial, patience)
            if self.failures < self.after:
                return True
            if time.monotonic() < self._until or self._trial:
                return False
            self._trial = True
            return True

    def succeeded(self) -> None:
        """A reply came: closed again."""
        with self._lock:
            self.failures, self._trial = 0, False
            self._lock.notify_all()

    def undecided(self) -> None:
        """Neither: a replica that is busy is not dead. A trial is over, and another may be made."""
        with self._lock:
            self._trial = False
            self._lock.notify_all()

    def failed(self) -> None:
        """No reply came."""
        with self._lock:
            self.failures += 1
            self._trial = False
            self._lock.notify_all()
            if self.failures >= self.after:
                self.opened += self.failures == self.after
                self._until = time.monotonic() + self.rest


class EndpointVerifier:
    """Asks a model over HTTP, many queries at a time. A query that gets no reply is `prm_error` with the reason.

    Queries about one image go to one replica (its prefix cache knows the image), a retry to the next. Redirects and
    proxies are not followed: the key goes to the configured address alone. A reply that is no chat completion, or is
    cut off by its length, is never taken for "correct".
    """

    def __init__(self, config: EndpointConfig, limits: MediaLimits | None = None) -> None:
        """Raises ValueError if the key's environment variable is not set."""
        self.config, self.limits = config, limits or MediaLimits()
        self.version = (
            f"{config.model} at T={config.temperature:g}, {config.max_tokens} tokens, {config.layout} "
            f"{prompt_version(config.layout)}, pixels {config.max_pixels}"
            + (f", {json.dumps(config.extra, sort_keys=True)}" if config.extra else "")
        )
        self.breakers = [Breaker(config.break_after, config.rest) for _ in config.urls]
        self.counts: dict[str, int] = {}  # requests, retries, refused by the breaker, failures by kind
        self._lock = threading.Lock()
        self._key: str | None = None
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env)
            if not self._key or not self._key.isprintable() or not self._key.isascii():
                raise ValueError(f"the environment variable {config.api_key_env} (api_key_env) holds no usable key")
        self._pool = ThreadPoolExecutor(max_workers=config.concurrency, thread_name_prefix="prm")

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query, in order."""
        asked, known = sound_queries(queries)
        for i, said in zip(asked, self._pool.map(self._one, [queries[i] for i in asked]), strict=True):
            known[i] = said
        assert all(said is not None for said in known)
        return [said for said in known if said is not None]

    def close(self) -> None:
        """Wait for no further request."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, query: Query) -> Verification:
        began = time.monotonic()
        try:
            body = json.dumps(self._body(query)).encode()
        except ValueError as unusable:  # an image that cannot be decoded, an image without a place
            return failed(f"query: {unusable}")
        home = int(query.key("")[:8], 16) if not query.images else _home(query)
        error: _Failed | None = None
        calls = 0
        for attempt in range(self.config.retries + 1):
            if attempt:
                self._count("retries")
                time.sleep(self._pause(attempt, error))
            replica = self._replica(home + attempt)
            if replica is None:
                self._count("refused")
                reason = "circuit open: the verifier has failed too often and is left alone for a while"
                return failed(reason if error is None else f"{error}; {reason}", {"calls": calls})
            calls += 1
            self._count("requests")
            try:
                said = self._request(replica, body)
            except _Failed as failure:
                error = failure
                if failure.busy and failure.passing and attempt < self.config.retries:
                    self.breakers[replica].undecided()  # a burst of refusals must not lose the rest of the batch
                elif failure.sick:
                    self.breakers[replica].failed()
                else:
                    self.breakers[replica].succeeded()
                if failure.passing:
                    continue
                break
            self.breakers[replica].succeeded()
            usage = {**said.usage, "calls": float(calls), "seconds": time.monotonic() - began}
            return replace(said, usage=usage)
        self._count("failed")
        return failed(str(error), {"calls": float(calls), "seconds": time.monotonic() - began})

    def _pause(self, attempt: int, error: _Failed | None) -> float:
        """Seconds before an attempt: the back-off, or what the only replica asks for if that is more."""
        own = self.config.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return max(own, error.wait) if error is not None and len(self.breakers) == 1 else own

    def _replica(self, wanted: int) -> int | None:
        """The wanted replica, or the next that is well; where none is, what a trial under way comes to is awaited."""
        count = len(self.breakers)
        order = [i % count for i in range(wanted, wanted + count)]
        well = next((i for i in order if self.breakers[i].allows()), None)
        if well is None:
            well = next((i for i in order if self.breakers[i].allows(patience=self.config.timeout)), None)
        return well

    def _body(self, query: Query) -> dict[str, Any]:
        system, parts = parts_of(query, self.config.layout)
        images = iter(query.images)
        content = [part if part["type"] == "text" else self._image(next(images)) for part in parts]
        messages = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.config.model,
            "messages": [*messages, {"role": "user", "content": content}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
            "seed": query.attempt,
            **self.config.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _image(self, media: Media) -> dict[str, Any]:
        if media.kind != "image":
            raise ValueError(f"verifiers read images, got a {media.kind} ({media.name})")
        data = read_bytes(media, self.limits)
        mime = next((mime for start, mime in _MIME if data.startswith(start)), None)
        most = self.config.max_pixels
        if mime is None or most is not None:
            image = load_image(media, self.limits)
            if mime is None or (most is not None and image.width * image.height > most):
                if most is not None and image.width * image.height > most:
                    factor = (most / (image.width * image.height)) ** 0.5
                    image = image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                data, mime = buffer.getvalue(), "image/png"
        url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}

    def _request(self, replica: int, body: bytes) -> Verification:
        reply = self._post(self.config.urls[replica], body)
        try:
            value = json.loads(reply)
            choice = value["choices"][0]
            text = _written(choice["message"])
            cut = choice.get("finish_reason") == "length"
            usage = value.get("usage") or {}
            spent = {
                "prompt_tokens": float(usage.get("prompt_tokens") or 0),
                "new_tokens": float(usage.get("completion_tokens") or 0),
            }
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise _Failed(f"no chat completion: {reply[:120]!r}", passing=True) from None
        if text is None:  # a refusal, a filter; the replica itself is well
            raise _Failed(f"the reply has no text: {str(choice)[:120]!r}", passing=True, sick=False)
        return replace(parse_verification(text, cut), usage=spent)

    def _post(self, url: str, body: bytes) -> bytes:
        """The body of a reply. The deadline holds for all of it, however slowly it trickles."""
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None
        timeout = self.config.timeout
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        late = threading.Event()

        def expire() -> None:
            late.set()
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(2)  # wakes whatever reads or writes

        watch = threading.Timer(timeout, expire)
        watch.daemon = True
        watch.start()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request("POST", f"{parts.path}/chat/completions", body, headers)
            answer = connection.getresponse()
            reply = answer.read(self.config.max_reply_bytes + 1)
            status, after = answer.status, answer.getheader("Retry-After")
            whole = len(reply) > self.config.max_reply_bytes or not answer.length
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise _Failed(f"timeout: no reply within {timeout:g} s", passing=True) from None
            raise _Failed(f"connection: {url}: {type(error).__name__} {error}", passing=True) from None
        finally:
            watch.cancel()
            connection.close()
        if late.is_set():
            raise _Failed(f"timeout: no reply within {timeout:g} s", passing=True)
        if status != 200:
            said = f"HTTP {status}: {reply[:400].decode('utf-8', 'replace')!r}"
            if status in (400, 413, 422) and _OVERFLOW.search(reply):
                raise _Failed(
                    f"context: {said}; lower max_tokens ({self.config.max_tokens}) or max_pixels", False, sick=False
                )
            # Other 4xx are about the request, too: the replica is well.
            sick = status in RETRIED or status >= 500
            wait = _seconds(after)
            passing = status in RETRIED and wait <= timeout  # what takes longer is not waited for
            raise _Failed(said, passing, sick, busy=status == 429 or after is not None, wait=wait)
        if len(reply) > self.config.max_reply_bytes:
            raise _Failed(f"the reply has more than max_reply_bytes={self.config.max_reply_bytes}", passing=False)
        if not whole:
            raise _Failed("connection: the reply broke off", passing=True)
        return reply

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + 1


def _written(message: Any) -> str | None:
    """What the model wrote; None where it wrote nothing.

    A server with a reasoning parser takes the think block out of the content (all of it, where the block never ends,
    and then the content is null); a chat template may have opened the block. Both are put together again.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(content, str):
        content = None
    if not isinstance(thoughts, str) or not thoughts:
        return content
    return f"<think>{thoughts}</think>{content}" if content else f"<think>{thoughts}"


def _seconds(after: str | None) -> float:
    """The header Retry-After: seconds, or a date; 0 for none, or for what is neither."""
    if after is None:
        return 0.0
    try:
        return max(0.0, float(after)) if math.isfinite(float(after)) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _home(query: Query) -> int:
    """A number for the image of a query: its requests go to one replica."""
    return int(replace(query, question="", response="", attempt=0).key("")[:8], 16)
