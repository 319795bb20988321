"""A checkout that people have worked in: what lies beside the sources does not reach lint, types, tests or packages."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mmcredit", "prm", "video")  # of the distribution
SOURCES = (*PACKAGES, "scripts", "tests")
# What runs, tools and people leave behind. Each file breaks the command that reads it.
BROKEN = "import os,sys\nfrom runs import nothing\nraise RuntimeError('a file of a run was imported')\n"
LEFT_BEHIND = {
    "runs/__init__.py": BROKEN,
    "runs/conftest.py": BROKEN,
    "runs/test_left.py": BROKEN,
    "runs/quickstart/ruff.toml": "select = ['NO_SUCH_RULE']\n",
    "runs/quickstart/pyproject.toml": "[tool.ruff]\nline-length = 20\n[tool.pytest.ini_options]\naddopts = '--no'\n",
    "runs/quickstart/plugin.py": BROKEN,
    "runs/quickstart/notebook.ipynb": "{",
    "models/mmcredit/__init__.py": BROKEN,
    "data/test_data.py": BROKEN,
    "datasets/train.jsonl": "{",
    "tiny/weights.py": BROKEN,
    "math_verify/readme.txt": "",
    "mmcredit_results/__init__.py": BROKEN,
    "foreign/__init__.py": BROKEN,
    "foreign/ruff.toml": "line-length = 'no number'\n",
    "env/lib/python3/site-packages/package.py": BROKEN,
    "halve_long.py": "from mmcredit.components import register\nimport os\n",
    "conftest_notes.txt": "",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources without a git folder, lived in."""
    copy = tmp_path_factory.mktemp("checkout") / "mmcredit"
    copy.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name, text in LEFT_BEHIND.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    return copy


def run(folder, *words):
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"},
    )


def test_lint_sees_every_source_and_nothing_else(checkout):
    lines = (ROOT / "scripts" / "test.sh").read_text().splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith('"$bin/ruff" ')]
    assert [words[0] for words in commands] == ["check", "format"]
    sources = {p.relative_to(checkout).as_posix() for name in SOURCES for p in (checkout / name).rglob("*.py")}
    for words in commands:
        result = run(checkout, "-m", "ruff", *words, "--no-cache")
        assert result.returncode == 0, result.stdout + result.stderr
    for places in (commands[0][1:], ["."]):
        if places == ["."]:
            (checkout / "foreign" / "ruff.toml").unlink()  # only what a run writes is kept from `ruff check .`
        shown = run(checkout, "-m", "ruff", "check", "--no-cache", "--show-files", *places)
        assert shown.returncode == 0, shown.stderr
        found = {Path(line).relative_to(checkout).as_posix() for line in shown.stdout.splitlines()}
        assert found - {"pyproject.toml"} == sources


def test_every_package_is_named_to_every_tool():
    """Tools are told what to look at, so that they look at nothing else: a new package must not be left out of one."""
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"scripts", "tests", "runs"}
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert set(PACKAGES) <= there
    assert set(tool["setuptools"]["packages"]["find"]["include"]) == {y for x in PACKAGES for y in (x, f"{x}.*")}
    assert set(tool["mypy"]["packages"]) == set(PACKAGES)
    assert {f"{name}/**/*.py" for name in SOURCES} == set(tool["ruff"]["include"]) - {"pyproject.toml"}
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:  # a git checkout
        assert {line.partition("/")[0] for line in tracked.stdout.splitlines()} == set(SOURCES)


def test_types_are_checked_of_the_package_alone(checkout):
    program = (
        "import json; from mypy.main import process_options; sources, _ = process_options([]);"
        "print(json.dumps([source.path for source in sources]))"
    )
    result = run(checkout, "-c", program)
    assert result.returncode == 0, result.stderr
    paths = [Path(path) for path in json.loads(result.stdout) if path]
    assert len(paths) > 100
    assert {path.relative_to(checkout).parts[0] for path in paths} == set(PACKAGES)


def test_tests_are_collected_from_their_folder_alone(checkout):
    for path in (checkout / "tests").glob("test_*.py"):
        if path.name not in ("test_components.py", "test_config.py"):
            path.unlink()  # two files are enough, and importing all takes its time
    result = run(checkout, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout + result.stderr
    files = {line.partition(":")[0] for line in result.stdout.splitlines() if line.startswith(("tests/", "runs/"))}
    assert files == {"tests/test_components.py", "tests/test_config.py"}, result.stdout


def test_helpers_of_the_tests_are_imported_whatever_lies_beside(checkout):
    """tests/runs.py and tests/tiny.py have names that folders in a checkout have, too."""
    (checkout / "tests" / "test_helpers.py").write_text(
        "import runs\nimport tiny\n\n\ndef test_origin():\n"
        "    assert runs.settings and tiny.tiny_vl\n    assert 'tests' in runs.__file__ and 'tests' in tiny.__file__\n"
    )
    result = run(checkout, "-m", "pytest", "tests/test_helpers.py", "-p", "no:cacheprovider")
    (checkout / "tests" / "test_helpers.py").unlink()
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_holds_nothing_that_lies_beside(checkout):
    pytest.importorskip("setuptools", minversion="77")
    program = (
        "import json; from setuptools.config.pyprojecttoml import read_configuration as read;"
        "print(json.dumps(read('pyproject.toml', expand=True)['tool']['setuptools']['packages']))"
    )
    result = run(checkout, "-c", program)
    assert result.returncode == 0, result.stderr
    packages = json.loads(result.stdout)
    assert {"mmcredit", "mmcredit.credit"} <= set(packages)
    assert {name.partition(".")[0] for name in packages} == set(PACKAGES)


def test_ci_runs_the_commands_of_the_readme_in_its_order():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text()
    scripts = ("bash scripts/quickstart.sh", "bash scripts/test.sh")
    for text in (readme, ci):
        assert all(script in text for script in scripts)
        assert text.index(scripts[0]) < text.index(scripts[1])
    (short,) = [line for line in ci.splitlines() if line.startswith(scripts[0])]
    assert short in readme, "the README shows how CI cuts the first command short"
