"""The parts of `scripts/build_tiny_vlm.py`: tokenizer, data, models, cold start, measurement."""

from mmcredit import compat as compat  # before anything imports torchvision
