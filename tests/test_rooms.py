"""The rooms of mmcredit import in one direction. Read from the source, imports inside functions and for types too."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import mmcredit

PACKAGE = Path(mmcredit.__file__).parent

GROUND = (
    "components config_files intervals judge rollouts scratch seeds settings state_tree version warned world "
    "yaml_values"
)
VALUES = f"{GROUND} answers data"
BELOW_CONFIG = f"{VALUES} corruptions credit objective policy rewards rollout signals statistics views"
BELOW_TRAIN = f"{BELOW_CONFIG} config evaluate frozen prepare report verifiers"

# What each room (a package or a file directly below mmcredit) may import, besides itself.
ROOMS: dict[str, str] = {
    # shared ground
    "compat": "",
    "deferred": "",
    "reflow": "",
    "components": "deferred reflow yaml_values",
    "config_files": "components yaml_values",
    "intervals": "",
    "judge": "",
    "rollouts": "",
    "scratch": "",
    "seeds": "",
    "settings": "",
    "state_tree": "",
    "usage": "",
    "version": "",
    "world": "scratch",
    "warned": "",
    "yaml_values": "",
    "statistics": "",
    "answers": "components",
    "data": f"{GROUND} answers",
    "corruptions": VALUES,
    "views": f"{VALUES} corruptions",
    "frozen": f"{GROUND} data policy",
    # a step, from samples to the loss
    "rewards": VALUES,
    "policy": f"{VALUES} corruptions views",
    "rollout": f"{VALUES} corruptions policy statistics views",
    "verifiers": f"{VALUES}",
    "signals": f"{GROUND} policy views",
    "credit": f"{GROUND} statistics views corruptions",
    "objective": f"{GROUND} statistics views corruptions credit",
    # a run
    "config": f"{BELOW_CONFIG} verifiers",
    "report": f"{VALUES} policy",
    "prepare": f"{BELOW_CONFIG} config verifiers",
    "evaluate": f"{BELOW_CONFIG} config prepare report",
    "train": BELOW_TRAIN,
    # beside RL: targets that are given, on the same policy, engines and checkpoints
    "supervised": f"{BELOW_TRAIN} train",
    "preference": f"{BELOW_TRAIN} train supervised",
    # test time alone: beside the rollout engines, on the policy
    "decoding": f"{VALUES} policy rollout views",
    # what is done with runs
    "diagnose": f"{BELOW_TRAIN} train",
    "replay": f"{BELOW_TRAIN} train",
    "audit": f"{BELOW_TRAIN} replay train",
    "launch": "",
    "commands": f"{BELOW_TRAIN} deferred diagnose launch preference replay supervised train",
    "heatmaps": f"{BELOW_CONFIG} config prepare report verifiers",
    "look": f"{BELOW_TRAIN} audit commands heatmaps",
    "arguments": f"{GROUND} commands",
    "cli": f"{GROUND} arguments commands deferred look usage",
    "integrations": f"{VALUES} compat credit policy signals views",
    "": "compat credit objective rollouts version",  # mmcredit/__init__.py, the public names
}
OUTSIDE = ("prm", "video")  # they import mmcredit
OF_TRAINING = ("mmcredit.train.loop.train", "mmcredit.train.engine")  # what they may know of mmcredit.train

Graph = dict[str, set[str]]


def imports(tree: ast.AST, known: Iterable[str], module: str, is_package: bool) -> tuple[set[str], set[str]]:
    """(modules of `known` that a file imports, all names that it imports), wherever in the file it does."""
    found: set[str] = set()
    every: set[str] = set()
    known = set(known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            every.update(names)
            found.update(known.intersection(names))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = module.split(".") if is_package else module.split(".")[:-1]
                home = home[: len(home) - node.level + 1]
                base = ".".join([*home, base] if base else home)
            every.add(base)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                every.add(inner)
                if inner in known:
                    found.add(inner)
                elif base in known:
                    found.add(base)
    return found - {module}, every


def read(package: Path) -> tuple[Graph, dict[str, set[str]]]:
    """Modules of a package: which of them each imports, and everything that it imports."""
    files: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: Graph = {}
    every: dict[str, set[str]] = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        graph[module], every[module] = imports(tree, files, module, path.name == "__init__.py")
    return graph, every


def room(module: str) -> str:
    """The part of a module's name below mmcredit that names its room; "" for mmcredit itself."""
    return module.split(".")[1] if "." in module else ""


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (strongly connected components of more than one node)."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo.extend(graph.get(node, ()))
        reach[start] = seen
    groups = {
        tuple(sorted(b for b in reach[a] if a in reach.get(b, ())))
        for a in graph
        if a in reach[a] and len(reach[a]) > 1
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def faults(graph: Graph, every: Mapping[str, set[str]], rooms: Mapping[str, str]) -> list[str]:
    """Every import against the direction, and every circle of rooms or modules, in words."""
    found = []
    between: Graph = {}
    for module, targets in graph.items():
        own = room(module)
        if own not in rooms:
            found.append(f"{module}: room {own!r} is not in the table")
            continue
        between.setdefault(own, set())
        for target in sorted(targets):
            if room(target) == own:
                continue
            between[own].add(room(target))
            if room(target) not in rooms[own].split():
                found.append(f"{module} imports {target}: {own!r} may import {rooms[own] or 'nothing'}")
        for name in sorted(every[module]):
            if name.split(".")[0] in OUTSIDE:
                found.append(f"{module} imports {name}: it is found through its entry point")
    found += [f"circle of rooms: {', '.join(group)}" for group in circles(between)]
    found += [f"circle of modules: {', '.join(group)}" for group in circles(graph)]
    return found


def test_rooms_import_in_their_direction():
    graph, every = read(PACKAGE)
    assert len(graph) > 200
    assert not (wrong := faults(graph, every, ROOMS)), "\n".join(wrong)


def outside_faults(graph: Graph, every: Mapping[str, set[str]]) -> list[str]:
    """Of a package that stands on mmcredit: imports of the trainer's inside, and circles of modules."""
    found = []
    for module, names in every.items():
        inside = [name for name in sorted(names) if f"{name}.".startswith(("mmcredit.train.", "mmcredit.commands."))]
        for name in inside:
            if not any(f"{open}.".startswith(f"{name}.") or f"{name}.".startswith(f"{open}.") for open in OF_TRAINING):
                found.append(f"{module} imports {name}: of mmcredit.train it may know {', '.join(OF_TRAINING)}")
    return found + [f"circle of modules: {', '.join(group)}" for group in circles(graph)]


@pytest.mark.parametrize("name", OUTSIDE)
def test_packages_on_top_know_nothing_of_the_trainers_inside(name):
    package = PACKAGE.parent / name
    if not package.is_dir():
        pytest.skip(f"no package {name} in this checkout")
    assert not (wrong := outside_faults(*read(package))), "\n".join(wrong)


def test_a_package_on_top_that_looks_inside_is_found_out(tmp_path):
    (tmp_path / "prm").mkdir()
    (tmp_path / "prm" / "a.py").write_text("from prm import b\nfrom mmcredit.train.loop import train\n")
    (tmp_path / "prm" / "b.py").write_text("import prm.a\nfrom mmcredit.train.update import Updater\n")
    (tmp_path / "prm" / "__init__.py").write_text("")
    told = "of mmcredit.train it may know mmcredit.train.loop.train, mmcredit.train.engine"
    assert outside_faults(*read(tmp_path / "prm")) == [
        f"prm.b imports mmcredit.train.update: {told}",
        f"prm.b imports mmcredit.train.update.Updater: {told}",
        "circle of modules: prm.a, prm.b",
    ]


def test_the_table_itself_has_no_circle():
    table = {name: set(allowed.split()) for name, allowed in ROOMS.items()}
    assert not circles(table)
    assert {each for allowed in table.values() for each in allowed} <= set(table)
    assert not {"rollout", "policy"} & (table["credit"] | table["objective"])


def test_every_package_says_what_it_holds():
    silent = [
        str(path.parent.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("__init__.py"))
        if "assets" not in path.parts and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def _write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "mmcredit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "mmcredit"


def test_a_bad_package_is_found_out(tmp_path):
    package = _write(
        tmp_path,
        {
            "__init__.py": "",
            "low/__init__.py": "",
            "low/first.py": "def f():\n    from mmcredit.high import one\n",
            "low/second.py": "import typing\nif typing.TYPE_CHECKING:\n    from mmcredit.low.third import X\n",
            "low/third.py": "from . import second\n",
            "high/__init__.py": "",
            "high/one.py": "import mmcredit.low.first\nfrom prm.verifier import Verifier\n",
            "new.py": "",
        },
    )
    wrong = faults(*read(package), {"": "", "low": "", "high": "low"})
    assert wrong == [
        "mmcredit.high.one imports prm.verifier: it is found through its entry point",
        "mmcredit.high.one imports prm.verifier.Verifier: it is found through its entry point",
        "mmcredit.low.first imports mmcredit.high.one: 'low' may import nothing",
        "mmcredit.new: room 'new' is not in the table",
        "circle of rooms: high, low",
        "circle of modules: mmcredit.high.one, mmcredit.low.first",
        "circle of modules: mmcredit.low.second, mmcredit.low.third",
    ]


def test_a_good_package_has_no_fault(tmp_path):
    package = _write(
        tmp_path,
        {
            "__init__.py": "",
            "low/__init__.py": "",
            "low/first.py": "import json\n",
            "high/__init__.py": "from mmcredit.high.one import f\n",
            "high/one.py": "from mmcredit.low import first\n",
        },
    )
    assert faults(*read(package), {"": "", "low": "", "high": "low"}) == []
