"""`mmcredit serve-rollouts`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcredit.components import build, nearest
from mmcredit.rollout.serving.host import Host
from mmcredit.rollout.serving.service import Service
from mmcredit.scratch import clean

ENGINES = ("vllm", "hf")  # engines with a model of their own, or on one that the server loads
LISTENS = "listening on "  # how the line begins that says where


def serve(options: Namespace, engine: str | Mapping[str, Any]) -> int:
    """Serve until interrupted. Raises ValueError for options that do not fit."""
    name = build("engine", engine).name
    if name not in ENGINES:
        raise ValueError(f"--engine {name!r} cannot be served; {nearest(name, ENGINES)}")
    if not options.model.startswith("builtin:") and Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    host = Host(
        options.model,
        engine,
        device=options.device,
        trust_remote_code=options.trust,
        limit_media=options.media_mb * 2**20,
    )
    token = os.environ.get(options.token_env) or None
    service = Service(host, options.host, options.port, token, options.max_body_mb * 2**20)
    threading.Thread(target=service.serve_forever, name="http", daemon=True).start()
    if options.with_parent:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: host.stop())
    print(f"{LISTENS}{service.url} ({name}, {options.model}); the model is loaded when a run opens it", flush=True)
    try:
        host.run()  # in this thread: engines mind which one they live in
    finally:
        service.shutdown()
        service.server_close()
    return 0


def _end_with_parent() -> None:
    """The trainer holds the other end of standard input: it closes however the trainer ends."""
    while sys.stdin.buffer.read(1024):
        pass
    clean()
    os._exit(0)
