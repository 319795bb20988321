"""Every command and program of README.md and docs/*.md is run, in reading order, in one folder."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points

import benchmark_rows
import pytest
from docs_pages import ROOT, blocks, pages, prose
from PIL import Image

import prm.commands
import video.commands
from mmcredit import usage
from mmcredit.cli import parser

# Words that make a command small enough for a test: laid over every command that the pattern is found in.
SMALL = "run.steps=2 rollout.prompts=4 rollout.group=4 evaluate.limit=6"
SHORTER = [
    (r"^bash scripts/quickstart\.sh", SMALL),
    (r"^mmcredit train (?!.*--dry-run)", SMALL),
    (r"^mmcredit train smollm2_sums", "model.path=builtin:tiny-qwen3"),
    (r"^mmcredit evaluate (?!.*--(corrupt|benchmark|decoding))", "--limit 8"),
    (r"^mmcredit evaluate .*--(corrupt|benchmark)", "--limit 4"),
    (r"^mmcredit evaluate .*--decoding", "--limit 2 --max-new-tokens 6"),
    (r"^mmcredit check", "--samples 8"),
    (r"^mmcredit audit (?!runs/)", "rollout.group=2"),
    (r"^mmcredit sft", "train.steps=2 evaluate.limit=4"),
    (r"^mmcredit dpo", "train.steps=2 data.from_run.held_out=0"),
    (r"^mmcredit prm-train", "data.questions=8 data.test_questions=4 sft.epochs=1 sft.batch=8"),
    (r"^mmcredit (refine|prm-evaluate)", "--limit 4"),
    (r"^mmcredit diagnose (divergence|cross|tokens)", "--questions 4"),
    (r"^mmcredit diagnose cross", "--budgets 1,all"),
]
# Blocks with a comment `<!-- not run: reason -->`, and why nothing smaller can stand for them.
NOT_RUN = {
    "README.md": 1,  # scripts/test.sh, which runs this test
    "docs/integrations.md": 3,  # need TRL and verl; scripts/test_integrations.sh runs them
    "docs/models.md": 1,  # fetches a model
    "docs/outputs.md": 1,  # serves until it is interrupted
    "docs/rollout.md": 2,  # fetches vLLM; serves until it is interrupted
    "docs/several-processes.md": 3,  # need DeepSpeed
    "docs/verifiers.md": 1,  # needs vLLM
}
PAGES = [path.relative_to(ROOT).as_posix() for path in pages()]


class Site:
    """A folder that looks like a checkout with its environment, in which the pages are worked through in order."""

    def __init__(self, folder):
        self.folder, self.done, self.outputs = folder, [], {}
        self.used, self.ran = set(), set()  # rows of SHORTER that matched; commands as the pages have them
        for name in ("scripts", "configs", "benchmarks", "docs", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)
        binaries = folder / ".venv" / "bin"
        binaries.mkdir(parents=True)
        for name, words in (("python", ""), ("mmcredit", " -m mmcredit.cli")):
            (binaries / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{words} "$@"\n')
            (binaries / name).chmod(0o755)
        # scripts/setup.sh finds its work done: the environment is the one that runs the tests.
        made = "cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1"
        stamp = subprocess.run(["bash", "-c", made], cwd=folder, capture_output=True, text=True, check=True).stdout
        (folder / ".venv" / f".mmcredit-{stamp.strip()}").write_text("easy-vqa\nlora\ndatasets\ntasks\nvideo\ndev\n")
        # What pages say that the reader has: a photo, local copies of benchmarks.
        Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(folder / "photo.png")
        benchmark_rows.parquet(folder / "benchmark_data/POPE/data/test.parquet", benchmark_rows.pope())
        benchmark_rows.parquet(folder / "benchmark_data/POPE/data/random.parquet", benchmark_rows.pope())
        benchmark_rows.parquet(folder / "benchmark_data/ChartQA/data/test.parquet", benchmark_rows.chartqa())
        self.env = {"OMP_NUM_THREADS": "1", "COLUMNS": "160", "HF_HUB_OFFLINE": "1"}
        older = folder / "older_install"
        entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
        for group, named in entries.items():
            installed = {entry.name for entry in entry_points(group=group)}
            entries[group] = {name: value for name, value in named.items() if name not in installed}
        if any(entries.values()):
            # The environment was made before pyproject.toml named these: what a new install would say.
            info = older / "mmcredit_entry_points-0.dist-info"
            info.mkdir(parents=True)
            lines = ["[{}]\n{}\n".format(g, "\n".join(map(" = ".join, e.items()))) for g, e in entries.items()]
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmcredit-entry-points\nVersion: 0\n")
            (info / "entry_points.txt").write_text("".join(lines))
        path = os.pathsep.join(filter(None, (str(older), str(ROOT), os.environ.get("PYTHONPATH"))))
        self.runner = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "docs_runner.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **self.env, "PYTHONPATH": path},
        )

    def close(self):
        self.runner.stdin.close()
        assert self.runner.wait() == 0

    def _fork(self, job):
        output = self.folder / "output.txt"
        self.runner.stdin.write(json.dumps({**job, "output": str(output)}) + "\n")
        self.runner.stdin.flush()
        code = int(self.runner.stdout.readline())
        return code, output.read_text(errors="replace")

    def command(self, line):
        """Run a line of bash, made smaller. Returns its output; AssertionError where it fails."""
        words = shlex.split(line, comments=True)
        env = {}
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            name, _, env[name] = words.pop(0).partition("=")
        assert not {"|", "&&", ";", ">", "<"} & set(words), f"one plain command a line: {line}"
        if words[0] == ".venv/bin/mmcredit":
            words[0] = "mmcredit"
        self.ran.add(" ".join(words))
        more = []
        for number, (pattern, extra) in enumerate(SHORTER):
            if re.search(pattern, " ".join(words)):
                self.used.add(number)
                more += extra.split()
        words += more
        if words[0] == "mmcredit":
            code, output = self._fork({"argv": words[1:], "env": env})
        else:
            result = subprocess.run(
                words,
                cwd=self.folder,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **self.env, **env},
            )
            code, output = result.returncode, result.stdout + result.stderr
        assert code == 0, f"{' '.join(words)}\nexit code {code}\n{output}"
        return output

    def page(self, name):
        """Run what a page holds, and the pages before it."""
        for each in PAGES[: PAGES.index(name) + 1]:
            if each in self.done:
                continue
            self.done.append(each)
            output = ""
            found = blocks(ROOT / each)
            for block in found:  # programs with a file name are there before the commands that use them
                if block.language == "python" and (title := re.match(r"# ([\w/]+\.py)\n", block.text)):
                    (self.folder / title.group(1)).write_text(block.text)
            for block in found:
                place = f"{each}:{block.line}"
                if block.not_run is not None or block.language in ("yaml", "json", "toml"):
                    continue
                if block.language == "bash":
                    assert block.commands, f"{place}: an empty block"
                    output = "\n".join(self.command(line) for line in block.commands)
                elif block.language == "python":
                    program = self.folder / "program.py"
                    program.write_text(block.text)
                    code, output = self._fork({"file": str(program)})
                    assert code == 0, f"{place}\n{output}"
                else:
                    self.outputs[place] = (block.text, output)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.mark.skipif(sys.platform == "win32", reason="bash commands, and fork")
@pytest.mark.parametrize("name", PAGES)
def test_commands_and_programs_of_the_page_run(site, name):
    site.page(name)


def test_what_the_pages_say_is_printed_is_printed(site):
    """Text blocks stand for the output of the block before them: every line, up to its numbers and where "..." is."""
    site.page(PAGES[-1])
    assert site.outputs
    for place, (shown, output) in site.outputs.items():
        for line in filter(str.strip, shown.splitlines()):
            pattern = re.escape(line.strip())
            pattern = re.sub(r"(\\ )+", r"\\s+", pattern).replace(re.escape("..."), r"\S*")
            pattern = re.sub(r"[\d,]*\d(\\\.\d+)?", r"[-\\d.,e]+", pattern)
            assert re.search(pattern, output), f"{place}: {line!r} is not in\n{output}"


def test_metrics_and_files_are_there(site):
    """Metrics that the pages name are logged by the runs that they make; files of a run directory are in one."""
    site.page(PAGES[-1])
    runs = [path.parent for path in site.folder.glob("runs/*/metrics.jsonl")]
    rows = [json.loads(line) for run in runs for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row}
    rooms = {name.partition("/")[0] for name in logged if "/" in name}
    named = 0
    for page in PAGES:
        for word in re.findall(r"`([a-z_]+/[\w/*.]+)`", prose(ROOT / page)):
            if word.partition("/")[0] in rooms and not (ROOT / word).exists():
                pattern = re.sub(r"\\\*|[A-Z]{2,}|\\\.\\\.\\\.", ".+", re.escape(word))
                assert any(re.fullmatch(pattern, name) for name in logged), f"{page}: no run logs {word}"
                named += 1
    assert named > 10
    listed = re.findall(r"^\| (`.*?) \|", prose(ROOT / "docs" / "outputs.md"), re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", " ".join(listed)):
        assert any(list(run.glob(name.rstrip("/"))) for run in runs), f"docs/outputs.md: no run left {name}"


def test_no_more_is_left_out_than_must_be(site):
    left_out = {}
    for path in pages():
        for block in blocks(path):
            if block.not_run is not None:
                assert block.language in ("bash", "python")
                left_out[block.page] = left_out.get(block.page, 0) + 1
    assert left_out == NOT_RUN
    site.page(PAGES[-1])
    stale = [pattern for number, (pattern, _) in enumerate(SHORTER) if number not in site.used]
    assert not stale, f"no command matches {stale}"


def test_every_page_is_listed():
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert set(PAGES) == there | {"README.md"}
    assert len(PAGES) == len(set(PAGES))


def test_every_help_has_an_example():
    own = parser(more=False)
    assert [words for words, _ in usage.commands(own) if words not in usage.EXAMPLES] == []
    assert set(usage.EXAMPLES) <= {words for words, _ in usage.commands(own)}
    groups = [action for action in own._actions if isinstance(action, argparse._SubParsersAction)]
    prm.commands.add(groups[0])
    video.commands.add(groups[0])
    examples = usage.EXAMPLES | prm.commands.EXAMPLES | video.commands.EXAMPLES
    for words, command in usage.commands(own):
        assert examples[words].startswith(f"mmcredit {words.split()[0]} ")
        assert command.format_help().splitlines()[-1] == f"  {examples[words]}"
        actions = [a for a in command._actions if a.help is None and not isinstance(a, argparse._SubParsersAction)]
        assert not actions, f"{words}: no help for {[a.dest for a in actions]}"


def test_examples_of_the_help_are_commands_of_the_pages(site):
    site.page(PAGES[-1])
    shown = set(site.ran)
    for block in (block for page in pages() for block in blocks(page) if block.not_run is not None):
        shown.update(re.sub(r"^\.[\w-]+/bin/", "", " ".join(shlex.split(line))) for line in block.commands)
    for line in (usage.EXAMPLES | prm.commands.EXAMPLES | video.commands.EXAMPLES).values():
        assert " ".join(shlex.split(line)) in shown, f"{line}: no page shows it, so no test runs it"
