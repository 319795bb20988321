"""CPU-only torch beside a torchvision built for CUDA: declare two operators so that it imports.

The only torchvision wheel that pins torch 2.13.0 links its operator library against CUDA. Beside a CPU build of
torch that library does not load, and ``import torchvision`` fails with "operator torchvision::nms does not exist".
No Qwen-VL processor can be built without torchvision, and none of them uses those operators: the two schemas are
enough. Where the builds match (torch has CUDA, or torchvision brings its operators) nothing is declared.

The hook waits for the first ``import torchvision``; importing this module costs nothing and does not load torch.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from typing import Any


class _TorchvisionHook:
    """Meta-path finder that removes itself, prepares torch, and lets the normal finders go on."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        if _builds_differ():
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch._mmcredit_torchvision_library = library  # type: ignore[attr-defined]  # schemas live as long as it
        return importlib.util.find_spec(name)


def _builds_differ() -> bool:
    """A CPU-only torch beside a torchvision that is not itself marked as a CPU build."""
    import torch

    try:
        torchvision = version("torchvision")
    except PackageNotFoundError:
        return False
    return torch.version.cuda is None and torch.version.hip is None and "+cpu" not in torchvision


def install() -> None:
    """Wait for ``import torchvision`` (once; nothing happens if it is loaded already)."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _TorchvisionHook) for f in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionHook())  # type: ignore[arg-type]


install()
