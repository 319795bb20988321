"""The page of `mmcredit refine` in a real browser: hostile texts, many traces, filters, every width and scheme."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from prm.refine_page import _pieces, verdict, write_page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_report import Browser, complaints, find_browser, open_page  # noqa: E402

BROWSER = pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
EVIL = "<script>document.title = 'run'</script></pre><img src=x onerror=alert(1)> \u202edlrow \u2066 {{ 7*7 }} & 'x\""
LONG = "wordwithoutanyspace" * 40


def row(strategy: str, k: int, accuracy: float, tokens: float, prm: float) -> dict[str, object]:
    made = {"strategy": strategy, "k": k, "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05}
    made |= dict.fromkeys(("policy_calls", "policy_new_tokens", "policy_prefill_tokens", "cycles"), 1.0)
    return made | {
        "generated_tokens": tokens,
        "prm_calls": prm,
        "prm_new_tokens": 9 * prm,
        "no_answer": 0.1,
        "stops": {"clean": 3, "budget": 1},
    }


SUMMARY = [row("greedy", 0, 0.5, 14, 0), row("vote", 4, 0.4, 56, 0), row("regenerate", 1, 0.6, 40, 1.5)]
SUMMARY += [row("regenerate", 4, 0.8, 90, 3.0), row("reflect", 4, 0.3, 95, 3.0)]


def write(folder: Path, count: int) -> Path:
    """`count` traces of questions with pictures; the first two are hostile, every third has a cut."""
    folder.mkdir(parents=True)
    Image.new("RGB", (48, 32), (200, 30, 30)).save(folder / "red.png")
    samples, lines = [], []
    for i in range(count):
        text = (EVIL, LONG)[i] if i < 2 else f"<think>a red square number {i}</think><answer>red</answer>"
        media = (Media("image", folder / "red.png"),)
        parts = [{"type": "image"}, {"type": "text", "text": f"what is it? {text}"}]
        samples.append(Sample(f"q{i}", ({"role": "user", "content": parts},), media, answer=text))
        cycle = {
            "text": text,
            "status": "clean",
            "flagged": [],
            "fates": [],
            "think": text if i < 4 else "",
            "note": "",
        }
        cycle |= {"cut": None, "claim": "", "kept": "", "temperature": None, "moved_back": 0, "think": text * (i < 4)}
        cycles = [cycle]
        if i % 3 == 0:
            claim = "<img src=x" if i == 0 else "red"
            cut = {"cut": 3, "claim": claim, "flagged": [claim, EVIL], "fates": ["located", "not_found"]}
            cycles = [cycle | cut | {"status": "flagged", "temperature": 0.8, "note": EVIL, "moved_back": 2}, cycle]
        trace = {"id": f"q{i}", "seed": 0, "mode": "reflect" if i % 2 else "regenerate", "cycles": cycles}
        trace |= {"stop": "budget" if i % 5 == 0 else "clean", "texts": [c["text"] for c in cycles]}
        lines.append(json.dumps(trace) + "\n")
    (folder / "traces.jsonl").write_text("".join(lines), encoding="utf-8")
    about = {"policy": f"models/{EVIL}", "verifier": {"prm_local": {"x": EVIL}}, "k": [1, 4], "seeds": [0, 1]}
    about |= {"questions": count, "skipped": {"no picture": 2}}
    return write_page(folder, about, SUMMARY, samples, MediaLimits(root=folder), count)


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/check_report.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_what_is_flagged_and_what_goes_with_it() -> None:
    assert _pieces("a red one. It", None, "") == [("kept", "a red one. It")]
    assert _pieces("so a red one", 3, "red") == [("kept", "so "), ("gone", "a "), ("flagged", "red"), ("gone", " one")]
    assert _pieces("so a red one", 3, "blue") == [("kept", "so "), ("gone", "a red one")]


def test_the_verdict_compares_with_one_greedy_response() -> None:
    sentence, detail = verdict(SUMMARY)
    assert "(regenerate, k = 4) answers 30.0 points more" in sentence
    assert "greedy: 50.0 % [45.0, 55.0] at 14 tokens a question; regenerate, k = 4: 80.0 %" in detail
    assert "points fewer" in verdict([SUMMARY[0], SUMMARY[-1]])[0]
    assert verdict(SUMMARY[:2])[0] == "The strategies side by side."
    assert verdict([]) == ("No question was answered.", "")


@BROWSER
def test_hostile_texts_are_shown_and_run_nothing(tmp_path: Path) -> None:
    page = write(tmp_path / "few", 6)
    result = check(page)
    assert result.returncode == 0, result.stderr
    html = page.read_text(encoding="utf-8")
    assert "\u202e" not in html
    assert "⟨U+202E⟩" in html


@BROWSER
def test_many_traces_are_searched_and_filtered(tmp_path: Path) -> None:
    page = write(tmp_path / "many", 300)
    browser = Browser(find_browser() or "")
    try:
        open_page(browser, page)
        assert browser.run("document.documentElement.dataset.ready") == "true"
        shown = "[...document.querySelectorAll('.trace')].filter(t => !t.hidden).length"
        assert browser.run(shown) == 300
        cuts = "[...document.querySelectorAll('.trace')].map(t => t.dataset.cut)"
        assert browser.run(cuts) == ["cut"] * 100 + ["uncut"] * 200
        pick = "byId('which').value = {}; byId('which').dispatchEvent(new Event('change'))"
        for which, count in (("cut", 100), ("stop:budget", 60), ("mode:reflect", 150), ("all", 300)):
            browser.run(pick.format(json.dumps(which)))
            assert browser.run(f"[{shown}, byId('shown').value]") == [count, f"{count} shown"]
        browser.run("byId('find').focus()")
        for letter in "number 17<":
            browser.key(letter)
        assert browser.run(shown) == 1
        browser.run("byId('find').value = 'nobody says this'; byId('find').dispatchEvent(new Event('input'))")
        assert browser.run("byId('shown').value") == "No such trace"
        browser.run("byId('find').value = ''; byId('find').dispatchEvent(new Event('input'))")
        browser.run("document.querySelector('#strategies thead th:nth-child(3) button').focus()")
        browser.key("Enter")
        first = "document.querySelector('#strategies tbody tr').textContent"
        assert browser.run(first).startswith("regenerate4")
        browser.size(400, 800, dark=True)
        assert browser.run("document.documentElement.scrollWidth") <= 400
        assert complaints(browser.seen) == []
    finally:
        browser.close()


@BROWSER
def test_a_comparison_without_traces_opens(tmp_path: Path) -> None:
    result = check(write(tmp_path / "none", 0))
    assert result.returncode == 0, result.stderr
