"""Credit methods, one file each, and the pipeline that runs them.

Read `base` (what a method is), `pipeline` (methods applied in order), then `grpo` and any other method. What several
share: `groups`, `tokens`, `whitening`, `returns`, `prefixes`, `curves`, `uncertain`.
"""

from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.pipeline import Pipeline, assign_credit

__all__ = ["CreditMethod", "Pipeline", "Step", "assign_credit"]
