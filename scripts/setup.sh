#!/usr/bin/env bash
# Make .venv with the tested versions of everything; a second call takes seconds. Usage: scripts/setup.sh [EXTRA ...]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${MMCREDIT_VENV:-.venv}
extras=${*:-easy-vqa,dev}

python=""
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "mmcredit needs Python 3.11 or newer on PATH" >&2
  exit 1
fi

stamp="$venv/.mmcredit-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)-${extras// /}"
if [ ! -f "$stamp" ]; then
  echo "installing into $venv (once; a few minutes) ..."
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  # torch first: the CPU file satisfies every later requirement, so that no CUDA package is pulled beside it.
  torch=$(grep '^torch==' constraints.txt)
  if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    "$venv/bin/pip" install --quiet "$torch" || exit 1
  fi
  "$venv/bin/pip" install --quiet --constraint constraints.txt --editable ".[$extras]"
  # Every Python process of this environment gets the torchvision hook before anything imports torchvision.
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo 'import mmcredit.compat' > "$site/mmcredit_compat.pth"
  rm -f "$venv"/.mmcredit-*
  touch "$stamp"
fi
