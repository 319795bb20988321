#!/usr/bin/env bash
# RL-train the shipped tiny vision-language model on easy-VQA and show what it learnt. Further arguments go to
# `mmcredit train`, for example: scripts/quickstart.sh run.seed=1 --method dr_grpo
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
dir="runs/quickstart-$(date +%Y%m%d-%H%M%S)"
exec "${MMCREDIT_VENV:-.venv}/bin/mmcredit" train configs/easy_vqa.yaml "run.dir=$dir" "$@"
