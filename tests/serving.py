"""Rollout servers for tests: in a thread of this process, or one of the kinds of broken ones."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmcredit.rollout.serving.host import Host
from mmcredit.rollout.serving.service import Service


@contextmanager
def serve(path: Any, engine: Any = "hf", token: str | None = None, **options: Any) -> Iterator[Service]:
    """A server whose engine runs in a thread of this process."""
    host = Host(str(path), engine, device="cpu", **options)
    service = Service(host, "127.0.0.1", 0, token, 64 * 2**20)
    threads = [threading.Thread(target=work, daemon=True) for work in (host.run, service.serve_forever)]
    for thread in threads:
        thread.start()
    try:
        yield service
    finally:
        host.stop()
        threads[0].join(timeout=60)
        service.shutdown()
        service.server_close()


@contextmanager
def answering(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that answers whatever `answer` says; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
