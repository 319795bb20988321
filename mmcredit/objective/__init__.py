"""The loss: ratios, clips, aggregates and regularizers, and the `Objective` that puts them together.

Read `base` (the four kinds of part), `objective`, then one part each of `ratios/`, `clips/`, `aggregates/` and
`regularizers/`. What several share: `sequences`, `success`; `mismatch` corrects for engines that differ.
"""

from mmcredit.objective.objective import Objective, ObjectiveOutput

__all__ = ["Objective", "ObjectiveOutput"]
