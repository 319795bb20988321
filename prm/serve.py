"""`mmcredit prm-serve`: vLLM's OpenAI-compatible server for a verifier model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command(options: Namespace) -> list[str]:
    """The words that start the server. Raises ValueError if it would be open to others without a key."""
    if options.host not in _LOOPBACK and not options.api_key_env:
        raise ValueError(f"--host {options.host} is no loopback address: name the server's key with --api-key-env")
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("prm-serve needs vLLM, which this Python does not have: pip install 'mmcredit[vllm]'")
    # The module, not the program `vllm`: that one fails beside CPU builds, whose distribution has another name.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", options.model]
    words += ["--host", options.host, "--port", str(options.port)]
    words += ["--served-model-name", options.name, "--max-model-len", str(options.max_model_len)]
    return [*words, *options.arguments]


def run(options: Namespace) -> int:
    """Run the server in the foreground until it ends or is interrupted; its exit code."""
    environment = dict(os.environ)
    if options.api_key_env:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise ValueError(f"--api-key-env: the environment variable {options.api_key_env} is not set")
        environment["VLLM_API_KEY"] = key  # not on the command line, where every user of the machine can read it
    print(f"verifier at http://{options.host}:{options.port}/v1, model {options.name}", flush=True)
    return subprocess.run(command(options), env=environment, check=False).returncode
