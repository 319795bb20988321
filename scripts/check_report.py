"""Open a run's report in headless Chromium, without a network, and use it as a person would.

    python scripts/check_report.py RUN_OR_HTML [--screenshot out.png]

Fails on a console message, an uncaught error, a request to anywhere, a missing curve or token colour, a key or click
that does nothing, or a page wider than its window (1400 and 420 pixels, light and dark). Needs Debian's `chromium`
(or Google Chrome) on PATH; speaks its DevTools protocol over two pipes, so it needs no package.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root; the page is our own file
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing but what `mmcredit watch` serves
    "--proxy-server=127.0.0.1:9",
    "--remote-debugging-pipe",
)
# key, what it changes, how many values that has, at which of them it may do nothing
KEYS = (
    ("]", "view.step", "report.samples.length", "last"),
    ("[", "view.step", "report.samples.length", "first"),
    ("j", "view.group", "visible.length", "last"),
    ("k", "view.group", "visible.length", "first"),
    ("c", "colouring.key", "colourings.length", "last"),
)
SIZES = {"": (1400, 1000), "narrow": (420, 900)}


class CheckFailed(Exception):
    """The page is not as it should be; the message says what is wrong."""


def find_browser() -> str | None:
    """Path of a Chromium on PATH, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Browser:
    """One headless Chromium with one tab, driven over `--remote-debugging-pipe` (JSON messages ended by NUL)."""

    def __init__(self, path: str, timeout: float = 60.0) -> None:
        self.timeout = timeout  # seconds for one answer
        self.seen: list[dict[str, Any]] = []  # events of the page, in order
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._profile = tempfile.TemporaryDirectory(prefix="check-report-", ignore_cleanup_errors=True)
        to_read, self._to = os.pipe()
        self._from, from_write = os.pipe()
        # The protocol's pipes are descriptors 3 and 4 of the browser; lift ours out of the way first.
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, from_write)]
        for fd in (to_read, from_write):
            os.close(fd)
        command = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in theirs:
            os.close(fd)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises CheckFailed on an error or no answer in time."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next(method)
            if reply.get("id") == number:
                if "error" in reply:
                    raise CheckFailed(f"{method}: {reply['error'].get('message')}")
                return reply["result"]
            self.seen.append(reply)

    def wait(self, method: str) -> None:
        """Wait for an event of the page."""
        while not any(event.get("method") == method for event in self.seen):
            self.seen.append(self._next(method))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise CheckFailed(f"{script}: {result['exceptionDetails'].get('exception', {}).get('description')}")
        return result["result"].get("value")

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def hover(self, selector: str) -> None:
        """Scroll the first match into view and put the pointer on its middle."""
        first = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{first}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.settle()
        place = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({first}.getClientRects()[0])")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        self.settle()

    def settle(self) -> None:
        """Let the page draw two frames."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window and the colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.settle()

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save a PNG of the page, whole or only the window."""
        self.run("scrollTo({top: 0, behavior: 'instant'})")
        self.settle()
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(data["data"]))

    def close(self) -> None:
        """End the browser and remove its profile."""
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (CheckFailed, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for fd in (self._to, self._from):
            os.close(fd)
        self._profile.cleanup()

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        width, height = self.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        return {"clip": {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}}

    def _next(self, waiting_for: str) -> dict[str, Any]:
        deadline = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise CheckFailed(f"the browser gave no answer to {waiting_for} in {self.timeout:.0f} s")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise CheckFailed(f"the browser ended (exit {self._process.poll()}) before {waiting_for}")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def complaints(events: list[dict[str, Any]]) -> list[str]:
    """What the console, the log and the network say that a clean offline page would not."""
    found = []
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            found.append(f"error: {details.get('exception', {}).get('description') or details.get('text')}")
        elif method == "Runtime.consoleAPICalled":
            found.append(f"console.{params['type']}: {[a.get('value') for a in params['args']]}")
        elif method == "Log.entryAdded":
            found.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                found.append(f"request to {url}")
    return found


def expect(condition: Any, what: str) -> None:
    """Raise CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(what)


def check_page(browser: Browser, html: Path) -> dict[str, int]:
    """Open the page, look for curves and colours, and use every control. Returns what was counted."""
    browser.size(*SIZES[""])
    browser.call("Page.navigate", url=html.resolve().as_uri())
    browser.wait("Page.loadEventFired")
    browser.settle()
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
    for (name, (width, height)), dark in itertools.product(SIZES.items(), (False, True)):
        browser.size(width, height, dark)
        wide = browser.run("document.documentElement.scrollWidth")
        expect(wide <= width, f"at {width} pixels ({name or 'desktop'}) the page is {wide} wide and scrolls sideways")
    return counts


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
