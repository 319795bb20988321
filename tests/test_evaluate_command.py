"""`mmcredit evaluate` on benchmarks and corrupted images: the command, its files, a kill, the page in a browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import benchmark_rows
import pytest
import yaml
from runs import model_folder, settings
from tiny import tiny_png

from mmcredit.cli import main
from mmcredit.evaluate.ask.answer_lines import Rows
from mmcredit.evaluate.ask.settings import fingerprint

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_report import SIZES, Browser, check_looks, complaints, find_browser  # noqa: E402


def write_benchmarks(root: Path) -> Path:
    """POPE (one picture damaged) and MathVista in their public format, with pictures that corruptions can change."""
    rows = benchmark_rows.pope()
    for n, row in enumerate(rows):
        row["image"] = {"bytes": tiny_png(64, n), "path": f"{n}.png"}
    rows[3]["image"] = {"bytes": b"no picture", "path": "3.png"}
    benchmark_rows.parquet(root / "pope/test.parquet", rows)
    rows = benchmark_rows.mathvista()
    for n, row in enumerate(rows):
        row["decoded_image"] = {"bytes": tiny_png((96, 64), n), "path": f"{n}.png"}
    benchmark_rows.parquet(root / "mathvista/testmini.parquet", rows)
    return root


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def timeless(path: Path) -> list[dict]:
    """Rows without the one thing that no two runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read(path)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Benchmarks, a saved tiny model, and one finished evaluation of them."""
    home = tmp_path_factory.mktemp("evaluate")
    write_benchmarks(home / "data")
    model_folder(home)
    assert main(command(home, home / "done")) == 0
    return home


def command(home: Path, output: Path, *more: str, benchmark: str = "mathvista,pope") -> list[str]:
    return [
        "evaluate", "--benchmark", benchmark, "--model", str(home / "qwen2_5_vl"), "--data-root", str(home / "data"),
        "--corrupt", "jpeg,fog", "--severity", "3,5", "--k", "2", "--max-new-tokens", "4", "--batch", "8",
        "-o", str(output), *more,
    ]  # fmt: skip


def test_rows_of_a_benchmark(home):
    rows = read(home / "done/pope-test.jsonl")
    answers = [row for row in rows if "skipped" not in row]
    assert len(answers) == 19 * 5 * 2
    assert set(answers[0]) == {
        "benchmark", "id", "number", "attempt", "corruption", "severity", "media", "response", "correct", "extracted",
        "rule", "scored_by", "flags", "tokens", "finish", "seconds",
    }  # fmt: skip
    cells = [(r["corruption"], r["severity"]) for r in answers if r["number"] == 0 and r["attempt"] == 0]
    assert cells == [(None, None), ("jpeg", 3), ("jpeg", 5), ("fog", 3), ("fog", 5)]
    assert {r["scored_by"] for r in answers} == {"official"}
    assert all(r["correct"] == ((r["extracted"] == "yes") == (r["number"] < 10)) for r in answers)
    assert len({r["response"] for r in answers if r["number"] == 0}) > 2  # other seeds, other pixels, other answers
    (lost,) = [row for row in rows if "skipped" in row]
    assert (lost["id"], lost["skipped"], lost["every_cell"]) == ("pope/test/3", "media damaged", True)


def test_summary_of_two_benchmarks(home):
    summary = json.loads((home / "done/summary.json").read_text(encoding="utf-8"))
    assert list(summary["benchmarks"]) == ["mathvista-testmini", "pope-test"]
    pope = summary["benchmarks"]["pope-test"]
    assert (pope["questions"], pope["answered"], pope["attempts"]) == (20, 19, 2)
    assert set(pope["summary"]["groups"]["category"]) == {"adversarial", "popular", "random"}
    assert set(pope["scores"]) == {"avg@2", "pass@2", "majority@2"}
    rows = [r for r in read(home / "done/pope-test.jsonl") if "skipped" not in r]

    def share(corruption, severity=None):
        hits = [r["correct"] for r in rows if (r["corruption"], r["severity"]) == (corruption, severity)]
        return sum(hits) / len(hits)

    table = {row["name"]: row for row in pope["robustness"]["rows"]}
    assert pope["robustness"]["questions"] == 19
    assert table["clean"]["accuracy"]["value"] == pytest.approx(share(None)) == pope["scores"]["avg@2"]["value"]
    jpeg = (share("jpeg", 3) + share("jpeg", 5)) / 2
    assert table["jpeg"]["accuracy"]["value"] == pytest.approx(jpeg)
    assert table["jpeg"]["drop"]["value"] == pytest.approx(share(None) - jpeg)
    fog = (share("fog", 3) + share("fog", 5)) / 2
    assert table["mean of all"]["accuracy"]["value"] == pytest.approx((jpeg + fog) / 2)
    assert pope["cells"]["fog:5"]["accuracy"]["value"] == pytest.approx(share("fog", 5))
    assert summary["benchmarks"]["mathvista-testmini"]["summary"]["scored_by"] == {"rule": 6}


@pytest.mark.parametrize("keep", [0.0, 0.35, 0.8])
def test_a_cut_off_file_becomes_the_same_again(home, tmp_path, keep, capsys):
    output = tmp_path / "cut"
    output.mkdir()
    name = "pope-test"
    (output / f"{name}.settings.json").write_bytes((home / f"done/{name}.settings.json").read_bytes())
    whole = (home / f"done/{name}.jsonl").read_bytes()
    (output / f"{name}.jsonl").write_bytes(whole[: int(keep * len(whole))])  # in the middle of a line
    assert main(command(home, output, benchmark="pope")) == 0
    assert timeless(output / f"{name}.jsonl") == timeless(home / f"done/{name}.jsonl")
    if keep:
        said = " ".join(capsys.readouterr().out.split())
        assert "1 line cut off" in said


def test_a_finished_evaluation_answers_nothing_again(home, monkeypatch):
    from mmcredit.rollout.engines.hf.engine import HFEngine

    before = (home / "done/pope-test.jsonl").read_bytes()
    monkeypatch.setattr(HFEngine, "generate", lambda *_: pytest.fail("a question was asked again"))
    assert main(command(home, home / "done", benchmark="pope")) == 0
    assert (home / "done/pope-test.jsonl").read_bytes() == before
    assert main(command(home, home / "done")) == 0  # the summary of both, for the tests after this one


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", "0.5"], r"other settings: sampling.temperature 1.0 -> 0.5;"),
        (["--limit", "5"], r"questions.limit null -> 5; questions.questions 20 -> 5"),
        (["--scoring", "rl"], r'questions.benchmark.pope.scoring "official" -> "rl"'),
        (["--samples", "3"], "attempts 2 -> 3;"),
        (["run.seed=1"], "seed 0 -> 1;"),
    ],
)
def test_other_settings_are_refused(home, more, message, capsys):
    import re

    before = (home / "done/pope-test.jsonl").read_bytes()
    assert main(command(home, home / "done", *more, benchmark="pope")) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (home / "done/pope-test.jsonl").read_bytes() == before


def test_other_weights_at_the_same_path_are_other_settings(home, tmp_path):
    from shutil import copytree

    copied = copytree(home / "qwen2_5_vl", tmp_path / "model")
    assert fingerprint(str(copied)) == fingerprint(str(home / "qwen2_5_vl"))
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    # A pattern through the whole file, as training would leave: every 64th byte of the tensors.
    for place in range(len(content) // 2, len(content), 64):
        content[place] ^= 1
    weights.write_bytes(content)
    assert fingerprint(str(copied)) != fingerprint(str(home / "qwen2_5_vl"))


def test_a_judge_decides_where_the_official_way_asks_one(home, tmp_path, capsys):
    from test_benchmarks_judge import server

    arguments = command(home, tmp_path / "out", benchmark="mathvista")
    at = arguments.index("--corrupt")
    arguments = [*arguments[:at], *arguments[at + 4 :], "--judge-model", "judge-1"]
    with server(lambda body: (200, "3")) as (url, seen):
        assert main([*arguments, "--judge-url", url]) == 0
    asked = len(seen)
    assert 0 < asked <= 6
    assert {call["model"] for call in seen} == {"judge-1"}
    rows = read(tmp_path / "out/mathvista-testmini.jsonl")
    assert {row["scored_by"] for row in rows} == {"judge"}
    assert {row["number"] for row in rows if row["correct"]} == {2}  # "How many?": 3
    assert f"asked {asked}" in capsys.readouterr().out
    # The rows are there and every reply is in the cache: a server that is gone is not missed.
    assert main([*arguments, "--judge-url", "http://127.0.0.1:9/v1"]) == 0
    assert read(tmp_path / "out/mathvista-testmini.jsonl") == rows
    assert main([*arguments[:-1], "judge-2", "--judge-url", url]) == 2
    assert 'judge.model "judge-1" -> "judge-2"' in capsys.readouterr().err


def test_further_cells_join_the_rows_that_are_there(home, tmp_path):
    small = command(home, tmp_path / "out", "--limit", "4", benchmark="pope")
    at = small.index("--corrupt")
    assert main(small[:at] + small[at + 4 :]) == 0  # clean only
    rows = timeless(tmp_path / "out/pope-test.jsonl")
    assert {row["corruption"] for row in rows} == {None}
    assert "Wrong answers" in (tmp_path / "out/evaluate.html").read_text(encoding="utf-8")
    assert main(small) == 0
    assert timeless(tmp_path / "out/pope-test.jsonl")[: len(rows)] == rows
    kept = json.loads((tmp_path / "out/pope-test.settings.json").read_text(encoding="utf-8"))["cells"]
    assert list(kept) == ["clean", "jpeg:3", "jpeg:5", "fog:3", "fog:5"]


def test_a_damaged_line_in_the_middle_and_a_second_writer(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"benchmark": "x", "id": "a", "number": 0, "attempt": 0, "corruption": None, "severity": None}
    with Rows(path, {"cells": {"clean": None}}, 1) as rows:
        rows.append([row, row | {"number": 1, "id": "b"}])
        assert rows.done(1, "clean")
        assert not rows.done(1, "jpeg:3")
        with pytest.raises(ValueError, match="is being written by another evaluation"):
            Rows(path, {"cells": {"clean": None}}, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0][:20] + b"\n" + lines[1])
    with pytest.raises(ValueError, match="line 1 is damaged"):
        Rows(path, {"cells": {"clean": None}}, 1)
    path.write_bytes(lines[1] + json.dumps(row | {"attempt": 1}).encode() + b"\n")
    with pytest.raises(ValueError, match="line 2: a row of a in clean that does not follow"):
        Rows(path, {"cells": {"clean": None}}, 1)
    path.with_suffix(".settings.json").unlink()
    with pytest.raises(ValueError, match="it is not known how they were made"):
        Rows(path, {"cells": {"clean": None}}, 1)


# The reward of a killed evaluation: at its third batch it kills the process that asks, once.
KILLER = """
import os, pathlib, signal
HERE = pathlib.Path(__file__).parent
def judge(item):
    asked = HERE / "asked"
    count = int(asked.read_text()) if asked.exists() else 0
    asked.write_text(str(count + 1))
    if count == 9 and (HERE / "kill").exists():
        (HERE / "kill").unlink()
        os.kill(os.getppid(), signal.SIGKILL)
    return float("e" in item.response)
"""


def test_a_killed_evaluation_of_a_config_goes_on_in_another_process(tmp_path):
    """Two processes and a third of their own write the same rows: same questions, pixels and answers."""
    reward = tmp_path / "killer.py"
    reward.write_text(KILLER)
    content = settings(
        tmp_path,
        rewards=[{"function": {"path": f"{reward}:judge"}}],
        data__evaluate={"easy_vqa": {"split": "test", "limit": 30}},
        evaluate__limit=6,
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    arguments = ["evaluate", str(config), "--corrupt", "gaussian_noise,fog", "--severity", "5", "--batch", "4"]
    program = "import sys, torch; torch.set_num_threads(1); from mmcredit.cli import main; sys.exit(main(sys.argv[1:]))"

    def process(output):
        return subprocess.run(
            [sys.executable, "-c", program, *arguments, "-o", str(output)], capture_output=True, text=True, check=False
        )

    (tmp_path / "kill").touch()
    killed = process(tmp_path / "out")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = timeless(tmp_path / "out/held-out.jsonl")
    assert len(before) == 8
    resumed = process(tmp_path / "out")
    assert resumed.returncode == 0, resumed.stderr
    assert f"going on after {len(before)} finished rows" in resumed.stdout
    rows = timeless(tmp_path / "out/held-out.jsonl")
    assert rows[: len(before)] == before
    assert len(rows) == 6 * 3
    assert main([*arguments, "-o", str(tmp_path / "other")]) == 0
    assert timeless(tmp_path / "other/held-out.jsonl") == rows
    # The clean cell is what the plain command states.
    assert main(["evaluate", str(config), "--output", str(tmp_path / "plain.jsonl")]) == 0
    clean = {row["id"]: row["response"] for row in rows if row["corruption"] is None}
    assert {row["id"]: row["response"] for row in read(tmp_path / "plain.jsonl")} == clean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a CONFIG with data.evaluate, or --benchmark"),
        (["--benchmark", "pope", "--model", "m"], "--benchmark needs --data-root"),
        (["--benchmark", "pope", "--data-root", "."], "without a CONFIG the model is missing"),
        (["--benchmark", "popes", "--data-root", ".", "--model", "m"], "did you mean 'pope'"),
        (["--benchmark", "pope,pope", "--data-root", ".", "--model", "m"], "pope-test stands twice"),
        (["--benchmark", "{pope: {split: test}", "--data-root", ".", "--model", "m"], "names with commas between"),
        (["--benchmark", "{mathvista: {split: test}}", "--data-root", ".", "--model", "m"], "hides the answers"),
        (["--benchmark", "pope", "--data-root", ".", "--model", "m", "--judge-url", "http://x/v1"], "needs both"),
        (["easy_vqa", "--severity", "3"], "--severity says how strong --corrupt is"),
        (["easy_vqa", "--scoring", "rl"], "--scoring belongs to --benchmark"),
        (["easy_vqa", "--corrupt", "jpg"], "did you mean 'jpeg'"),
        (["easy_vqa", "--corrupt", "seen,jpeg"], "--corrupt names jpeg twice"),
        (["easy_vqa", "--corrupt", "jpeg", "--severity", "0,3"], "whole numbers from 1 to 5"),
        (["easy_vqa", "--limit", "0"], "--limit must be at least 1"),
        (["easy_vqa", "--corrupt", "all", "-o", __file__], "is a file; with --benchmark or --corrupt a folder"),
    ],
)
def test_options_that_do_not_fit(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_questions_without_an_image_are_counted(tmp_path, capsys):
    # The text-only version of a problem shows no picture.
    rows = [row | {"problem_version": "Text Only", "sample_index": f"t{n}"} for n, row in enumerate(mathverse_pair())]
    benchmark_rows.parquet(tmp_path / "mathverse/testmini_text_only.parquet", rows)
    model_folder(tmp_path)
    split = "{mathverse: {split: testmini_text_only}}"
    home = ["--model", str(tmp_path / "qwen2_5_vl"), "--data-root", str(tmp_path), "-o", str(tmp_path / "out")]
    assert main(["evaluate", "--benchmark", split, *home, "--corrupt", "jpeg", "--max-new-tokens", "4"]) == 0
    assert "2 of 2 questions have no image" in " ".join(capsys.readouterr().out.split())
    answers = [(r["number"], r["response"]) for r in read(tmp_path / "out/mathverse-testmini_text_only.jsonl")]
    assert len(answers) == 6
    assert len(set(answers)) == 2


def mathverse_pair() -> list[dict]:
    return [{k: v for k, v in row.items() if k != "image"} for row in benchmark_rows.mathverse()[:2]]


def test_seen_is_what_the_config_trains_with(tmp_path):
    from runs import parse

    from mmcredit.corruptions import operator
    from mmcredit.evaluate.ask.settings import cells_of, suite_of

    plain = parse(tmp_path)
    assert "jpeg" in {c.title for c in suite_of(plain).seen}
    roma = parse(tmp_path, objective__regularizers=[{"roma": {"operators": ["fog", "snow"]}}])
    suite = suite_of(roma)
    assert [c.title for c in suite.seen] == ["fog", "snow"]
    assert "jpeg" in {c.title for c in suite.unseen}
    assert "fog" not in {c.title for c in suite.unseen}
    assert [c.label for c in cells_of("seen", "1", suite)] == ["clean", "fog:1", "snow:1"]
    published = cells_of("imagenet_c", "3", suite)
    assert [c.label for c in published[:2]] == ["clean", "gaussian_noise:3"]
    assert len(published) == 16
    specs = {c.operator.title: c.operator.spec() for c in published if c.operator}
    assert specs["fog"]["fog"]["published"] is True
    assert specs["jpeg"] == operator("jpeg").spec()
    assert "frost (own texture)" in specs
    assert len(cells_of("all", None, suite)) == 1 + 2 * (len(suite.seen) + len(suite.unseen))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_the_page_in_a_browser(home, tmp_path):
    page = home / "done/evaluate.html"
    # The shipped model answers easy-VQA, and not in fog: there are examples of answers that the fog has changed.
    fog = ["evaluate", "easy_vqa", "run.threads=1", "--corrupt", "fog", "--severity", "5", "--limit", "24"]
    assert main([*fog, "-o", str(tmp_path)]) == 0
    summary = json.loads((home / "done/summary.json").read_text(encoding="utf-8"))["benchmarks"]
    browser = Browser(find_browser())
    try:
        browser.size(*SIZES[""])
        browser.call("Page.navigate", url=page.resolve().as_uri())
        browser.wait("Page.loadEventFired")
        browser.settle()
        assert browser.run("document.querySelectorAll('#headlines tbody tr').length") == 2
        for name, found in summary.items():
            count = f"document.querySelectorAll('#{name} .robustness tbody tr').length"
            assert browser.run(count) == len(found["robustness"]["rows"])
        text = browser.run("document.body.textContent")
        assert "1 skipped: media damaged" in text
        assert "scored by a rule where the official way asks a judge model" in text
        assert check_looks(browser) > 0
        browser.call("Page.navigate", url=(tmp_path / "evaluate.html").resolve().as_uri())
        browser.wait("Page.loadEventFired")
        browser.run(
            "new Promise(done => addEventListener('load', done) || document.readyState === 'complete' && done())"
        )
        browser.settle()
        images = browser.run("[...document.querySelectorAll('.side img')].map(i => [i.complete, i.naturalWidth])")
        assert all(done and width for done, width in images)
        # Two pictures side by side that differ, a right and a wrong answer, in every example.
        sides = browser.run(
            "[...document.querySelectorAll('.example')].map(e => [...e.querySelectorAll('.side')].map("
            "s => [s.querySelector('img').src, s.querySelector('.badge').classList.contains('yes')]))"
        )
        assert len(sides) == 4
        for (clean, right), (corrupted, still) in sides:
            assert clean != corrupted
            assert (right, still) == (True, False)
        assert "fog:5:" in browser.run("document.querySelector('#held-out h3 ~ h3').textContent")
        assert check_looks(browser) > 0
        assert complaints(browser.seen) == []
    finally:
        browser.close()
