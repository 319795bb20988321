"""Credit methods, one file each, and the pipeline that runs them."""

from mmcredit.credit.base import CreditMethod, Step
from mmcredit.credit.pipeline import Pipeline, assign_credit

__all__ = ["CreditMethod", "Pipeline", "Step", "assign_credit"]
