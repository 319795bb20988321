"""Reward: a Python function of the user's own, named by path in the config."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "function")
class Function(Reward):
    r"""The value that your own function returns.

        rewards:
          - function: {path: my_rewards.py:closeness, label: closeness, kwargs: {scale: 2.0}}

        def closeness(item, scale):
            return 1.0 / (1.0 + scale * abs(float(item.response) - float(item.answer)))

    `path` is ``file.py:name`` (relative to the working directory; modules beside the file can be imported) or
    ``package.module:name``. With `call: item` (default) it is called with one `RewardItem` (`response`, `answer`,
    `prompt`, `num_tokens`, `truncated`, `sample_id`, `meta`) and returns a number, or None for "does not apply". With
    `call: batch` it is called once with the list of all items of the batch and returns a number or None for each;
    `timeout` is then for the whole call, and a hang or an error counts for every item. `kwargs` are passed on.

    It runs in a worker process that stays alive over steps, so what it loads or caches stays. Random numbers
    (`random`, numpy) are seeded for each call from the run's seed and the item. What it prints goes to the worker's
    log.

    The function runs with your rights: name only code that you trust. Only the config names it, never a data set.
    """

    path: str = Field(description="file.py:name or package.module:name")
    call: Literal["item", "batch"] = Field("item", description="called with one item, or with the list of all")
    kwargs: Mapping[str, Any] = Field(default_factory=dict, description="further keyword arguments")

    _function: Callable[..., Any] | None = PrivateAttr(None)

    @field_validator("path")
    @classmethod
    def _well_formed(cls, path: str) -> str:
        where, colon, name = path.rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise ValueError("write file.py:name or package.module:name")
        if where.endswith(".py") and not Path(where).is_file():
            raise ValueError(f"no such file: {Path(where).absolute()}")
        return path

    def whole_batch(self) -> bool:
        return self.call == "batch"

    def prepare(self) -> None:
        """Import the function. Raises ValueError if it is not there or is not callable."""
        where, _, name = self.path.rpartition(":")
        module = _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        function = getattr(module, name, None)
        if not callable(function):
            known = ", ".join(n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_"))
            raise ValueError(f"{where} has no function {name!r}; it has: {known or 'none'}")
        self._function = function

    def __call__(self, items: Sequence[RewardItem]) -> Sequence[float | None]:
        if self._function is None:
            self.prepare()
        assert self._function is not None
        if self.call == "batch":
            return self._function(list(items), **self.kwargs)
        return [self._function(item, **self.kwargs) for item in items]


def _import_file(path: Path) -> Any:
    path = path.absolute()
    name = f"mmcredit_reward_file_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
