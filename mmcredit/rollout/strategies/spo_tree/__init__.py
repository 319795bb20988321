"""SPO-tree. Read `strategy`, then `tree` (growth and values) and `edge_buffer` (edges that wait for training)."""

from mmcredit.rollout.strategies.spo_tree.strategy import SPOTreeSampling

__all__ = ["SPOTreeSampling"]
