"""Configs as files and text: found by name, read, laid over each other, overridden by dotted assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmcredit import yaml_values
from mmcredit.components import nearest


def find(name: str | Path, folder: str = "configs") -> Path:
    """A config file by path, or by its name below `configs/` here or beside the package. Raises ValueError."""
    here = Path(name)
    bases = [Path.cwd() / folder, Path(__file__).resolve().parent.parent / folder]
    tried = [here, *(base / here for base in bases), *(base / f"{name}.yaml" for base in bases)]
    for path in tried:
        if path.is_file():
            return path
    known = sorted({p.stem for base in bases if base.is_dir() for p in base.glob("*.yaml")})
    raise ValueError(f"no config {str(name)!r}; {nearest(str(name), known)}")


def recipes() -> dict[str, str]:
    """Name -> first line of comment of every recipe in `configs/methods`, here and beside the package."""
    found: dict[str, str] = {}
    for base in (Path(__file__).resolve().parent.parent, Path.cwd()):
        for path in sorted((base / "configs" / "methods").glob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            found[path.stem] = first.removeprefix("#").strip()
    return dict(sorted(found.items()))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; scalars remember their text (see `yaml_values`). Raises ValueError naming file
    and line."""
    try:
        content = yaml_values.read(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a config is a mapping of blocks, got {type(content).__name__}")
    return content


# Places of the config that hold a component entry, {name: fields}, not a block.
_ENTRIES = frozenset(
    {"data.train", "data.evaluate", "rollout.engine", "objective.ratio", "objective.clip", "objective.aggregate"}
)


def merge(base: Mapping[str, Any], over: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """`over` on top of `base`: mappings are merged, everything else (lists, entries of components) is replaced.

    A component entry is a mapping too ({name: fields}): it is replaced as a whole where the name differs.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        here = f"{place}.{key}" if place else key
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            other_component = here in _ENTRIES and len(old) == 1 == len(value) and set(old) != set(value)
            result[key] = value if other_component else merge(old, value, here)
        else:
            result[key] = value
    return result


def override(config: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply dotted `key.sub=value` assignments; values are YAML, and scalars remember their text until the type of
    their field decides (see `yaml_values`). Raises ValueError for a malformed one."""
    for item in assignments:
        path, sign, text = item.partition("=")
        if not sign or not path:
            raise ValueError(f"override {item!r} must look like key.sub=value")
        keys = path.strip().split(".")
        try:
            value = yaml_values.read(text) if text else None
        except yaml.YAMLError as error:
            raise ValueError(f"override {item!r}: not valid YAML: {' '.join(str(error).split())}") from None
        target: Any = config
        for key in keys[:-1]:
            target = _step(target, key, item)
        if isinstance(target, list):
            target[_position(target, keys[-1], item)] = value
        else:
            target[keys[-1]] = value
    return config


def _step(target: Any, key: str, item: str) -> Any:
    place: Any = _position(target, key, item) if isinstance(target, list) else key
    child = target[place] if isinstance(target, list) else target.get(key)
    if isinstance(child, str):  # a bare component name: open it for fields
        child = target[place] = {child: {}}
    elif child is None:
        child = target[place] = {}
    if not isinstance(child, dict | list):
        raise ValueError(f"override {item!r}: {key!r} holds {child!r}, which has no keys")
    return child


def _position(target: list[Any], key: str, item: str) -> int:
    if not key.isdigit() or int(key) >= len(target):
        raise ValueError(f"override {item!r}: {key!r} must be a position 0..{len(target) - 1} of the list")
    return int(key)


def lay_over(content: Mapping[str, Any], recipe: Mapping[str, Any], *, published: bool = False) -> dict[str, Any]:
    """A recipe on top of a run config.

    `credit` and `objective` of the recipe replace the config's as a whole: a method's loss must not depend on what
    stood there before. All else is merged. Its block `published` holds what goes with the paper's model size and
    hardware (learning rate, batch, lengths), and is used only if asked for.
    """
    recipe = dict(recipe)
    sizes = recipe.pop("published", {})
    merged = merge(
        {key: value for key, value in content.items() if key not in {"credit", "objective"} & set(recipe)}, recipe
    )
    return merge(merged, sizes) if published else merged
