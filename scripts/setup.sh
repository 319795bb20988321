#!/usr/bin/env bash
# Make .venv with the tested versions of everything; a second call returns at once. Usage: scripts/setup.sh [EXTRA ...]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${MMCREDIT_VENV:-.venv}
if [ $# -eq 0 ]; then set -- easy-vqa; fi

# What is installed already, for these versions of pyproject.toml and constraints.txt.
stamp="$venv/.mmcredit-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)"
missing=""
for extra in "$@"; do
  grep -qsx "$extra" "$stamp" || missing="$missing,$extra"
done
[ -n "$missing" ] || exit 0

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

echo "installing into $venv (once; a few minutes) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# torch first: where a CPU build is to be had it satisfies every later requirement, and no CUDA package is pulled beside it.
"$venv/bin/pip" install --quiet "$(grep '^torch==' constraints.txt)"
"$venv/bin/pip" install --quiet --constraint constraints.txt --editable ".[${missing#,}]"
# Every Python process of this environment gets the torchvision hook (mmcredit/compat.py) before it imports torchvision.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import mmcredit.compat' > "$site/mmcredit_compat.pth"
known=$(cat "$stamp" 2>/dev/null || true)
rm -f "$venv"/.mmcredit-*
printf '%s\n' $known "$@" > "$stamp"
