#!/usr/bin/env bash
# The training engine `deepspeed` against the engine `local`, on real processes, in the environment of scripts/setup_vllm.sh.
# A compiler and ninja are needed once (about a minute). Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup_vllm.sh
export OMP_NUM_THREADS=1
exec "${MMCREDIT_VLLM_VENV:-.venv-vllm}/bin/python" -m pytest tests/test_deepspeed.py tests/test_ranks_faults.py tests/test_ranks_launchers.py \
  tests/test_ranks_probe.py tests/test_video_ranks.py "$@"
