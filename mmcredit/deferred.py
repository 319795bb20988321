"""Put off loading torch until something of it is used.

`mmcredit --help`, `methods` and `train --dry-run` read component classes, whose files import torch, but never compute.
A stand-in in `sys.modules` loads the real torch on the first attribute access and forwards to it from then on; files
keep a plain ``import torch``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Loads the real module, and steps aside, when an attribute is asked for."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        module = importlib.import_module(name)
        self.__dict__.update({k: v for k, v in module.__dict__.items() if k not in ("__name__", "__spec__")})
        return getattr(module, attribute)


def defer(*names: str) -> None:
    """Put off loading these modules (those loaded already stay)."""
    for name in names:
        if name not in sys.modules:
            sys.modules[name] = _Deferred(name)


def load_now() -> None:
    """Load what was put off. To be called before libraries that look torch up in `sys.modules` (transformers does)."""
    for module in list(sys.modules.values()):
        if isinstance(module, _Deferred):
            module.__getattr__("__file__")


def loaded(name: str) -> bool:
    """Whether the real module is in memory."""
    return name in sys.modules and not isinstance(sys.modules[name], _Deferred)
