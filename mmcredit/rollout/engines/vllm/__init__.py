"""The engine `vllm`: sampling with vLLM in this process.

Read `component` (what it promises, its fields in `settings`), `engine`, then `draw` (how tokens are drawn inside
vLLM), `insertion` and `media` (responses that are given something in their middle) and `weights` (what is handed over
after an update).
"""

from mmcredit.rollout.engines.vllm.component import VLLM

__all__ = ["VLLM"]
