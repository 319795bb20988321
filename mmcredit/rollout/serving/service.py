"""The HTTP side of a rollout server: who may ask, how much, and which method of `Host` answers.

Paths: GET /health, /jobs/ID?wait=S; POST /open, /weights/begin, /weights/VERSION, /weights/commit, /media/KEY,
/generate. What takes long answers {"job": ID}. An error is {"error": text, "kind": word}.
"""

from __future__ import annotations

import hmac
import json
import socketserver
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mmcredit.rollout.serving.host import Host
from mmcredit.rollout.serving.wire import HEADER, Rejected

LOOPBACK = ("127.0.0.1", "localhost")
_STATUS = {"token": 401, "size": 413, "path": 404, "request": 400}  # of the other kinds: 409
_LONGEST_WAIT = 30.0  # seconds that a question for a job is held open


class Service(ThreadingHTTPServer):
    """Serves a `Host` on host:port (0: a free one), bodies of at most `limit` bytes.

    Raises ValueError for an address other than loopback without a token.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: Host, address: str, port: int, token: str | None, limit: int) -> None:
        if address not in LOOPBACK and not token:
            raise ValueError(
                f"--host {address} can be reached from other machines: set a token in the environment variable that "
                "--token-env names (default MMCREDIT_ROLLOUT_TOKEN)"
            )
        self.host, self.token, self.limit = host, token, limit
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the base class asks the network for this machine's name

    @property
    def url(self) -> str:
        """Where it listens."""
        address, port = self.server_address[:2]
        return f"http://{address!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120  # seconds without a byte
    server: Service

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: polls would fill any log."""

    def _answer(self, method: str) -> None:
        status, answer = 200, {}
        try:
            body = self._body()
            self._allowed()
            answer = self._route(method, body)
        except Rejected as error:
            status, answer = _STATUS.get(error.kind, 409), {"error": str(error), "kind": error.kind, **error.details}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            status, answer = 400, {"error": f"the request cannot be read: {error!r}", "kind": "request"}
        text = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            self.close_connection = True  # the trainer has gone

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > self.server.limit or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Rejected(f"a body of {length} bytes; the server takes {self.server.limit} (--max-body-mb)", "size")
        if int(length) and not self._known():
            self.close_connection = True  # nothing of a stranger is read
            raise Rejected("a token is needed, and this is not the one", "token")
        return self.rfile.read(int(length))

    def _known(self) -> bool:
        token = self.server.token
        if token is None:
            return True
        return hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())

    def _allowed(self) -> None:
        if not self._known():
            raise Rejected("a token is needed, and this is not the one", "token")
        if HEADER not in self.headers:
            raise Rejected(f"the header {HEADER} is missing: this is no web page", "token")

    def _route(self, method: str, body: bytes) -> dict[str, Any]:
        parts = urlsplit(self.path)
        host, words = self.server.host, parts.path.strip("/").split("/")
        if method == "GET" and words == ["health"]:
            return host.health()
        if method == "POST" and words == ["open"]:
            return dict(host.open(json.loads(body)))
        if method == "GET" and len(words) == 2 and words[0] == "jobs":  # also of a session that has ended with its job
            wait = float(parse_qs(parts.query).get("wait", ["0"])[0])
            return host.job(words[1], min(max(0.0, wait), _LONGEST_WAIT))
        host.check(self.headers.get(HEADER, ""))  # a session's name
        if method == "POST" and words == ["generate"]:
            return {"job": host.generate(json.loads(body))}
        if method == "POST" and words == ["weights", "begin"]:
            return {"job": host.begin_weights(int(json.loads(body)["version"]))}
        if method == "POST" and words == ["weights", "commit"]:
            return {"job": host.commit_weights(int(json.loads(body)["version"]))}
        if method == "POST" and len(words) == 2 and words[0] == "weights":
            host.put_weights(int(words[1]), body)
            return {}
        if method == "POST" and len(words) == 2 and words[0] == "media":
            host.put_media(words[1], body)
            return {}
        raise Rejected(f"{method} {parts.path} is not known here", "path")
