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
from mmcredit.rewards.signatures import BATCHED, Call, adapted, recognised, written_parameters


@register("reward", "function")
class Function(Reward):
    r"""The value that your own function returns.

        rewards:
          - function: {path: my_rewards.py:closeness, label: closeness, kwargs: {scale: 2.0}}

        def closeness(item, scale):
            return 1.0 / (1.0 + scale * abs(float(item.response) - float(item.answer)))

    `path` is ``file.py:name`` (relative to the working directory; modules beside the file can be imported) or
    ``package.module:name``. With `call: item` it is called with one `RewardItem` (`response`, `answer`, `prompt`,
    `num_tokens`, `truncated`, `sample_id`, `meta`) and returns a number, or None for "does not apply". With
    `call: batch` it is called once with the list of all items of the batch and returns a number or None for each;
    `timeout` is then for the whole call, and a hang or an error counts for every item. `kwargs` are passed on.

    Functions that were written for other trainers work as they are; `call: auto` (default) knows them by the names of
    their parameters, and takes any other function as `item`:

    - `trl`: ``f(completions, **kwargs)``, called with the whole batch: `completions` and `prompts` (the text of the
      user's last turn), the columns of the data set, and the reference as `answer`, `solution` and `ground_truth` where
      no column has that name. Completions are texts; with `chat: true`, TRL's conversational form
      ``[{"role": "assistant", "content": ...}]``.
    - `verl`: ``compute_score(data_source, solution_str, ground_truth, extra_info)``; `verl_batch`: the same names in
      the plural. A number or a mapping with `score`. Not applicable without a reference (`verl`).
    - `easyr1`: ``compute_score(reward_input)``; `easyr1_batch`: ``(reward_inputs)``. The value is `overall`.

    It runs in a worker process that stays alive over steps, so what it loads or caches stays. Random numbers
    (`random`, numpy) are seeded for each call from the run's seed and the item. What it prints goes to the worker's
    log.

    The function runs with your rights: name only code that you trust. Only the config names it, never a data set.
    """

    path: str = Field(description="file.py:name or package.module:name")
    call: Literal["auto", Call] = Field(
        "auto", description="item, batch, trl, verl, verl_batch, easyr1, easyr1_batch; auto: as the signature says"
    )
    chat: bool = Field(False, description="hand TRL functions message lists in place of texts")
    kwargs: Mapping[str, Any] = Field(default_factory=dict, description="further keyword arguments")

    _function: Callable[[Sequence[RewardItem]], list[Any]] | None = PrivateAttr(None)
    _call: Call | None = PrivateAttr(None)

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
        return self._called() in BATCHED

    def _called(self) -> Call:
        """How the function is called, told from its source: what it imports is not run outside the workers."""
        if self.call != "auto":
            return self.call
        if self._call is None:
            where, _, name = self.path.rpartition(":")
            self._call = recognised(written_parameters(where, name) or ())
        return self._call

    def prepare(self) -> None:
        """Import the function. Raises ValueError if it is not there, not callable or async."""
        where, _, name = self.path.rpartition(":")
        module = _import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        function = getattr(module, name, None)
        if not callable(function):
            known = ", ".join(n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_"))
            raise ValueError(f"{where} has no function {name!r}; it has: {known or 'none'}")
        self._function = adapted(function, self._called(), self.path, self.kwargs, self.chat)

    def __call__(self, items: Sequence[RewardItem]) -> Sequence[float | None]:
        if self._function is None:
            self.prepare()
        assert self._function is not None
        return self._function(items)


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
