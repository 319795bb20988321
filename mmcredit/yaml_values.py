"""YAML whose scalars are decided by the type of the field they are for, not by what they look like.

Without quotes `1e-4`, `123`, `no` and `2024-01-01` can each be a name or a value; YAML has to guess, and guesses
`run.name=1e-4` to be a number. `read` keeps what stands in the text beside the guess; `typed` decides.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

Fields = Callable[[str, str], "type[BaseModel] | None"]  # (kind, name of a component) -> its class


@dataclass(frozen=True)
class Kind:
    """Mark of an annotation: a component entry of this kind (a name, or {name: fields})."""

    name: str


class PlainInt(int):
    """A whole number that stands in YAML without quotes; `text` is what stands there."""

    text: str

    def __new__(cls, value: int, text: str = "") -> PlainInt:
        made = super().__new__(cls, value)
        made.text = text
        return made


class PlainBool(PlainInt):
    """true, yes, off ... without quotes (bool itself cannot be derived from)."""


class PlainFloat(float):
    """A number with a fraction or an exponent that stands in YAML without quotes."""

    text: str

    def __new__(cls, value: float, text: str = "") -> PlainFloat:
        made = super().__new__(cls, value)
        made.text = text
        return made


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps the text of unquoted scalars."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every text that would not read back as text."""


def _scalar(loader: Any, node: Any) -> Any:
    value = getattr(yaml.SafeLoader, _CONSTRUCTORS[node.tag])(loader, node)
    if node.style is not None or not isinstance(node, yaml.ScalarNode):
        return value
    if node.tag.endswith(":timestamp"):
        return node.value  # no field holds a date
    if isinstance(value, bool):
        return PlainBool(value, node.value)
    if isinstance(value, int):
        return PlainInt(value, node.value)
    found = number(value) if isinstance(value, str) else value
    return PlainFloat(found, node.value) if isinstance(found, float) else found


def _mapping(loader: Any, node: Any) -> Any:
    made: dict[Any, Any] = {}
    yield made
    made.update({plain(key): value for key, value in loader.construct_mapping(node).items()})


_CONSTRUCTORS = {
    f"tag:yaml.org,2002:{name}": f"construct_yaml_{name}" for name in ("int", "float", "bool", "str", "timestamp")
}
for _tag in _CONSTRUCTORS:
    _Loader.add_constructor(_tag, _scalar)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if isinstance(number(text), float) else None
    ),
)


def number(text: str) -> Any:
    """The number that a text spells, else the text. YAML 1.1 reads 1e-4 as text (it wants 1.0e-4)."""
    if text[:1] not in "+-.0123456789" or not any(c.isdigit() for c in text):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def read(text: str) -> Any:
    """YAML; numbers and truth values without quotes are such that remember their text. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain data only


def dump(value: Any) -> str:
    """Block YAML; `typed` of what `read` makes of it is `value` again."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """The same data as YAML guesses it."""
    if isinstance(value, PlainBool):
        return bool(value)
    if isinstance(value, PlainInt):
        return int(value)
    if isinstance(value, PlainFloat):
        return float(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def typed_fields(content: Mapping[str, Any], model: type[BaseModel], component: Fields | None = None) -> dict[str, Any]:
    """`content` for the fields of `model`: in a field of text (or paths) a scalar keeps its text, elsewhere it is the
    number or truth value that it looks like. `component` finds the class of an entry marked by `Kind`."""
    found = {}
    for key, value in content.items():
        info = model.model_fields.get(key)
        annotation: Any = Any if info is None else info.annotation
        marks = [] if info is None else [each for each in info.metadata if isinstance(each, Kind)]
        found[key] = typed(value, Annotated[annotation, marks[0]] if marks else annotation, component)
    return found


def typed(value: Any, annotation: Any, component: Fields | None = None) -> Any:
    """`value` for a place of this type (see `typed_fields`)."""
    options, kind = _options(annotation)
    if isinstance(value, PlainInt | PlainFloat):
        return _decided(value, options)
    if isinstance(value, Mapping):
        if kind is not None:
            return {plain(name): _entry(plain(name), fields, kind, component) for name, fields in value.items()}
        model = next((o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)), None)
        if model is not None:
            return typed_fields({plain(key): each for key, each in value.items()}, model, component)
        mapping = next((o for o in options if _is(get_origin(o) or o, Mapping)), None)
        inner = get_args(mapping)[1] if mapping is not None and len(get_args(mapping)) == 2 else Any
        return {plain(key): typed(each, inner, component) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [typed(each, inner, component) for each, inner in zip(value, _inner(options, len(value)), strict=True)]
    if isinstance(value, str) and options and not any(_takes_text(o) for o in options):
        found = number(value)
        return found if any(o in (int, float) for o in options) else value
    return value


def _entry(name: Any, fields: Any, kind: str, component: Fields | None) -> Any:
    cls = None if component is None or not isinstance(fields, Mapping) else component(kind, name)
    return plain(fields) if cls is None else typed_fields(fields, cls, component)


def _options(annotation: Any) -> tuple[list[Any], str | None]:
    """The members of a union, None aside; and the kind of component that may stand here."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        options, kind = _options(inner)
        return options, next((each.name for each in marks if isinstance(each, Kind)), kind)
    if get_origin(annotation) in (Union, types.UnionType):
        found = [_options(each) for each in get_args(annotation) if each is not type(None)]
        return [o for options, _ in found for o in options], next((k for _, k in found if k), None)
    return ([] if annotation is Any else [annotation]), None


def _decided(value: Any, options: list[Any]) -> Any:
    literals = [each for o in options if get_origin(o) is Literal for each in get_args(o)]
    guess = plain(value)
    if value.text in literals:
        return value.text
    if any(type(each) is type(guess) and each == guess for each in literals):
        return guess
    wanted = (bool,) if isinstance(guess, bool) else (int, float)
    if any(o in wanted for o in options) or not any(_takes_text(o) for o in options):
        return guess
    return value.text


def _takes_text(option: Any) -> bool:
    return inspect.isclass(option) and issubclass(option, str | PurePath)


def _is(option: Any, parent: type) -> bool:
    return inspect.isclass(option) and issubclass(option, parent) and not issubclass(option, str)


def _inner(options: list[Any], count: int) -> Sequence[Any]:
    """The types of `count` items of a list."""
    option = next((o for o in options if get_origin(o) and _is(get_origin(o), Sequence)), None)
    arguments = () if option is None else get_args(option)
    if get_origin(option) is tuple and Ellipsis not in arguments and len(arguments) == count:
        return arguments
    return [arguments[0] if (arguments and get_origin(option) is not tuple) or Ellipsis in arguments else Any] * count
