"""A headless Chromium, driven over its DevTools protocol through two pipes: no package, no port, no network.

Needs Debian's `chromium` (or Google Chrome) on PATH.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
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
CODES = {"Tab": 9, "Enter": 13}
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
        text: dict[str, Any] = {"text": key} if len(key) == 1 else {}
        if key in CODES:  # keys that the browser itself acts on
            text = {"code": key, "windowsVirtualKeyCode": CODES[key]} | ({"text": "\r"} if key == "Enter" else {})
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
