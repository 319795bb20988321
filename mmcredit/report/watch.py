"""`mmcredit watch`: the report page of a run over loopback, while the run goes on.

Two addresses are answered, `/` (the page) and `/state` (a fingerprint of the run's files, for the page to ask whether
there is more to see). No path of a request ever becomes a path of the disk, nothing is written, and a request whose
Host is not this server's own is refused: a page of another site cannot read the run by a name that points here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mmcredit.report import files
from mmcredit.report.page import page
from mmcredit.report.records import load_run

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
_WATCHED = (files.CONFIG, files.METRICS, files.EVALUATIONS, files.EVENTS, files.COST, files.HEATMAPS)


def fingerprint(run_dir: Path) -> str:
    """Changes when a file of the run that the page shows has changed."""
    parts = []
    for path in (*(run_dir / name for name in _WATCHED), *sorted((run_dir / files.SAMPLES).glob("*.parquet"))):
        try:
            stat = path.stat()
        except OSError:
            continue
        parts.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class Watched:
    """The page of a run, rendered again when its files have changed and somebody asks."""

    def __init__(self, run_dir: Path, seconds: float) -> None:
        """Raises ValueError for a directory that is no run."""
        self.run_dir, self.seconds = run_dir, seconds
        self._lock = threading.Lock()
        self._state, self._html = "", ""
        self.refresh()

    def refresh(self) -> tuple[str, str]:
        """(fingerprint, page). A file caught in the middle of a write leaves the last page in place."""
        with self._lock:
            state = fingerprint(self.run_dir)
            if state != self._state:
                try:
                    self._html = page(load_run(self.run_dir), watch={"state": state, "seconds": self.seconds})
                    self._state = state
                except ValueError:
                    if not self._html:
                        raise
            return self._state, self._html


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    watched: Watched


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "mmcredit"
    sys_version = ""

    def do_GET(self) -> None:
        """The page or the state; nothing else exists."""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in [f"{name}:{port}" for name in NAMES]:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"this address only\n")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.watched.refresh()[1].encode("utf-8"))
        elif self.path == "/state":
            state = fingerprint(self.server.watched.run_dir)
            self._answer(HTTPStatus.OK, "application/json", json.dumps({"state": state}).encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: the page asks every few seconds."""


def serve(run_dir: str | Path, port: int = 0, seconds: float = 5.0, ready: Callable[[str], None] | None = None) -> None:
    """Serve the page of a run until interrupted. `ready` is told the address; port 0 takes a free one.

    Raises ValueError for a directory that is no run and a port that is taken.
    """
    server = open_server(run_dir, port, seconds)
    try:
        if ready is not None:
            ready(f"http://{HOST}:{server.server_address[1]}/")
        server.serve_forever()
    finally:
        server.server_close()


def open_server(run_dir: str | Path, port: int = 0, seconds: float = 5.0) -> ThreadingHTTPServer:
    """The server of `serve`, not serving yet."""
    if not 0 <= port < 65536:
        raise ValueError(f"--port must lie in 0..65535, got {port}")
    if not seconds >= 0.1:
        raise ValueError(f"--seconds must be at least 0.1, got {seconds:g}")
    watched = Watched(Path(run_dir), seconds)
    try:
        server = _Server((HOST, port), _Handler)
    except OSError as error:
        raise ValueError(f"port {port} cannot be used ({error.strerror}); give another one with --port") from None
    server.watched = watched
    return server
