"""The report page: it says what the records say, holds everything it needs, and runs nothing that the run wrote."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcredit.report import summary
from mmcredit.report.glossary import GLOSSARY, as_markdown, meaning_of
from mmcredit.report.page import content_policy, embed, format_number, render, thin
from mmcredit.report.records import Records, SampleRow, load_run

HOSTILE = (
    "</script><script>alert('x')</script><!--<script> ]]> &amp; \" ' \u2028 \u202e <img src=https://evil.example/x>"
)
CONFIG = """
run: {name: 'fruit </title><script>alert(2)</script>', steps: 4}
model: {path: 'builtin:tiny'}
data: {train: {jsonl: {path: x}}}
rollout: {prompts: 2, group: 2}
rewards: [{exact: {label: answer}}, format]
credit: [grpo, {pgpo: {tau: 0.4}}]
"""


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text of scripts, and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.title = ""
        self._inside = ""
        self.html = html
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "title":
            self.title += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def sample(member: int, reward: float, **changes: Any) -> SampleRow:
    sign = 1.0 if reward else -1.0
    fields: dict[str, Any] = {
        "sample_id": HOSTILE,
        "member": member,
        "question": "which fruit?" + HOSTILE,
        "answer": "apple",
        "media": ["apple.png"],
        "response": "é" + HOSTILE,
        "pieces": ["<0xC3>", "<0xA9>", HOSTILE, "\n ", "<|im_end|>"],
        "token_ids": [5, 6, 7, 8, 9],
        "advantages": [sign] * 5,
        "logprobs": [-0.1234567, math.nan, -1.0, -2.0, -0.5],
        "mask": [True, True, False, True, True],
        "reward": reward,
        "parts": {"answer": reward, HOSTILE: math.nan},
        "weights": {"pgpo": [1.0, 0.5, math.inf, 1.0, 1.0]},
        "signals": {"entropy": [0.1, 0.2, 0.3, 0.4, 0.5]},
        "truncated": member == 1,
    }
    return SampleRow(**{**fields, **changes})


def write_run(path: Path, *, images: bool = True, evaluations: bool = True) -> Path:
    with Records(path) as records:
        records.write_config(CONFIG)
        records.write_versions({"python": "3.11.7", "packages": {"torch": "2.13.0"}, "note": HOSTILE})
        name = records.media.put("apple", Image.new("RGB", (48, 32), "red"))
        assert name == "apple.png"
        for step in (1, 2, 3, 4):
            records.metrics.write(
                step,
                {
                    "reward/mean": step / 8,
                    "policy/grad_norm": math.nan if step == 2 else 0.5,
                    "cost/rollout_seconds": 1.5,
                    "credit/pgpo/" + HOSTILE: 1.0,
                },
            )
            media = ["apple.png"] if images else []
            records.samples.write(step, [sample(0, 1.0, media=media), sample(1, 0.0, media=media)])
        for step in (1, 2, 3):
            records.events.write(step, f"{step} prompts too long", kind="drop", data={"reason": HOSTILE, "count": step})
        records.events.write(3, HOSTILE, kind="alarm", level="error")
        if evaluations:
            records.evaluations.write(0, "test", n=1000, accuracy=0.5, low=0.469, high=0.531)
            records.evaluations.write(4, "test", n=1000, accuracy=0.6, low=0.57, high=0.63)
        records.write_cost(
            {
                "stages": {"rollout": {"seconds": 30.0, "tokens": 60000}, "update": {"seconds": 10.0}},
                "passes": {
                    "clean": {"forwards": 4, "tokens": 1000, "vision_calls": 8, "flops": 2.5e12, "seconds": 4.0}
                },
                "methods": {"grpo": {"seconds": 0.4}},
                "peak_memory_mb": 1234.5,
                "steps": 4,
            }
        )
    return path


def open_page(run_dir: Path, **options: Any) -> Page:
    return Page(render(run_dir, **options).read_text(encoding="utf-8"))


def test_nothing_comes_from_outside_and_nothing_of_the_run_is_markup(tmp_path: Path) -> None:
    page = open_page(write_run(tmp_path / "run"))
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "data", "srcset", "poster"):
                assert (value or "").startswith(("#", "data:")), (tag, name, value)
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == 2  # the data and the code; what the run wrote opened none
    assert "img" not in kinds
    assert "iframe" not in kinds
    assert kinds.count("title") == 1
    assert kinds.count("main") == 1
    assert "@import" not in page.html
    assert "url(" not in page.html
    style = page.html.split("<style>")[1].split("</style>")[0]
    assert "http" not in style
    assert "http://www.w3.org/2000/svg" in page.scripts[1]  # a name, not an address
    assert re.findall(r"https?://", page.scripts[1].replace("http://www.w3.org/2000/svg", "")) == []
    assert page.title == "fruit </title><script>alert(2)</script> · mmcredit report"
    assert HOSTILE.split("\u2028")[0].strip() in page.text  # shown as text


def test_the_policy_allows_its_own_script_only(tmp_path: Path) -> None:
    page = open_page(write_run(tmp_path / "run"))
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == content_policy(page.scripts[1])
    assert "default-src 'none'" in (policy or "")
    assert "connect-src" not in (policy or "")


def test_embedded_data_says_what_the_records_say(tmp_path: Path) -> None:
    data = open_page(write_run(tmp_path / "run")).data
    assert data["curves"]["steps"] == [1, 2, 3, 4]
    assert data["curves"]["series"]["reward/mean"] == [0.125, 0.25, 0.375, 0.5]
    assert data["curves"]["series"]["policy/grad_norm"] == [0.5, None, 0.5, 0.5]
    assert data["evaluations"][0]["points"][1] == {
        "step": 4, "accuracy": 0.6, "low": 0.57, "high": 0.63, "format": None, "n": 1000,
    }  # fmt: skip
    assert data["right_part"] == "answer"
    assert [step["step"] for step in data["samples"]] == [1, 2, 3, 4]
    (group,) = data["samples"][0]["groups"]
    assert group["question"] == "which fruit?" + HOSTILE
    assert group["size"] == 2
    right, wrong = group["members"]
    assert right["pieces"] == ["<0xC3>", "<0xA9>", HOSTILE, "\n ", "<|im_end|>"]
    assert right["text"] == "é" + HOSTILE  # fragments: the decoded text is there as well
    assert right["advantage"] == 1
    assert wrong["advantage"] == -1
    assert right["logprob"] == [-0.12346, None, -1, -2, -0.5]
    assert right["mask"] == [True, True, False, True, True]
    assert right["weights"] == {"pgpo": [1, 0.5, None, 1, 1]}
    assert right["signals"] == {"entropy": [0.1, 0.2, 0.3, 0.4, 0.5]}
    assert right["parts"] == {"answer": 1, HOSTILE: None}
    assert (right["truncated"], wrong["truncated"]) == (False, True)
    assert len(data["media"]) == 1  # one picture, embedded once for eight responses
    kind, _, content = data["media"][group["media"][0]].partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (48, 32)


def test_the_verdict_and_its_interval_are_computed(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    (item,) = summary.before_after(load_run(run_dir))
    half = 1.959963984540054 * math.sqrt(0.5 * 0.5 / 1000 + 0.6 * 0.4 / 1000)
    assert item["gain"] == pytest.approx(0.1)
    assert item["gain_low"] == pytest.approx(0.1 - half)
    assert item["gain_high"] == pytest.approx(0.1 + half)
    text = open_page(run_dir).text
    assert "Held-out accuracy rose from 50.0 % to 60.0 % on 1,000 questions." in text
    assert "Gain +10.0 points, 95 % interval +5.7 to +14.3" in text
    assert "4 of 4" in text


@pytest.mark.parametrize(
    ("after", "extra", "tone", "words"),
    [
        (0.4, {}, "bad", "fell from 50.0 % to 40.0 %"),
        (0.51, {}, "open", "no clear change"),
        (0.51, {"gain": 0.01, "gain_low": 0.004, "gain_high": 0.016}, "good", "rose from 50.0 % to 51.0 %"),
    ],
)
def test_verdicts(tmp_path: Path, after: float, extra: dict[str, float], tone: str, words: str) -> None:
    run_dir = write_run(tmp_path / "run", evaluations=False)
    with Records(run_dir, resume_step=5) as records:
        records.evaluations.write(0, "test", n=1000, accuracy=0.5, low=0.47, high=0.53)
        records.evaluations.write(4, "test", n=1000, accuracy=after, low=after - 0.03, high=after + 0.03, **extra)
    verdict = summary.verdict(load_run(run_dir))
    assert verdict.tone == tone
    assert words in verdict.text
    assert ("paired" in verdict.detail) == bool(extra)


def test_events_that_differ_in_numbers_share_a_row_and_drops_are_added_up(tmp_path: Path) -> None:
    rows = summary.event_table(load_run(write_run(tmp_path / "run")).events)
    assert rows[0]["level"] == "error"
    drop = next(row for row in rows if row["kind"] == "drop")
    assert (drop["times"], drop["amount"], drop["first"], drop["last"]) == (3, 6, 1, 3)
    assert drop["message"] == "3 prompts too long"
    assert any("policy/grad_norm is nan" in row["message"] for row in rows)


def test_costs_are_shares_of_the_whole(tmp_path: Path) -> None:
    tables = summary.cost_tables(load_run(write_run(tmp_path / "run")).cost)
    assert [(r["name"], r["share"], r["rate"]) for r in tables["stages"]] == [
        ("rollout", 0.75, 2000),
        ("update", 0.25, None),
    ]
    assert tables["passes"][0]["share"] == pytest.approx(0.1)
    assert tables["counters"] == ["forwards", "tokens", "vision_calls", "flops"]
    assert tables["passes"][0]["counters"] == {"forwards": 4, "tokens": 1000, "vision_calls": 8, "flops": 2.5e12}
    assert tables["methods"][0]["share"] == pytest.approx(0.01)
    text = open_page(tmp_path / "run").text
    assert "2.5 T" in text
    assert "1,234 MB" in text


def test_a_text_run_without_evaluation_says_so(tmp_path: Path) -> None:
    page = open_page(write_run(tmp_path / "run", images=False, evaluations=False))
    assert page.data["media"] == []
    assert page.data["samples"][0]["groups"][0]["media"] == []
    assert "No held-out evaluation is recorded" in page.text
    assert "Training reward: 0.125 over the first step, 0.500 over the last." in page.text


def test_a_run_that_has_just_begun_renders(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        records.write_config(CONFIG)
        page = open_page(tmp_path)  # while the writers are open
        assert "0 of 4 steps are written" in page.text
        assert "No sample table is written yet" in page.text
        assert page.data["curves"]["steps"] == []
        records.metrics.write(1, {"reward/mean": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    page = open_page(tmp_path)
    assert page.data["curves"]["steps"] == [1]
    assert "metrics.jsonl: 1 unreadable lines left out" in page.text


def test_damaged_tables_and_pictures_are_counted_not_fatal(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    (run_dir / "samples" / "step-000002.parquet").write_bytes(b"PAR1 nothing")
    (run_dir / "media" / "apple.png").write_bytes(b"not a picture")
    page = open_page(run_dir)
    assert [step["step"] for step in page.data["samples"]] == [1, 3, 4]
    assert page.data["media"] == [None]
    assert "samples/step-000002.parquet: not a readable parquet file" in page.text
    assert "image apple.png cannot be read" in page.text
    assert str(tmp_path) not in page.html  # the page may be passed on


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..", "", "link.png"])
def test_a_sample_table_cannot_pull_in_files_from_elsewhere(tmp_path: Path, name: str) -> None:
    run_dir = write_run(tmp_path / "run")
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "secret.png")
    (run_dir / "media" / "link.png").symlink_to(tmp_path / "run" / "secret.png")
    with Records(run_dir, resume_step=1) as records:
        records.samples.write(1, [sample(0, 1.0, media=[name])])
    page = open_page(run_dir)
    assert page.data["media"] == [None]
    assert "is not a plain file name in media/" in page.text


def test_long_series_are_thinned_to_means_and_peaks(tmp_path: Path) -> None:
    assert thin([1.0, 3.0, None, 5.0, None, None, 7.0], 2) == [2.0, 5.0, None, 7.0]
    assert thin([1.0, 3.0, 2.0], 2, peak=True) == [3.0, 2.0]
    with Records(tmp_path) as records:
        records.write_config(CONFIG)
        for step in range(1, 3102):
            records.metrics.write(step, {"reward/mean": float(step), "policy/ratio_max": float(step)})
    data = open_page(tmp_path).data["curves"]
    assert len(data["steps"]) == 1034
    assert data["steps"][:2] == [3, 6]
    assert data["steps"][-1] == 3101
    assert data["series"]["reward/mean"][0] == 2
    assert data["series"]["policy/ratio_max"][0] == 3
    assert all(len(values) == 1034 for values in data["series"].values())


def test_embedded_json_cannot_leave_its_element() -> None:
    value = {"a": HOSTILE, "b": [None, 1.5, "\u2029"]}
    text = embed(value)
    assert "<" not in text
    assert ">" not in text
    assert "&" not in text
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        embed({"a": math.nan})


def test_every_metric_the_design_names_has_a_meaning() -> None:
    for name in (
        "reward/mean", "reward/std", "reward/part/exact", "group/zero_signal", "response/length_mean",
        "response/truncated", "policy/loss", "policy/ratio_max", "policy/clip_high_fraction", "policy/entropy",
        "policy/grad_norm",
        "policy/learning_rate", "mismatch/kl", "credit/pgpo/active", "credit/nonzero_fraction", "cost/rollout_seconds",
        "cost/tokens_per_second",
    ):  # fmt: skip
        assert meaning_of(name) is not None, name
    assert meaning_of("something/else") is None
    assert as_markdown().count("\n") == len(GLOSSARY) + 1
    assert all(entry.meaning.endswith(".") and entry.wrong.endswith(".") for entry in GLOSSARY)


def test_numbers_are_written_for_people() -> None:
    assert [format_number(v) for v in (None, 0.0, 0.12345, 99.94, 1234.5, 2.5e12)] == [
        "–", "0", "0.123", "99.9", "1,234", "2.5 T",
    ]  # fmt: skip
    assert [summary.duration(s) for s in (0.5, 59, 61, 3725, None)] == [
        "0.5 s", "59 s", "1 min 01 s", "1 h 02 min", "unknown",
    ]  # fmt: skip


def test_text_that_turns_its_surroundings_is_shown_by_number(tmp_path: Path) -> None:
    page = open_page(write_run(tmp_path / "run"))
    visible = page.html.split('<script type="application/json"')[0]
    assert "\u202e" not in visible
    assert "⟨U+202E⟩" in page.text


def test_errors_and_warnings_are_counted_at_the_top(tmp_path: Path) -> None:
    assert "1 error and 1 warning during the run." in open_page(write_run(tmp_path / "run")).text
    assert summary.alarms([{"level": "info"}]) is None
    assert summary.alarms([{"level": "warning"}] * 2) == "2 warnings during the run."
