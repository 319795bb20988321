"""A rollout server that the run starts itself: on this machine, on loopback, with a token of its own."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from mmcredit.rollout.engines.server.link import Fault

if TYPE_CHECKING:
    from mmcredit.rollout.engines.server.settings import Settings

_LISTENS = "listening on "
_LOG_BYTES = 65536  # of the log's end, where the last line is looked for


class Process:
    """One server process. It ends with this one, however this one ends: it reads a pipe that we hold."""

    def __init__(self, model: Any, config: Settings, number: int) -> None:
        """`model`: the `model` part of the run's config."""
        self.model, self.config, self.number = model, config, number
        self.token = secrets.token_urlsafe(24)
        self.url = ""
        # Without a name: nothing is left, however this process ends.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def start(self) -> str:
        """Start it, or start it again; the address that it listens on. Raises Fault if it ends or says nothing."""
        self.stop()
        if self._closed:
            raise Fault("unreachable", "the run has ended")
        config = self.config
        command = [sys.executable, "-m", "mmcredit.cli", "serve-rollouts", self.model.path, "--port", "0"]
        command += ["--engine", json.dumps(config.engine), "--device", self.model.device, "--with-parent"]
        command += ["--trust-remote-code"] if self.model.trust_remote_code else []
        command += ["--threads", str(config.threads)] if config.threads is not None else []
        # This process may be one of several; the server is not.
        ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
        ours["MMCREDIT_ROLLOUT_TOKEN"] = self.token
        if config.gpus:
            ours["CUDA_VISIBLE_DEVICES"] = config.gpus[self.number % len(config.gpus)]
        self._log.seek(0)
        self._log.truncate()
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=ours, start_new_session=True
        )
        self.url = self._listening()
        return self.url

    def _listening(self) -> str:
        child, until = self._child, time.monotonic() + self.config.start_timeout
        assert child is not None
        assert child.stdout is not None
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while time.monotonic() < until:
                if not selector.select(timeout=1.0):
                    continue
                piece = os.read(child.stdout.fileno(), 4096)
                if not piece:
                    child.wait()
                    raise Fault("unreachable", f"a rollout server ended as it started: {self.last_words()}")
                said += piece
                for line in said.decode(errors="replace").splitlines():
                    if line.startswith(_LISTENS) and " (" in line:
                        return line.removeprefix(_LISTENS).split(" (")[0]
        self.stop()
        raise Fault("hanging", f"a rollout server did not listen after {self.config.start_timeout:g} s")

    def last_words(self) -> str:
        """The last line that it wrote."""
        written = os.pread(self._log.fileno(), _LOG_BYTES, max(0, os.fstat(self._log.fileno()).st_size - _LOG_BYTES))
        lines = [line for line in written.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    @property
    def pid(self) -> int:
        """Of the running process; 0 for none."""
        return 0 if self._child is None else self._child.pid

    def stop(self) -> None:
        """Kill it; a stopped or hanging process ends, too."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()

    def close(self) -> None:
        """Kill it."""
        self._closed = True
        self.stop()
        self._log.close()
