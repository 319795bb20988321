"""Shared set-up: one thread (bit-determinism), and `from tiny import ...` for the tiny models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach the network
sys.path.insert(0, str(Path(__file__).parent))

import torch

import mmcredit  # noqa: F401  # prepares torchvision before any processor is built

torch.set_num_threads(1)
