"""What every page of mmcredit keeps, whatever is on it: width, contrast, names of controls, the walk by Tab."""

from __future__ import annotations

import itertools
from pathlib import Path

from browser import SIZES, Browser, CheckFailed, expect

SCRIPT = Path(__file__).with_suffix(".js")
PAGE_SIZES = {**SIZES, "phone": (400, 800)}


def open_page(browser: Browser, html: Path) -> None:
    """Load a page and wait until it is drawn."""
    browser.seen.clear()
    browser.size(*SIZES[""])
    browser.call("Page.navigate", url=html.resolve().as_uri())
    browser.wait("Page.loadEventFired")
    browser.settle()


def check_looks(browser: Browser) -> int:
    """No wider than its window, text that stands out from its ground, controls with names, all of them reached by Tab
    with a mark where the focus is. Returns how many those are; raises CheckFailed with all that is wrong."""
    browser.run(SCRIPT.read_text(encoding="utf-8") + "\n1")
    wrong: dict[str, str] = {}  # what is wrong -> where it was seen first
    for (name, (width, height)), dark in itertools.product(PAGE_SIZES.items(), (False, True)):
        browser.size(width, height, dark)
        where = f"at {width} pixels ({name or 'desktop'}{', dark' if dark else ''})"
        wide = browser.run("document.documentElement.scrollWidth")
        if wide > width:
            wrong.setdefault(f"the page is {wide} wide and scrolls sideways", where)
        for each in browser.run("looks.faint()"):
            wrong.setdefault(f"hard to read: {each}", where)
        for each in browser.run("looks.unnamed()"):
            wrong.setdefault(each, where)
    browser.size(*SIZES[""])
    expect(not wrong, "; ".join(f"{where} {what}" for what, where in wrong.items()))
    return check_walk(browser)


def check_walk(browser: Browser, most: int = 300) -> int:
    """Tab from the top: every control that is shown gets the focus (of the first `most`), and one sees where it is."""
    count = browser.run("(globalThis.toReach = looks.reachable()).length")
    # The walk begins at the top again, wherever the focus was.
    body = "document.body"
    browser.run(f"scrollTo(0, 0); {body}.tabIndex = -1; {body}.focus(); {body}.removeAttribute('tabindex')")
    found: set[int] = set()
    for _ in range(min(most, count + 20)):
        browser.key("Tab")
        place, marked, what = browser.run("looks.focus()")
        if what.startswith("<body"):
            break
        expect(marked, f"the focus cannot be seen on {what}")
        found.add(place)
    missing = sorted(set(range(min(count, most - 20))) - found)
    if missing:
        shown = browser.run(f"toReach[{missing[0]}].outerHTML.slice(0, 90)")
        raise CheckFailed(f"{len(missing)} of {count} controls are not reached by Tab, first: {shown}")
    return count
