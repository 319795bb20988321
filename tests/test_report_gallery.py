"""Which samples reach the page, and several runs on one page."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path

from PIL import Image
from test_report_page import open_page, sample, write_run

from mmcredit.report.gallery import build_gallery, spread
from mmcredit.report.page import embed
from mmcredit.report.records import Records, load_run


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    Image.effect_noise((1000, 500), 80).convert("RGB").save(run_dir / "media" / "apple.png")
    content = open_page(run_dir).data["media"][0].partition(";base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.size == (512, 256)


def test_the_budget_holds_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    with Records(run_dir, resume_step=1) as records:
        for step in range(1, 101):
            rows = [sample(m, float(m), sample_id=f"p{g}") for g in range(6) for m in range(2)]
            records.samples.write(step, rows)
    budget = 100_000
    gallery = build_gallery(run_dir, load_run(run_dir).sample_files, budget)
    shown = [step["step"] for step in gallery.steps]
    assert gallery.bytes <= budget
    assert len(embed({"steps": gallery.steps, "media": gallery.media})) < 1.5 * budget
    assert shown[0] == 1
    assert shown[-1] == 100
    assert len(shown) == 40
    assert max(b - a for a, b in itertools.pairwise(shown)) <= 3  # evenly
    counts = [len(step["groups"]) for step in gallery.steps]
    assert max(counts) - min(counts) <= 1  # and as many of each
    assert gallery.steps_left_out == 60
    assert gallery.groups_left_out + sum(counts) == 40 * 6
    page = open_page(run_dir, budget=budget)
    assert "60 sample tables are left out" in page.text
    assert f"{gallery.groups_left_out} whole groups" in page.text


def test_a_group_over_a_quarter_of_the_budget_loses_members(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    with Records(run_dir, resume_step=1) as records:
        records.samples.write(1, [sample(m, 1.0, question="q" * 100, media=[]) for m in range(8)])
    gallery = build_gallery(run_dir, load_run(run_dir).sample_files, 16_000)
    (group,) = gallery.steps[0]["groups"]
    assert group["size"] == 8
    assert 0 < len(group["members"]) < 8
    assert gallery.responses_left_out == 8 - len(group["members"])


def test_spread_keeps_first_and_last() -> None:
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread([1, 2], 4) == [1, 2]
