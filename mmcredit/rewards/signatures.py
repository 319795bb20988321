"""Reward functions written for other trainers, called as those call them.

The signature tells whose a function is. TRL: ``f(completions, **kwargs)`` with lists over the batch, the columns of the
data set among the keywords. verl: ``compute_score(data_source, solution_str, ground_truth, extra_info)`` for one
response, or the same names in the plural for a batch. EasyR1: ``compute_score(reward_input)`` for one response, or
``(reward_inputs)`` for a batch. Sources: TRL "GRPO Trainer, Using a custom reward function"; verl "Implement Reward
Function for Dataset" and `BatchRewardManager`; EasyR1 `verl/workers/reward/function.py`.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmcredit.answers.item import RewardItem

Call = Literal["item", "batch", "trl", "verl", "verl_batch", "easyr1", "easyr1_batch"]
BATCHED = frozenset({"batch", "trl", "verl_batch", "easyr1_batch"})
_ANSWER_NAMES = ("answer", "solution", "ground_truth")
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")


def recognised(parameters: Iterable[str]) -> Call:
    """Whose signature these parameter names are; `item`, our own, where they are nobody else's."""
    names = set(parameters)
    if "completions" in names:
        return "trl"
    if {"solution_str", "ground_truth"} <= names:
        return "verl"
    if {"solution_strs", "ground_truths"} <= names:
        return "verl_batch"
    if "reward_inputs" in names:
        return "easyr1_batch"
    return "easyr1" if "reward_input" in names else "item"


def written_parameters(where: str, name: str) -> list[str] | None:
    """Parameter names of a function as its source file has them; nothing is imported or run.

    `where` is a file or a module. None if the source cannot be found or read, or does not define `name`.
    """
    try:
        if where.endswith(".py"):
            path = Path(where)
        else:
            spec = importlib.util.find_spec(where)
            if spec is None or spec.origin is None:
                return None
            path = Path(spec.origin)
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, ImportError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return None


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name; empty where Python does not know them."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def adapted(
    function: Callable[..., Any], call: Call, name: str, kwargs: Mapping[str, Any], chat: bool
) -> Callable[[Sequence[RewardItem]], list[Any]]:
    """The function of items -> values that calls `function` in the way of `call`.

    `kwargs` are passed on; `chat` hands TRL functions message lists in place of texts. Raises ValueError for an async
    function.
    """
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise ValueError(
            f"{name} is an async function, which a reward worker does not wait for; make it a plain one, with "
            "asyncio.run(...) inside"
        )
    known = parameters_of(function)

    def one_by_one(make: Callable[[RewardItem], Mapping[str, Any]]) -> Callable[[Sequence[RewardItem]], list[Any]]:
        return lambda items: [
            None if call == "verl" and item.answer is None else _value(function(**make(item), **kwargs), name)
            for item in items
        ]

    if call == "item":
        return lambda items: [_plain(function(item, **kwargs), name) for item in items]
    if call == "batch":
        return lambda items: _listed(function(list(items), **kwargs), len(items), name)
    if call == "verl":
        return one_by_one(lambda item: _accepted(_verl(item), known))
    if call == "easyr1":
        return one_by_one(lambda item: {"reward_input": _easyr1(item)})
    if call == "trl":
        return lambda items: _listed(function(**_trl(items, known, kwargs, name, chat)), len(items), name)

    def batched(items: Sequence[RewardItem]) -> list[Any]:
        if call == "verl_batch":
            rows = [_verl(item) for item in items]
            given: dict[str, Any] = {f"{key}s": [row[key] for row in rows] for key in _VERL}
            given = _accepted(given, known)
        else:
            given = {"reward_inputs": [_easyr1(item) for item in items]}
        return [_value(v, name) for v in _listed(function(**given, **kwargs), len(items), name)]

    return batched


def _trl(
    items: Sequence[RewardItem],
    known: Mapping[str, inspect.Parameter],
    kwargs: Mapping[str, Any],
    name: str,
    chat: bool,
) -> dict[str, Any]:
    """The keyword arguments of a TRL reward function: everything as a list over the batch."""
    given: dict[str, Any] = {
        "completions": [[_turn("assistant", i.response)] if chat else i.response for i in items],
        "prompts": [[_turn("user", i.prompt)] if chat else i.prompt for i in items],
    }
    columns = dict.fromkeys(key for item in items for key in item.meta)
    for key in columns:
        given.setdefault(key, [item.meta.get(key) for item in items])
    for key in _ANSWER_NAMES:  # the column of the reference under the names that it may have had
        given.setdefault(key, [item.answer for item in items])
    wanted = [
        key
        for key, parameter in known.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    missing = [key for key in wanted if key not in given and key not in kwargs]
    if missing:
        raise ValueError(
            f"{name} wants {missing[0]!r}, which is no column of this data set (columns: "
            f"{', '.join(columns) or 'none'}); add the column, or give it under kwargs"
        )
    return {**_accepted(given, known), **kwargs}


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _verl(item: RewardItem) -> dict[str, Any]:
    extra = item.meta.get("extra_info")
    return {
        "data_source": item.meta.get("data_source", ""),
        "solution_str": item.response,
        "ground_truth": item.answer,
        "extra_info": dict(extra) if isinstance(extra, Mapping) else dict(item.meta),
    }


def _easyr1(item: RewardItem) -> dict[str, Any]:
    return {"response": item.response, "response_length": item.num_tokens, "ground_truth": item.answer}


def _accepted(given: Mapping[str, Any], known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What the function takes: everything where it has ``**kwargs``, else its own parameters."""
    if not known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return dict(given)
    return {key: value for key, value in given.items() if key in known}


def _plain(value: Any, name: str) -> Any:
    """A value that is there; what would have to be awaited is refused."""
    if inspect.isawaitable(value):
        close = getattr(value, "close", None)
        if close is not None:
            close()  # else Python warns that it was never awaited
        raise ValueError(f"{name} returned something to be awaited; return the number, with asyncio.run(...) inside")
    return value


def _value(value: Any, name: str) -> Any:
    """One score: a number, or a mapping that holds it as `score` (verl) or `overall` (EasyR1)."""
    value = _plain(value, name)
    if not isinstance(value, Mapping):
        return value
    for key in ("score", "overall"):
        if key in value:
            return value[key]
    raise ValueError(f"{name} returned a mapping without 'score' or 'overall': keys {', '.join(map(str, value))}")


def _listed(values: Any, count: int, name: str) -> list[Any]:
    """The values of a batch. Raises ValueError unless they are a list."""
    values = _plain(values, name)
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(
            f"{name} is called with the whole batch and must return a list of {count} numbers, one per response; it "
            f"returned {type(values).__name__} {str(values)[:40]!r}"
        )
    return list(values)  # how many there must be, the worker says
