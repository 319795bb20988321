#!/usr/bin/env bash
# Lint, types and tests. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh easy-vqa lora datasets tasks video dev
bin="${MMCREDIT_VENV:-.venv}/bin"
"$bin/ruff" check mmcredit prm video scripts tests
"$bin/ruff" format --check mmcredit prm video scripts tests
"$bin/mypy"
# Test files are shared out to two processes of one thread each.
export OMP_NUM_THREADS=1
exec "$bin/python" -m pytest --numprocesses "${MMCREDIT_TEST_WORKERS:-2}" --dist loadfile "$@"
