#!/usr/bin/env bash
# Our credit in TRL's trainer and in verl, each in an environment of its own, made here the first time (1.6 and 2 GB, a
# few minutes): their requirements exclude each other. They lie in .venv-integrations, or where MMCREDIT_INTEGRATIONS says.
#   scripts/test_integrations.sh               both;  scripts/test_integrations.sh trl | verl [ARGUMENTS OF PYTEST]
set -euo pipefail
cd "$(dirname "$0")/.."
home="${MMCREDIT_INTEGRATIONS:-.venv-integrations}"
case "${1:-both}" in
  both) which="trl verl" ;;
  trl | verl) which=$1; shift ;;
  *) echo "usage: scripts/test_integrations.sh [trl | verl] [ARGUMENTS OF PYTEST]" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1

make_trl() {
  "$1" install --quiet torchvision==0.28.0 transformers==5.19.0 trl==1.16.0 peft datasets pytest
  "$1" install --quiet --editable .
}

make_verl() {
  # verl's own list of requirements holds what only GPU machines need; its range of transformers ends below ours.
  "$1" install --quiet --no-deps verl==0.9.1
  "$1" install --quiet torchvision==0.28.0 "transformers>=5.5.3,<5.11,!=5.6.0" "tensordict>=0.8,<=0.10,!=0.9.0" \
    omegaconf hydra-core codetiming "ray>=2.41" torchdata "TransferQueue>=0.1.10" datasets peft pandas dill \
    pylatexenc tensorboard cachetools fastapi uvicorn pydantic pyyaml mpmath rich jinja2 pytest
  "$1" install --quiet --no-deps --editable .
}

for name in $which; do
  venv="$home/$name"
  stamp="$venv/.mmcredit-$(cat pyproject.toml scripts/test_integrations.sh | cksum | cut -d' ' -f1)"
  if [ ! -f "$stamp" ]; then
    echo "installing into $venv (once; a few minutes) ..."
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0
    "make_$name" "$venv/bin/pip"
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo 'import mmcredit.compat' > "$site/mmcredit_compat.pth"
    touch "$stamp"
  fi
  "$venv/bin/python" -m pytest "tests/test_integrations_$name.py" "$@"
done
