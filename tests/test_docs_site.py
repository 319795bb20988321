"""The documentation site builds without a warning, with a page and a picture for every credit method."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mmcredit import components

pytest.importorskip("material", reason="the extra `docs` is not installed")
ROOT = Path(__file__).parent.parent


class Links(HTMLParser):
    """Targets and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.update(v for k, v in attrs if k in ("id", "name") and v)
        self.targets += [found[k] for k in ("href", "src") if found.get(k)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}, folder


def test_every_credit_method_has_a_page_with_its_fields_and_its_picture(site):
    pages, _ = site
    example = json.loads((ROOT / "docs" / "example.json").read_text(encoding="utf-8"))
    names = [n for n in components.names("credit") if components.lookup("credit", n).__module__.startswith("mmcredit.")]
    assert len(names) > 20
    for name in names:
        page = pages[Path("methods") / f"{name}.html"]
        for field in components.lookup("credit", name).model_fields:
            assert field in page, (name, field)
        drawn = len(re.findall(r'<code class="credit">', page))
        rows = ["truth", *dict.fromkeys(["grpo", name])]
        assert drawn == sum(row == "truth" or row in example["credit"] for row in rows), name
    assert len(example["credit"]) > 15
    assert "<!-- credit" not in pages[Path("idea.html")]


def test_links_inside_the_site_lead_somewhere_and_nothing_is_loaded_from_outside(site):
    pages, folder = site
    read = {name: Links(text) for name, text in pages.items()}
    broken, outside = [], []
    for name, links in read.items():
        if name.name == "404.html":
            continue
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (folder / name).parent / unquote(parts.path) if parts.path else folder / name
            place = place.resolve()
            if not place.is_file():
                broken.append(f"{name}: {target}")
            elif parts.fragment and place.suffix == ".html":
                there = read[place.relative_to(folder.resolve())]
                if unquote(parts.fragment) not in there.ids:
                    broken.append(f"{name}: {target}")
        outside += re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', pages[name])
    assert not broken, broken[:10]
    assert not outside, outside[:5]
