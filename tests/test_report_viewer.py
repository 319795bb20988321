"""The viewer: what it opens at, colours that colour-blind people tell apart, heat maps, the prompt as it was read."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import parse
from test_report_browser import check
from test_report_page import Page, sample, write_run

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_report import SIZES, Browser, find_browser  # noqa: E402

from mmcredit.heatmaps import write_heatmaps  # noqa: E402
from mmcredit.report import summary  # noqa: E402
from mmcredit.report.page import render  # noqa: E402
from mmcredit.report.records import Records, load_run  # noqa: E402
from mmcredit.report.samples import InsertedRow, SampleWriter, WindowRow  # noqa: E402
from mmcredit.train.loop import Trainer  # noqa: E402

BROWSER = pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
# Simulation of full dichromacy in linear RGB: Machado, Oliveira, Fernandes (2009), severity 1.
DICHROMATS = {
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(rgb):
    c = np.asarray(rgb) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_both_ends_of_a_scale_are_told_apart_by_every_kind_of_eye():
    css = (ROOT / "mmcredit" / "report" / "page.css").read_text()
    found = re.findall(r"--(up|down|more|less): (\d+) (\d+) (\d+);", css)
    assert len(found) == 8  # light and dark
    for scheme in (found[:4], found[4:]):
        colours = {name: linear([int(v) for v in rgb]) for name, *rgb in scheme}
        for (one, other), (kind, matrix) in itertools.product((("up", "down"), ("more", "less")), DICHROMATS.items()):
            seen = [lab(np.array(matrix) @ colours[name]) for name in (one, other)]
            assert np.linalg.norm(seen[0] - seen[1]) > 30, (one, other, kind)


@BROWSER
def test_it_opens_at_the_newest_step_with_credit_and_its_most_telling_group(tmp_path):
    run = tmp_path / "run"
    (tmp_path / "images").mkdir()
    with Records(run) as records:
        records.write_config("run: {name: x, steps: 9}\nrewards: [answer]\ncredit: [grpo]\n")
        for step, scale in ((0, 5.0), (4, 1.0), (8, 0.0)):
            records.metrics.write(step, {"reward/mean": 0.5})
            rows = []
            for group, (strength, mixed) in {"even": (3.0, False), "mild": (0.5, True), "telling": (2.0, True)}.items():
                for member in (0, 1):
                    values = [scale * strength] * 5
                    reward = float(member) if mixed else 1.0
                    rows.append(
                        sample(member, reward, sample_id=group, media=[], advantages=values, parts={"answer": reward})
                    )
            records.samples.write(step, rows)
    render(run)
    browser = Browser(find_browser())
    try:
        browser.size(*SIZES[""])
        browser.call("Page.navigate", url=(run / "report.html").resolve().as_uri())
        browser.wait("Page.loadEventFired")
        shown = browser.run("[visible[view.group].step, visible[view.group].id]")
    finally:
        browser.close()
    assert shown == [4, "telling"]


def test_the_top_names_device_dtype_and_adapter(tmp_path):
    run = load_run(write_run(tmp_path / "run"))
    assert dict(summary.header(run))["weights"] == "float32, no LoRA"
    run.config["model"] |= {"dtype": "bfloat16", "lora": {"rank": 8}}
    assert dict(summary.header(run))["weights"] == "bfloat16, LoRA, rank 8"
    from mmcredit.train.setup import versions

    assert versions()["device"] not in ("x86_64", "aarch64", "")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Two steps on images, with heat maps."""
    folder = tmp_path_factory.mktemp("heat")
    Trainer(parse(folder, run__steps=2, log__samples_every=1, checkpoint__final=True)).run()
    steps = []
    path, count, weights = write_heatmaps(folder / "run", 3, steps.append)
    return folder / "run", path, count, weights, steps


def test_the_prompt_is_kept_as_the_model_read_it(seen):
    render(seen[0])
    group = Page((seen[0] / "report.html").read_text(encoding="utf-8")).data["samples"][0]["groups"][0]
    assert re.search(r"<image: \d+ tokens>", group["prompt"])
    assert group["question"] in group["prompt"]


def test_heat_maps_show_what_hiding_a_cell_does(seen):
    _, path, count, weights, steps = seen
    found = json.loads(path.read_text())
    assert count == len(found["maps"]) == sum(steps) == 3
    assert weights == "its own model/"
    for one in found["maps"]:
        assert one["step"] == 1  # the newest table
        values = np.array(one["values"])
        assert values.shape[1] == one["rows"] * one["columns"] == 64
        assert np.abs(values).max() > 0
        assert np.abs(values[:, 0] - values[:, 36]).max() > 0  # a corner and the middle are not the same


@BROWSER
def test_a_page_with_heat_maps_shows_them(seen):
    render(seen[0])
    result = check(seen[0])
    assert result.returncode == 0, result.stderr
    browser = Browser(find_browser())
    try:
        browser.size(*SIZES[""])
        browser.call("Page.navigate", url=(seen[0] / "report.html").resolve().as_uri())
        browser.wait("Page.loadEventFired")
        browser.run("byId('filter').value = 'heat'; byId('filter').dispatchEvent(new Event('change'))")
        browser.settle()
        place = "visible[view.group].members.findIndex(m => heatOf(visible[view.group], m))"
        browser.run(f"document.querySelectorAll('.tokens')[{place}].querySelector('.token').click()")
        browser.settle()
        painted = "[...document.querySelector('.heat').getContext('2d').getImageData(0, 0, 128, 128).data].some(v => v)"
        assert browser.run(painted)
        assert "falls when the cell is hidden" in browser.run("byId('heat-words').textContent")
    finally:
        browser.close()


def test_heat_maps_of_a_run_without_images_are_refused(tmp_path):
    run = write_run(tmp_path / "run", images=False)
    for path in (run / "samples").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no sample with an image"):
        write_heatmaps(run, 1)
    with pytest.raises(ValueError, match="at least 1"):
        write_heatmaps(run, 0)


def with_timeline(path):
    """A run whose first response asked for a window of a video, and got two frames."""
    run_dir = write_run(path)
    with Records(run_dir, resume_step=9) as records:
        names = [records.media.put(f"frame{i}", Image.new("RGB", (32, 32), (0, 60 * i, 200))) for i in range(4)]
        asked = WindowRow("asked", 2.0, 4.5, 2.0, "ok", at=1, count=2)
        refused = WindowRow("asked", 9.0, 30.0, None, "out_of_budget", at=3, count=1)
        gold = WindowRow("gold", 3.0, 4.0)
        plain = sample(0, 1.0, media=names[:2])
        row = replace(
            plain,
            times=[0.0, 10.0],
            duration=12.0,
            inserted=[InsertedRow(2, 2, names[2:], [2.0, 4.5])],
            windows=[asked, refused, gold],
        )
        records.samples.write(9, [row, replace(sample(1, 0.0, media=names[:2]), times=[0.0, 10.0], duration=12.0)])
    return run_dir


@BROWSER
def test_a_video_has_its_time_axis(tmp_path):
    run_dir = with_timeline(tmp_path / "run")
    page = render(run_dir)
    assert check(run_dir).returncode == 0, check(run_dir).stderr
    browser = Browser(find_browser())
    try:
        browser.size(1400, 1000)
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("Page.loadEventFired")
        assert browser.run("report.samples.at(-1).step") == 9
        browser.run("(view.step = report.samples.length - 1, view.group = 0, refreshStep(), 1)")
        labels = browser.run("[...document.querySelectorAll('.timeline')].map((e) => e.getAttribute('aria-label'))")
        assert "asked: 2–4.5 s · 2 frames/s · ok · tokens 1–2" in labels[0]
        assert "asked: 9–30 s · out of budget · tokens 3–3" in labels[0]
        assert "gold: 3–4 s" in labels[0]
        assert "2 inserted frames" in labels[0]
        assert "no window" in labels[1]
        # The end of the axis is the latest moment, 30 s; a bar of 2.5 s takes a twelfth of it.
        share = "(e) => e.getBoundingClientRect().width / e.parentNode.getBoundingClientRect().width"
        width = browser.run(f"({share})(document.querySelector('.window.asked'))")
        assert abs(width - 2.5 / 30) < 0.005
        captions = browser.run("[...document.querySelectorAll('.prompt figcaption')].map((e) => e.textContent)")
        assert captions == ["0 s", "10 s"]
        assert browser.run("document.querySelectorAll('.token.given').length") == 2
        assert browser.run("document.querySelectorAll('.window.refused').length") == 1
    finally:
        browser.close()


def test_a_table_without_times_is_shown_without_an_axis(tmp_path):
    run_dir = with_timeline(tmp_path / "run")
    path = SampleWriter.find(run_dir)[9]
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["times", "duration", "windows"]), path)
    html = render(run_dir).read_text(encoding="utf-8")
    assert '"step":9' in html
    assert '"windows"' not in html.split("<script")[1]
