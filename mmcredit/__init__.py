"""mmcredit: reinforcement learning for vision-language models, with credit as an object.

``from mmcredit import Rollouts, Credit, assign_credit, Objective`` is the public core. The names are imported on
first use, so that ``mmcredit --help`` and config checks do not pay for loading torch.
"""

from typing import TYPE_CHECKING, Any

from mmcredit import compat as compat  # before anything imports torchvision
from mmcredit.version import __version__ as __version__

if TYPE_CHECKING:
    from mmcredit.credit import assign_credit
    from mmcredit.objective import Objective
    from mmcredit.rollouts import Credit, Rollouts

__all__ = ["Credit", "Objective", "Rollouts", "assign_credit"]

_HOME = {
    "Rollouts": "mmcredit.rollouts",
    "Credit": "mmcredit.rollouts",
    "assign_credit": "mmcredit.credit",
    "Objective": "mmcredit.objective",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mmcredit' has no attribute {name!r}")
