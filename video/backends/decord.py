"""decord 0.6, which some models were trained with, in a process of its own: it can hang in native code.

python -m video.backends.decord        # the process: one JSON request a line, one JSON line and bytes back
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from video.backends.pyav import PyAVDecoder, check_numbers
from video.clip import Clock, Frames, VideoError, VideoIndex, missing, resized

# Containers in which decord finds the frame it is asked for. In MPEG-TS it gives others without a word.
CONTAINERS = ("mp4", "matroska", "avi")
START = 30.0  # seconds for the process to import its libraries


class DecordDecoder:
    """decord behind a pipe: a request over the deadline kills the process, and the next request starts another.

    The index is PyAV's. Raises VideoError for what decord is known to get wrong: rotated videos, containers other than
    MP4, Matroska and AVI, and files in which it counts other frames than the container does.
    """

    name = "decord"

    def __init__(self, deadline: float, max_pixels: int) -> None:
        if find_spec("decord") is None:
            raise missing("decord", ImportError("it is not installed"))
        self.deadline = deadline
        self.command = [sys.executable, "-m", "video.backends.decord"]
        self._pyav = PyAVDecoder(deadline, max_pixels)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def index(self, path: str | Path) -> VideoIndex:
        return self._pyav.index(path)

    def frames(self, path: str | Path, times: Sequence[float]) -> Frames:
        return self.frames_at(path, self.index(path).at(times))

    def frames_at(self, path: str | Path, indices: Sequence[int], size: tuple[int, int] | None = None) -> Frames:
        index = self.index(path)
        check_numbers(path, indices, index)
        if index.rotation:
            raise VideoError(path, f"is rotated by {index.rotation} degrees; take the backend pyav", "rotation")
        if not any(name in index.format.split(",") for name in CONTAINERS):
            raise VideoError(
                path, f"is {index.format}, where decord's frames are not the ones asked for; take pyav", "container"
            )
        request = {"path": str(path), "indices": [int(i) for i in indices], "frames": len(index), "size": size}
        with self._lock:
            answer, data = self._ask(request, Clock(self.deadline, path))
        if "error" in answer:
            raise VideoError(path, f"cannot be decoded by decord: {answer['error']}", "damaged")
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(answer["shape"]).copy()
        return Frames(pixels, index.times[list(indices)], tuple(int(i) for i in indices))

    def _ask(self, request: dict[str, Any], clock: Clock) -> tuple[dict[str, Any], bytes]:
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
                ready = Clock(START, clock.path)
                _read_line(self._process, ready)  # its imports are not the file's time
                clock = Clock(self.deadline, clock.path)
            process = self._process
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(_read_line(process, clock))
            return answer, _read(process, int(answer.get("bytes", 0)), clock)
        except VideoError:
            self.close()
            raise
        except (OSError, EOFError, ValueError) as error:
            code = self._process.poll() if self._process else None
            self.close()
            raise VideoError(clock.path, f"ended decord's process (exit {code}): {error}", "decoder died") from error

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def close(self) -> None:
        """Kill the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _read(process: subprocess.Popen[bytes], count: int, clock: Clock, line: bool = False) -> bytes:
    """`count` bytes, or up to the end of a line. Raises VideoError at the deadline, EOFError if the process ends."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    parts: list[bytes] = []
    have = 0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while line or have < count:
            if not selector.select(max(clock.left, 0)):
                clock.check()
                continue
            # A line is read byte by byte: what follows it belongs to the next read.
            part = os.read(descriptor, 1 if line else min(count - have, 2**20))
            if not part:
                raise EOFError("it closed its pipe")
            parts.append(part)
            have += len(part)
            if line and part == b"\n":
                break
    return b"".join(parts)


def _read_line(process: subprocess.Popen[bytes], clock: Clock) -> bytes:
    return _read(process, 0, clock, line=True)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the pipe closes."""
    import decord

    answers.write(b'{"ready": true}\n')
    answers.flush()
    for line in requests:
        request = json.loads(line)
        try:
            reader = decord.VideoReader(request["path"], ctx=decord.cpu(0), num_threads=1)
            if len(reader) != request["frames"]:
                raise ValueError(f"it counts {len(reader)} frames, the container has {request['frames']}")
            size = None if request["size"] is None else tuple(request["size"])
            pixels = np.stack([resized(reader[i].asnumpy(), size) for i in request["indices"]])
            head: dict[str, Any] = {"shape": pixels.shape, "bytes": pixels.nbytes}
            body = pixels.tobytes()
        except Exception as error:  # decord raises classes of its own, some derived from BaseException's child only
            head, body = {"error": str(error).splitlines()[0][:300] if str(error) else repr(error)}, b""
        answers.write(json.dumps(head).encode() + b"\n" + body)
        answers.flush()


Backend = DecordDecoder

if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
