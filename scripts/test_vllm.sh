#!/usr/bin/env bash
# The engine `vllm` against the engine `hf`, in process and behind a rollout server, and a verifier behind a real server,
# on vLLM's CPU build in an environment of its own. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup_vllm.sh
export OMP_NUM_THREADS=1
exec "${MMCREDIT_VLLM_VENV:-.venv-vllm}/bin/python" -m pytest tests/test_rollout_vllm.py \
  tests/test_video_vllm.py \
  tests/test_rollout_server.py tests/test_prm_vllm.py "$@"
