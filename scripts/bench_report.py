"""The report page with many samples in a real browser: time to first paint, to filter, to search, to scroll.

    python scripts/bench_report.py --responses 5000 --output DIR

Writes a run of made-up responses, renders it, opens it in Chromium and prints what was measured. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import yaml
from check_report import SIZES, Browser, find_browser

from mmcredit.report.page import render
from mmcredit.report.records import Records, SampleRow

GROUP, TOKENS, STEPS = 8, 30, 40
CLICK = """(async () => {{
  const began = performance.now();
  {what};
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - began;
}})()"""
SCROLL = """(async () => {
  const list = byId('groups'), gaps = [];
  let before = performance.now();
  for (let i = 0; i < 60; i++) {
    list.scrollTop += 400;
    await new Promise(done => requestAnimationFrame(done));
    const now = performance.now();
    gaps.push(now - before);
    before = now;
  }
  gaps.sort((a, b) => a - b);
  return [gaps[30], gaps[59], document.querySelectorAll('.entry').length];
})()"""


def write_run(folder: Path, responses: int) -> Path:
    """A run of `responses` made-up responses, spread over `STEPS` sample tables."""
    rng = np.random.default_rng(0)
    words = [f" word{i}" for i in range(400)]
    per_step = responses // GROUP // STEPS + 1
    config = {"run": {"name": "many", "steps": STEPS}, "rewards": ["exact"], "credit": ["grpo"]}
    with Records(folder) as records:
        records.write_config(yaml.safe_dump(config))
        left = responses
        for step in range(STEPS):
            records.metrics.write(step, {"reward/mean": float(rng.random())})
            rows = []
            for group in range(per_step):
                for member in range(min(GROUP, left)):
                    ids = rng.integers(len(words), size=TOKENS)
                    advantages = rng.normal(size=TOKENS)
                    reward = float(rng.random() > 0.5)
                    rows.append(
                        SampleRow(
                            sample_id=f"q{step}-{group}",
                            member=member,
                            question=f"question {step * per_step + group} of {words[int(ids[0])]}",
                            answer="yes",
                            response="".join(words[i] for i in ids),
                            pieces=[words[i] for i in ids],
                            token_ids=ids.tolist(),
                            advantages=advantages.tolist(),
                            logprobs=(-rng.random(TOKENS)).tolist(),
                            mask=[True] * TOKENS,
                            reward=reward,
                            parts={"exact": reward},
                        )
                    )
                left -= min(GROUP, left)
            if rows:
                records.samples.write(step, rows)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--responses", type=int, default=5000)
    parser.add_argument("--output", type=Path, help="folder of the run (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_run(arguments.output or Path(temporary) / "run", arguments.responses)
        page = render(folder)
        path = find_browser()
        if path is None:
            print("no Chromium on PATH")
            return 2
        browser = Browser(path)
        try:
            browser.size(*SIZES[""])
            browser.call("Page.navigate", url=page.resolve().as_uri())
            browser.wait("Page.loadEventFired")
            browser.settle()
            found = {
                "bytes": page.stat().st_size,
                "responses": browser.run("everyMember().length"),
                "groups": browser.run("everyGroup.length"),
                "first_paint_ms": browser.run(
                    "performance.getEntriesByType('paint').find(e => e.name === 'first-contentful-paint')?.startTime"
                ),
                "ready_ms": browser.run("performance.timing.loadEventEnd - performance.timing.navigationStart"),
            }
            actions = {
                "all_steps_ms": "byId('step').value = '-1'; byId('step').dispatchEvent(new Event('change'))",
                "filter_ms": "byId('filter').value = 'mixed'; byId('filter').dispatchEvent(new Event('change'))",
                "sort_ms": "byId('sort').value = 'credit'; byId('sort').dispatchEvent(new Event('change'))",
                "first_search_ms": "byId('search').value = 'word17'; byId('search').dispatchEvent(new Event('input'))",
                "search_ms": "byId('search').value = 'word1'; byId('search').dispatchEvent(new Event('input'))",
                "colour_ms": "byId('colour').value = '1'; byId('colour').dispatchEvent(new Event('change'))",
            }
            for name, what in actions.items():
                found[name] = round(browser.run(CLICK.format(what=what)), 1)
            browser.run("byId('search').value = ''; byId('search').dispatchEvent(new Event('input'))")
            median, worst, nodes = browser.run(SCROLL)
            found |= {"scroll_frame_ms": median, "scroll_worst_ms": worst, "entries_in_document": nodes}
        finally:
            browser.close()
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
