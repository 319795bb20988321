"""One rollout server, as the trainer sees it: short questions with deadlines, and what can go wrong with them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.serving import wire
from mmcredit.rollout.serving.host import MODEL_FIELDS

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engines.server.settings import Settings

_PIECE = 1 << 20  # bytes read at a time
_LONGEST_ANSWER = 1 << 30  # bytes


class Fault(Exception):
    """A server failed; `kind`: unreachable, hanging, stalled, garbage, engine, restarted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Link:
    """A server at `url`, and the session that this trainer has there. `weights`: `wire.describe` of the trainer's."""

    def __init__(
        self, url: str, token: str | None, policy: Policy, weights: Mapping[str, Sequence[Any]], config: Settings
    ) -> None:
        self.url, self.token, self.policy, self.weights, self.config = url, token, policy, weights, config
        self.session = ""
        self.form = "tensors"
        self.sent: set[str] = set()  # keys of media that it has been given
        self.version: int | None = None  # of the weights that it has
        self.media_bytes = self.weight_bytes = 0

    # A session --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin a session. Raises Fault, and ValueError where the server's model is not the trainer's."""
        policy = self.policy
        self.session, self.version = "", None
        self.sent.clear()
        model = policy.config.model_dump(mode="json")
        told = {
            "protocol": wire.PROTOCOL,
            "model": {name: model[name] for name in MODEL_FIELDS},
            "suppressed": list(policy.suppressed_ids),
            "ends": list(policy.eos_token_ids),
            "stop": list(policy.stop_strings),
        }
        begun = self._ask("POST", "/open", told)
        self.session = str(begun.get("session", ""))
        found = self._outcome(begun, self.config.start_timeout, still=self.config.start_timeout)
        try:
            if why := wire.disagreement(self.weights, found["weights"]):
                raise ValueError(
                    f"rollout server {self.url} has another model than the trainer: {why}; start it with the MODEL "
                    "that model.path names"
                )
            self.form = str(found["form"])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise Fault("garbage", f"{self.url}: its description of the model cannot be read ({error!r})") from None

    def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Send all trained weights. Raises Fault."""
        self.version = None
        limit = self.config.start_timeout
        self._outcome(self._ask("POST", "/weights/begin", {"version": version}), limit, still=self.config.stall_timeout)
        for body in wire.buckets(weights, self.config.bucket_mb * 2**20):
            self._ask("POST", f"/weights/{version}", body)
            self.weight_bytes += len(body)
        self._outcome(self._ask("POST", "/weights/commit", {"version": version}), limit, still=limit)
        self.version = version

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, hook: Any, finished: Callable[[int], None]
    ) -> list[Response]:
        """Responses in order. `finished` is told how many are done so far. Raises Fault; ValueError and RuntimeError as
        the engine of the server does."""
        told = wire.pack_requests(requests, self.form)
        told |= {"sampling": sampling.model_dump(), "hook": wire.pack_hook(hook), "weights": self.version}
        self._send_media(requests)
        for _ in range(3):
            begun = self._ask("POST", "/generate", told, media=True)
            if "missing" not in begun:
                break
            self.sent.difference_update(begun["missing"])  # they had to make room
            self._send_media(requests)
        else:
            raise ValueError(f"rollout server {self.url} has no room for the media of one call; raise --media-mb there")
        plain = self._outcome(begun, None, still=self.config.stall_timeout, finished=finished)
        try:
            return wire.read_responses(plain, requests, sampling.max_new_tokens, self.policy.body.vocabulary)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Fault("garbage", f"{self.url}: {error}") from None

    def _send_media(self, requests: Sequence[Request]) -> None:
        for prompt in {id(r.prompt): r.prompt for r in requests}.values():
            key = wire.media_key(prompt, self.form)
            if key is None or key in self.sent:
                continue
            pictures = []
            if self.form == "pictures":
                assert prompt.sample is not None
                if any(m.kind != "image" for m in prompt.sample.media):
                    raise ValueError(
                        f"sample {prompt.sample_id}: engine 'vllm' takes images only so far; use engine hf"
                    )
                pictures = [self.policy.encoder.load_image(m) for m in prompt.sample.media]
            body = wire.pack_media(prompt, self.form, pictures)
            self._ask("POST", f"/media/{key}", body)
            self.sent.add(key)
            self.media_bytes += len(body)

    # Questions --------------------------------------------------------------------------------------------------------

    def _outcome(
        self,
        begun: Mapping[str, Any],
        limit: float | None,
        *,
        still: float,
        finished: Callable[[int], None] | None = None,
    ) -> Any:
        """The result of a job that was begun: within `limit` seconds, and never `still` seconds without a change."""
        name = begun.get("job")
        if not isinstance(name, str):
            raise Fault("garbage", f"{self.url}: it names no job")
        began = changed = time.monotonic()
        last: Any = None
        while True:
            answer = self._ask("GET", f"/jobs/{name}?wait={min(5.0, self.config.answer_timeout / 4)}")
            if "outcome" in answer:
                return self._result(answer["outcome"])
            now = time.monotonic()
            signs = (answer.get("finished"), answer.get("draws"), answer.get("waiting"))
            if signs != last:
                last, changed = signs, now
                if finished is not None and isinstance(signs[0], int):
                    finished(signs[0])
            if now - changed > still or (limit is not None and now - began > limit):
                raise Fault("stalled", f"{self.url}: no progress for {min(now - changed, still):.0f} s")

    def _result(self, outcome: Any) -> Any:
        if not isinstance(outcome, dict) or not ({"result", "error"} & outcome.keys()):
            raise Fault("garbage", f"{self.url}: a job without an outcome")
        if "error" in outcome:
            self._raise(outcome)
        return outcome["result"]

    def _raise(self, answer: Mapping[str, Any]) -> None:
        kind, message = str(answer.get("kind")), str(answer["error"])
        if kind == "sample":
            raise RuntimeError(message)
        if kind == "taken":
            raise RuntimeError(f"rollout server {self.url}: {message}; a server serves one run at a time")
        if kind in ("session", "weights"):
            raise Fault("restarted", f"{self.url}: {message}")
        if kind == "engine":
            raise Fault("engine", f"{self.url}: its engine failed ({message})")
        raise ValueError(f"rollout server {self.url}: {message}")

    def _ask(self, method: str, path: str, body: Any = None, media: bool = False) -> dict[str, Any]:
        """The JSON object that the server answers. `media`: an answer that names missing media is one."""
        status, text = self._exchange(method, path, body)
        try:
            answer = json.loads(text)
            if not isinstance(answer, dict) or (status != 200 and "error" not in answer):
                raise ValueError("no object")
        except ValueError:
            raise Fault("garbage", f"{self.url}: an answer to {path.split('?')[0]} that is no JSON object") from None
        if status != 200 and not (media and isinstance(answer.get("missing"), list)):
            self._raise(answer)
        return answer

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        limit = self.config.answer_timeout
        until = time.monotonic() + limit
        parts = urlsplit(self.url)
        maker = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = maker(parts.hostname or "", parts.port, timeout=limit)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {wire.HEADER: self.session or "none"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = bytearray()
            while piece := response.read1(_PIECE):  # the time limit of a socket is for each piece
                text += piece
                if len(text) > _LONGEST_ANSWER:
                    raise Fault("garbage", f"{self.url}: an answer of more than {_LONGEST_ANSWER >> 20} MiB")
                if time.monotonic() > until + limit:
                    raise TimeoutError
            if response.length:
                raise http.client.IncompleteRead(bytes(text))
            return response.status, bytes(text)
        except TimeoutError:
            raise Fault("hanging", f"{self.url}: no answer for {limit:g} s") from None
        except OSError as error:
            raise Fault("unreachable", f"{self.url}: {error.strerror or error}") from None
        except http.client.HTTPException as error:
            raise Fault("garbage", f"{self.url}: no HTTP answer ({error!r})") from None
        finally:
            connection.close()
