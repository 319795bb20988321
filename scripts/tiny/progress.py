"""One line of progress every few seconds, with the time that is left."""

import sys
import time


class Progress:
    """Prints `name step/total loss eta`; quiet between two lines so that a log file stays short."""

    def __init__(self, name: str, total: int, every_seconds: float = 10.0) -> None:
        self.name, self.total, self.every_seconds = name, total, every_seconds
        self.start = self.last = time.monotonic()

    def show(self, step: int, **values: float) -> None:
        """Report `step` of the total (counted from 1) if it is time to."""
        now = time.monotonic()
        if now - self.last < self.every_seconds and step != self.total:
            return
        self.last = now
        left = (now - self.start) / step * (self.total - step)
        numbers = " ".join(f"{key} {value:.4f}" for key, value in values.items())
        print(f"{self.name}: {step}/{self.total} {numbers} eta {left:.0f} s", file=sys.stderr, flush=True)
