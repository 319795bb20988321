"""R3's replay and reflection. Read `strategy`, then `memory` (earlier responses) and `reflection` (asking again)."""

from mmcredit.rollout.strategies.replay.strategy import Replay

__all__ = ["Replay"]
