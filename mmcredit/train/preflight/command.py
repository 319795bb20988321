"""The command `mmcredit check`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmcredit.policy.policy import Policy
from mmcredit.train.preflight.look import look
from mmcredit.train.preflight.page import show

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.config import RunConfig


def run(config: RunConfig, limit: int, console: Console) -> int:
    """Look, print, and give the exit code: 1 if something was found that stops a run or makes it useless, else 0.

    Raises ValueError for `limit` below 1 and for a model that cannot be loaded.
    """
    if limit < 1:
        raise ValueError(f"--samples must be at least 1, got {limit}")
    with console.status("loading the model"):
        policy = Policy.load(config.model, media_limits=config.data.media)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:

        def start(name: str, total: int | None) -> Callable[[int], None]:
            for old in bars.task_ids:
                bars.remove_task(old)
            task = bars.add_task(name, total=total)
            return lambda count: bars.advance(task, count)

        found = look(config, policy, limit, start)
    show(found, console)
    return 0 if found.ok else 1
