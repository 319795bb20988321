"""Open a page in headless Chromium, without a network, and use it as a person would.

    python scripts/check_report.py RUN_OR_HTML [--screenshot out.png]

For every page: no console message, no uncaught error, no request to anywhere, no page wider than its window (1400, 420
and 400 pixels, light and dark), contrast of text, a name for every control, and a walk through them by Tab. For the
report of a run also: curves, token colours, and each key and control. Needs Chromium on PATH (see `browser.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

from browser import BROWSERS, SIZES, Browser, CheckFailed, complaints, expect, find_browser
from page_looks import check_looks, open_page

__all__ = ["SIZES", "Browser", "CheckFailed", "check_looks", "complaints", "expect", "find_browser", "open_page"]

# key, what it changes, how many values that has, at which of them it may do nothing
KEYS = (
    ("]", "view.step", "report.samples.length", "last"),
    ("[", "view.step", "report.samples.length", "first"),
    ("j", "view.group", "visible.length", "last"),
    ("k", "view.group", "visible.length", "first"),
    ("c", "colouring.key", "colourings.length", "last"),
)


def check_page(browser: Browser, html: Path) -> dict[str, int]:
    """Open the page, look for curves and colours, and use every control. Returns what was counted."""
    open_page(browser, html)
    if not browser.run("typeof report === 'object' && 'curves' in report"):  # not the report of a run
        return {"controls": check_looks(browser)}
    expect(browser.run("document.documentElement.dataset.ready") == "true", "the page's script did not finish")
    data = browser.run(
        "({steps: report.curves.steps.length, samples: report.samples.length, evaluations: report.evaluations.length})"
    )
    counts = {"charts": browser.run("document.querySelectorAll('.chart').length")}
    counts["curves"] = browser.run("document.querySelectorAll('path.line[d^=M]').length")
    if data["steps"] or data["evaluations"]:
        expect(counts["curves"] > 0, f"{data['steps']} steps are in the page, but no curve is drawn")
        browser.hover(".plot")
        reading = browser.run("document.querySelector('.chart .at').textContent")
        expect(reading.startswith("step"), f"hovering over a chart shows no reading, but {reading!r}")
        browser.run("document.querySelector('.plot').focus()")
        read = {browser.run("readStep")}
        for key in ("ArrowLeft", "ArrowRight"):  # at an end, one of them has nowhere to go
            browser.key(key)
            read.add(browser.run("readStep"))
        expect(len(read) > 1 or browser.run("charts[0].steps.length") < 2, "the arrow keys do not move the reading")
    if data["samples"]:
        counts |= check_samples(browser)
    return counts | {"controls": check_looks(browser)}


def check_samples(browser: Browser) -> dict[str, int]:
    """Steps, groups, colours, filters and the card of a token."""
    coloured = "[...document.querySelectorAll('#group .token')].filter(t => t.style.backgroundColor).length"
    # A group with credit, wherever it is: without one there is nothing to colour by advantage.
    find = (
        "(() => { for (const [s, step] of report.samples.entries()) for (const [g, group] of step.groups.entries()) "
        "if (group.members.some(m => m.pieces.some((_, i) => valueAt(m.advantage, i)))) return [s, g]; "
        "return null; })()"
    )
    place = browser.run(find)
    if place:
        browser.run(f"view.step = {place[0]}; view.group = {place[1]}; refreshStep()")
        browser.settle()
    counts = {"tokens": browser.run("document.querySelectorAll('#group .token').length")}
    counts["coloured"] = browser.run(coloured)
    expect(counts["tokens"] > 0, "samples are in the page, but no token is shown")
    expect(not place or counts["coloured"] > 0, "the shown group has credit, but no token is coloured")
    expected = browser.run("visible[view.group].members.map(m => m.pieces.length)")
    shown = browser.run("[...document.querySelectorAll('.tokens')].map(t => t.querySelectorAll('.token').length)")
    expect(shown == expected, f"tokens shown {shown}, tokens recorded {expected}")
    images = browser.run("[...document.querySelectorAll('.prompt img')].map(i => [i.complete, i.naturalWidth])")
    expect(all(done and width for done, width in images), f"an image did not load: {images}")
    browser.hover("#group .token")
    expect(browser.run("!byId('card').hidden"), "hovering over a token shows no card")
    expect("advantage" in browser.run("byId('card').textContent"), "the token card does not state the advantage")
    browser.run("document.querySelector('.tokens').focus(); hideCard()")
    browser.key("ArrowRight")
    expect(browser.run("document.querySelector('.token.current')?.dataset.i") == "0", "→ does not select a token")
    browser.run("document.activeElement.blur()")
    for key, state, room, edge in KEYS:
        before, last = browser.run(state), browser.run(room) - 1
        browser.key(key)
        at_edge = last == 0 or before == (0 if edge == "first" else last)
        expect(at_edge or browser.run(state) != before, f"key {key} does nothing")
    kinds = browser.run("[...byId('filter').options].map(o => o.value)")
    for kind in kinds:
        browser.run(f"byId('filter').value = {json.dumps(kind)}; byId('filter').dispatchEvent(new Event('change'))")
        expect(
            browser.run(
                "visible.length === everyGroup.filter(g => g.place === view.step && passes(g, view.filter)).length"
            )
            and browser.run(f"visible.every(g => passes(g, {json.dumps(kind)}))"),
            f"filter {kind} shows other groups",
        )
    browser.run("byId('filter').value = 'all'; byId('filter').dispatchEvent(new Event('change'))")
    for i in range(browser.run("colourings.length")):
        browser.run(f"byId('colour').value = '{i}'; byId('colour').dispatchEvent(new Event('change'))")
        expect(browser.run("document.querySelectorAll('#legend .ramp i').length") > 0, "the legend is empty")
    browser.run("byId('colour').value = '0'; byId('colour').dispatchEvent(new Event('change'))")
    check_list(browser)
    if place:
        browser.run(f"view.step = {place[0]}; view.group = {place[1]}; refreshStep()")
    return counts


def check_list(browser: Browser) -> None:
    """All steps at once: search, sorting, and the list by keyboard."""
    browser.run("byId('step').value = '-1'; byId('step').dispatchEvent(new Event('change'))")
    expect(browser.run("visible.length === everyGroup.length"), "'all' steps does not list every group")
    for order in ("credit", "length", "reward-low", "reward-high", "step"):
        browser.run(f"byId('sort').value = {json.dumps(order)}; byId('sort').dispatchEvent(new Event('change'))")
        sorted_ = "visible.every((g, i) => !i || !SORTS[view.sort] || SORTS[view.sort](visible[i - 1], g) <= 0)"
        expect(browser.run(sorted_), f"sorting by {order} leaves another order")
    search = "byId('search').value = {}; byId('search').dispatchEvent(new Event('input'))"
    browser.run(search.format("'no response says this'"))
    none = "visible.length === 0 && byId('groups').textContent.includes('No such group')"
    expect(browser.run(none), "a search for what nobody says finds something")
    browser.run(search.format("everyGroup[0].id.split(/\\s/)[0]"))
    expect(browser.run("visible.includes(everyGroup[0])"), "search does not find a group by its id")
    browser.run("byId('search').value = ''; byId('search').dispatchEvent(new Event('input')); byId('groups').focus()")
    last = browser.run("visible.length - 1")
    for key, wanted in (("End", last), ("Home", 0), ("ArrowDown", min(1, last)), ("ArrowUp", 0)):
        browser.key(key)
        expect(browser.run("view.group") == wanted, f"key {key} in the list goes elsewhere")
        expect(browser.run("byId(byId('groups').getAttribute('aria-activedescendant')) !== null"), "no active entry")
    nodes = browser.run("document.querySelectorAll('.entry').length")
    expect(nodes <= 60, f"{nodes} entries stand in the document: the list is not virtual")
    browser.run("document.activeElement.blur()")


def main(argv: list[str] | None = None) -> int:
    """Check one report; 0 if it is fine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="a run directory or an HTML file")
    parser.add_argument("--screenshot", type=Path, help="PNG; -narrow, -dark and -narrow-dark are written beside it")
    arguments = parser.parse_args(argv)
    html = arguments.report / "report.html" if arguments.report.is_dir() else arguments.report
    if not html.is_file():
        print(f"no report at {html}; write it with: mmcredit report {arguments.report}", file=sys.stderr)
        return 2
    path = find_browser()
    if path is None:
        tried = ", ".join(BROWSERS)
        print(f"no browser on PATH (looked for {tried}); on Debian: apt-get install chromium", file=sys.stderr)
        return 2
    browser = Browser(path)
    try:
        counts = check_page(browser, html)
        if arguments.screenshot:
            for (name, size), dark in itertools.product(SIZES.items(), (False, True)):
                browser.size(*size, dark)
                suffix = "".join(f"-{part}" for part in (name, "dark" if dark else "") if part)
                target = arguments.screenshot
                browser.screenshot(target.with_name(f"{target.stem}{suffix}{target.suffix or '.png'}"))
        found = complaints(browser.seen)
        expect(not found, "; ".join(found))
    except CheckFailed as error:
        print(f"FAILED {html}: {error}", file=sys.stderr)
        for line in complaints(browser.seen):
            print(f"  {line}", file=sys.stderr)
        return 1
    finally:
        browser.close()
    print(f"ok {html}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
