"""The loss: ratios, clips, aggregates and regularizers, and the `Objective` that puts them together."""

from mmcredit.objective.objective import Objective, ObjectiveOutput

__all__ = ["Objective", "ObjectiveOutput"]
