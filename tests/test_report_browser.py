"""The report in a real browser: no console message, no request, and every control does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_report_page import open_page, write_run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_report import find_browser  # noqa: E402

from mmcredit.report.page import render  # noqa: E402

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_report.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_hostile_run_is_shown_and_runs_nothing(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    render(run_dir)
    result = check(run_dir)
    assert result.returncode == 0, result.stderr
    assert "10 tokens, 8 coloured" in result.stdout  # two responses of five tokens, one of each outside the mask


def test_the_check_fails_on_a_page_that_calls_out(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", images=False, evaluations=False)
    html = open_page(run_dir).html
    page = tmp_path / "bad.html"
    page.write_text(html.replace("<main>", "<main><img src='https://example.org/x.png' alt=''>"), encoding="utf-8")
    result = check(page)
    assert result.returncode == 1
    assert "Content Security Policy" in result.stderr


def test_the_check_fails_on_a_script_error(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    html = open_page(run_dir).html
    page = tmp_path / "bad.html"
    page.write_text(html.replace('id="legend"', 'id="gone"'), encoding="utf-8")
    result = check(page)
    assert result.returncode == 1
    assert "did not finish" in result.stderr


def test_an_empty_run_opens(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    for path in (run_dir / "samples").iterdir():
        path.unlink()
    (run_dir / "metrics.jsonl").write_text("")
    (run_dir / "evaluations.jsonl").write_text("")
    render(run_dir)
    result = check(run_dir)
    assert result.returncode == 0, result.stderr
    assert "0 curves" in result.stdout
