"""What a person sees while a run goes on: one line of progress with time left, and a line per logged step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from mmcredit.train.watchdog import beat, step_done

if TYPE_CHECKING:
    from mmcredit.evaluate.accuracy import Evaluation


class Progress:
    """Progress of a run on a console. On a terminal bars move; elsewhere a line is printed every few seconds."""

    def __init__(self, console: Console | None = None, quiet: bool = False, line_seconds: float = 10.0) -> None:
        self.console = console or Console(markup=False)
        self.quiet = quiet
        self.line_seconds = line_seconds
        self.total = 0
        self.first = 0
        self._bars: Bars | None = None
        self._began = self._printed = time.monotonic()
        self._name = ""

    def start(self, total: int, done: int) -> None:
        """Begin: `done` of `total` steps are behind us."""
        self.total, self.first = total, done
        self._began = self._printed = time.monotonic()
        self._open("training", total, done)

    def stage(self, name: str, total: int | None = None) -> None:
        """The present step enters a stage of `total` items."""
        beat(name)
        if self._bars is not None:
            self._bars.reset(self._stage, total=total, description=name, completed=0)

    def advance(self, count: int) -> None:
        """`count` further items of the stage are done."""
        beat()
        if self._bars is not None:
            self._bars.advance(self._stage, count)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        step_done()
        if self._bars is not None:
            self._bars.update(self._main, completed=step + 1)
        now = time.monotonic()
        last = step + 1 == self.total
        if not self.quiet and (last or step == self.first or now - self._printed >= self.line_seconds):
            self._printed = now
            left = (now - self._began) / (step + 1 - self.first) * (self.total - step - 1)
            self.console.print(
                f"step {step + 1:>5}/{self.total}  {self.words(metrics)}  "
                f"grad {metrics['policy/grad_norm']:.2g}  {metrics['cost/step_seconds']:.2f} s/step  "
                f"left {_clock(left)}",
                highlight=False,
                soft_wrap=not self.console.is_terminal,  # a line of a log stays a line
            )

    def words(self, metrics: Mapping[str, float]) -> str:
        """What a line says of a step, besides its gradient and its time."""
        flagged = metrics.get("verify/flagged_rate")
        return (
            f"reward {metrics['reward/mean']:.3f}  length {metrics['response/length_mean']:.1f}  "
            f"no signal {metrics['group/zero_signal']:.0%}" + ("" if flagged is None else f"  flagged {flagged:.0%}")
        )

    def evaluation(self, step: int, total: int) -> None:
        """An evaluation of `total` questions begins."""
        beat("evaluate")
        if not self.quiet and self._bars is None:
            self._open("held-out questions", total, 0)
        self.stage(f"held-out questions at step {step}", total)

    def evaluated(self, step: int, found: Evaluation) -> None:
        """An evaluation is done."""
        self.say(f"held-out accuracy after {step} steps: {found}")
        if self.total == 0 or step >= self.total:
            self.stop()

    def say(self, text: str, style: str | None = None) -> None:
        """A line for the person, as it stands: messages quote responses, which may hold brackets."""
        if not self.quiet:
            self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def stop(self) -> None:
        """Take the bars down."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _open(self, name: str, total: int, done: int) -> None:
        self.stop()
        if self.quiet or not self.console.is_terminal:
            return
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._main = self._bars.add_task(name, total=total, completed=done)
        self._stage = self._bars.add_task("", total=None)
        self._bars.start()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
