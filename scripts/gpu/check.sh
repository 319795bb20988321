#!/usr/bin/env bash
# What is measured on one GPU, in under 7 minutes and without network: the numeric core on CUDA, then throughput and peak
# memory of a 3B-shaped Qwen2.5-VL by layout, then vision methods beside GRPO. Prints Markdown (benchmarks/gpu.md).
# Any Python with torch, transformers and mmcredit's other requirements will do; PYTHON names it.
#   bash scripts/gpu/check.sh [OUTPUT.md] [--tiny: the same on small shapes, also on a CPU]
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-gpu.md}
shift || true
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
"${PYTHON:-python3}" scripts/gpu/check.py "$@" | tee "$output"
