"""The endpoint backend against vLLM's own server on loopback: started by command, killed, and back again."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("vllm", reason="vLLM is tested in an environment of its own: scripts/test_vllm.sh")

from PIL import Image
from tiny import save, tiny_vl

from mmcredit.data.sample import Media
from prm.endpoint import EndpointVerifier
from prm.endpoint_config import EndpointConfig
from prm.verifier import Query

START = 600.0  # seconds that a server may take to be ready


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(folder, port, log):
    """`mmcredit prm-serve` in a process group of its own; returns when it answers."""
    words = [sys.executable, "-m", "mmcredit.cli", "prm-serve", str(folder), "--port", str(port)]
    words += ["--max-model-len", "512", "--", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + START
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended while starting; its output is in the log"
        try:
            with opener.open(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                assert b'"prm"' in answer.read()
                return process
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no answer within {START:g} s")


def stop(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


@pytest.mark.slow
def test_a_real_server_dies_and_returns(tmp_path):
    model, processor = tiny_vl(max_pixels=56 * 56)
    save(model, processor, tmp_path / "model")
    port = free_port()
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(buffer, "PNG")
    picture = Media("image", data=buffer.getvalue(), name="red")
    queries = [Query("what color?", f"it is red {i}", (picture,), sample_id=str(i)) for i in range(6)]
    client = EndpointVerifier(
        EndpointConfig(
            base_url=f"http://127.0.0.1:{port}/v1",
            model="prm",
            layout="short",
            max_tokens=8,
            timeout=120,
            retries=0,
            break_after=3,
            rest=0.5,
            concurrency=2,
        )
    )
    with (tmp_path / "server.log").open("wb") as log:
        process = start(tmp_path / "model", port, log)
        try:
            # An untrained model says nothing readable: the answer came, and is not taken for "correct".
            found = client.verify(queries)
            assert [said.status for said in found] == ["parse_error"] * 6
            assert all(0 < said.usage["new_tokens"] <= 8 and said.usage["prompt_tokens"] > 8 for said in found)
            assert [said.raw for said in client.verify(queries[:2])] == [said.raw for said in found[:2]]
            stop(process)
            dead = client.verify(queries)
            assert [said.status for said in dead] == ["prm_error"] * 6
            assert client.counts["refused"] > 0  # after three failures the others are not tried
            process = start(tmp_path / "model", port, log)
            time.sleep(0.6)
            again = client.verify(queries)
            assert [said.raw for said in again] == [said.raw for said in found]
        finally:
            stop(process)
            client.close()
