"""DeepSpeed over several processes: `component` (settings), `engine` (steps), `scope` (ZeRO-3's weights), `state`
(checkpoints that any engine reads)."""

from mmcredit.train.engines.deepspeed.component import DeepSpeed

__all__ = ["DeepSpeed"]
