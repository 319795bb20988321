"""Named components: a pydantic model with a name, a declared contract, and one way to be found.

A component is a class whose fields are its hyper-parameters. ``@register("credit", "pgpo")`` names it; a config
writes it as ``pgpo`` or ``pgpo: {tau: 0.4}``. Built-in ones are found by importing the package of their kind, other
people's through the entry-point group ``mmcredit.components`` (each entry names a module to import) or an explicit
``--plugin FILE``. Nothing named inside a data set or a checkpoint is ever imported.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mmcredit.deferred import load_now
from mmcredit.reflow import reflow
from mmcredit.yaml_values import typed_fields

ENTRY_POINT_GROUP = "mmcredit.components"

# Where the built-in components of a kind live: every module of the package is imported when the kind is asked for.
HOMES: dict[str, str] = {
    "credit": "mmcredit.credit",
    "ratio": "mmcredit.objective.ratios",
    "clip": "mmcredit.objective.clips",
    "aggregate": "mmcredit.objective.aggregates",
    "regularizer": "mmcredit.objective.regularizers",
    "signal": "mmcredit.signals",
    "reward": "mmcredit.rewards",
    "source": "mmcredit.data.sources",
    "video": "mmcredit.data.videos",
    "engine": "mmcredit.rollout.engines",
    "strategy": "mmcredit.rollout.strategies",
    "corruption": "mmcredit.corruptions.operators",
    "benchmark": "mmcredit.evaluate.benchmarks.sets",
    "train_engine": "mmcredit.train.engines",
    "verifier": "mmcredit.verifiers",
    "selection": "mmcredit.supervised.selections",
    "preference": "mmcredit.preference.losses",
    "decoding": "mmcredit.decoding.methods",
}


@dataclass(frozen=True)
class Needs:
    """What a component must be given. Checked against the run when the config is read.

    `signals`: names of `Rollouts.signals`, computed once per rollout batch without gradient. `passes`: quantities
    computed at update time, by name, and whether they carry a gradient. The flags name fields of `Rollouts`.
    """

    signals: tuple[str, ...] = ()
    passes: Mapping[str, bool] = field(default_factory=dict)
    old_logprobs: bool = False
    sampler_logprobs: bool = False
    segments: bool = False
    reward_parts: tuple[str, ...] = ()
    views: Mapping[str, Any] = field(default_factory=dict)  # what a prompt view shows, by its name
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # fields of signals and passes, by name

    def __post_init__(self) -> None:
        for name in ("signals", "reward_parts"):
            if isinstance(value := getattr(self, name), str):  # ("x") is a text, not a tuple
                raise ValueError(f"Needs({name}={value!r}): a tuple of names is wanted, write ({value!r},)")
            object.__setattr__(self, name, tuple(value))

    def __or__(self, other: Needs) -> Needs:
        """What both need. Raises ValueError if they want one view, signal or pass with different settings."""
        passes = dict(self.passes)
        for name, gradient in other.passes.items():
            passes[name] = passes.get(name, False) or gradient
        return Needs(
            views=_agreed("view", self.views, other.views),
            settings=_agreed("signal", self.settings, other.settings),
            signals=tuple(dict.fromkeys(self.signals + other.signals)),
            passes=passes,
            old_logprobs=self.old_logprobs or other.old_logprobs,
            sampler_logprobs=self.sampler_logprobs or other.sampler_logprobs,
            segments=self.segments or other.segments,
            reward_parts=tuple(dict.fromkeys(self.reward_parts + other.reward_parts)),
        )


def _agreed(what: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise ValueError(
                f"two components of this run want the {what} {name!r} with different settings: {one[name]} and "
                f"{other[name]}; it is computed once for both: give them the same"
            )
    return {**one, **other}


class Component(BaseModel):
    """Base of everything a config can name. Fields are hyper-parameters; the class docstring is the method page."""

    model_config = ConfigDict(extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""

    def needs(self) -> Needs:
        """What this component must be given, with its present hyper-parameters."""
        return Needs()

    def spec(self) -> dict[str, Any]:
        """The config entry that builds this component again."""
        return {self.name: self.model_dump(mode="json")}


class UnknownName(ValueError):
    """A config names something that is not registered; the message gives the nearest name."""


C = TypeVar("C", bound=type[Component])
_REGISTRY: dict[str, dict[str, type[Component]]] = {}
_SCANNED: set[str] = set()


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make the component known as `name` among its `kind`.

    Raises ValueError if the name is taken by another class, or if the class says nothing about itself.
    """

    def add(cls: C) -> C:
        if kind not in HOMES:
            raise ValueError(f"unknown component kind {kind!r}; kinds: {', '.join(HOMES)}")
        if not (cls.__doc__ or "").strip():
            raise ValueError(f"{kind} {name!r} has no docstring; it is the page that `mmcredit methods {name}` prints")
        known = _REGISTRY.setdefault(kind, {})
        other = known.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind} {name!r} is registered twice: {other.__module__} and {cls.__module__}")
        cls.kind, cls.name = kind, name
        known[name] = cls
        return cls

    return add


def _scan(kind: str) -> None:
    """Import the modules of a kind's home, once, and of every installed plug-in."""
    if kind in _SCANNED:
        return
    _SCANNED.add(kind)
    home = HOMES[kind]
    if importlib.util.find_spec(home) is not None:
        package = importlib.import_module(home)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
            importlib.import_module(f"{home}.{module.name}")
    load_installed()


def load_installed() -> None:
    """Import every installed plug-in, once. Raises RuntimeError for one that cannot be imported."""
    if ENTRY_POINT_GROUP not in _SCANNED:
        _SCANNED.add(ENTRY_POINT_GROUP)
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            try:
                entry.load()
            except Exception as error:
                raise RuntimeError(
                    f"plug-in {entry.name!r} ({entry.value}) cannot be imported: {error!r}; mend or uninstall it"
                ) from error


def load_plugin(path: str | Path) -> None:
    """Import a Python file that registers components. It runs with all your rights: name only files you trust.

    Raises ValueError if there is no such file, and, with the line, if it cannot be imported.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--plugin {path}: no such file")
    name = f"mmcredit_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    load_now()  # a file that imports transformers would otherwise load torch twice, which aborts the process
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--plugin {path}{f', line {line}' if line else ''}: {kind}{error}") from error


def names(kind: str) -> list[str]:
    """Every registered name of a kind, sorted."""
    _scan(kind)
    return sorted(_REGISTRY.get(kind, {}))


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the closest known word, or the list of all if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known) or 'none'}"


def lookup(kind: str, name: str) -> type[Component]:
    """The class registered under `name`. Raises UnknownName with the nearest valid one."""
    _scan(kind)
    known = _REGISTRY.get(kind, {})
    if name not in known:
        raise UnknownName(f"unknown {kind} {name!r}; {nearest(name, known)}")
    return known[name]


def component_class(kind: str, name: str) -> type[Component] | None:
    """The class registered under `name`, or None."""
    return lookup(kind, name) if name in names(kind) else None


def build(kind: str, spec: str | Mapping[str, Any] | Component) -> Component:
    """A component from its config entry: a name, a one-key mapping {name: fields}, or a component itself.

    Raises UnknownName for an unknown name and ValueError for an unknown or ill-typed field.
    """
    if isinstance(spec, Component):
        if spec.kind != kind:
            raise ValueError(f"{spec.name!r} is a {spec.kind}, but a {kind} is wanted here")
        return spec
    name: Any
    fields: Any
    if isinstance(spec, str):
        name, fields = spec, {}
    elif isinstance(spec, Mapping) and len(spec) == 1:
        name, fields = next(iter(spec.items()))
        fields = {} if fields is None else fields
    else:
        raise ValueError(f"a {kind} is written as a name or as {{name: {{field: value}}}}, got {spec!r}")
    if not isinstance(name, str) or not isinstance(fields, Mapping):
        raise ValueError(f"a {kind} is written as a name or as {{name: {{field: value}}}}, got {spec!r}")
    cls = lookup(kind, name)
    try:
        return cls(**typed_fields(fields, cls, component_class))
    except ValidationError as error:
        raise ValueError(f"{kind} {name!r}: {explain(error, cls)}") from None


def build_all(kind: str, specs: Iterable[str | Mapping[str, Any] | Component]) -> list[Component]:
    """`build` for a list of config entries. A single entry in place of a list is an error that says so."""
    if isinstance(specs, str | Mapping | Component):
        raise ValueError(f"a list of {kind} entries is wanted, got {specs!r}; write [{specs!r}]")
    return [build(kind, spec) for spec in specs]


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per problem of a pydantic error: the field, the value seen, and the nearest valid name."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}; {nearest(str(item['loc'][-1]), _fields_at(model, item['loc'][:-1]))}")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing")
        elif item["type"] == "list_type":
            lines.append(f"{where}: a list is wanted, such as [{item['input']}], got {item['input']!r}")
        else:
            said = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            own = item["type"] == "value_error" and isinstance(item["input"], Mapping)  # our message names the value
            lines.append(f"{where}: {said}" + ("" if own else f", got {item['input']!r}") if where else said)
    return "; ".join(lines)


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the (nested) model a validation error points into."""
    current: Any = model
    for part in path:
        annotation = current.model_fields[part].annotation if part in getattr(current, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)), None)
        if current is None:
            return []
    return list(current.model_fields)


def headline(cls: type[Component]) -> str:
    """The first sentence of a component's docstring, for lists."""
    paragraph = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def page(cls: type[Component], width: int | None = None) -> str:
    """A component's page: its docstring, then its fields with defaults and meaning; filled to `width` columns."""
    about = inspect.cleandoc(cls.__doc__ or "")
    fields = []
    for key, info in cls.model_fields.items():
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        fields.append(f"  {key} = {default}" + (f"  {info.description}" if info.description else ""))
    listed = "\n".join(["Fields", *fields] if fields else [])
    if width is not None:
        about, listed = reflow(about, width), reflow(listed, width)
    return "\n".join([f"{cls.name} ({cls.kind}, {cls.__module__})", "", about, "", listed]).rstrip()
