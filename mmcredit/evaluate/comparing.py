"""`mmcredit evaluate` with --decoding or --frugal: one table of accuracies over the same held-out questions."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from rich.table import Table

from mmcredit.evaluate.decoded import Bar, Decoded, compare, entry_of, read_keeps, stress

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.config import RunConfig


def run(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> int:
    """Answer, compare, print, write the answers where asked for."""
    if options.decoding is not None and options.frugal is not None:
        raise ValueError("--decoding and --frugal each compare with the plain answers; give one of them")
    if options.decoding is not None:
        found = compare(config, entry_of(options.decoding), bar)
    else:
        found = stress(config, read_keeps(options.frugal), bar)
    console.print(table(found, "decoding" if options.decoding is not None else "words kept"))
    last = found[-1]
    more = {n: v for n, v in last.report.items() if n not in ("responses", "tokens", "seconds")}
    console.print(f"{last.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in more.items()), highlight=False)
    if last.found.dropped:
        console.print(f"  unusable: {last.found.dropped}", highlight=False)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"decoding": one.name, **row} for one in found for row in one.rows]
        options.output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        console.print(f"answers: {options.output}", highlight=False)
    return 0


def table(found: list[Decoded], title: str) -> Table:
    """A row per engine or shortening: accuracy with its interval, the paired gain over the first, and what it took."""
    shown = Table(title, "accuracy", "95 % interval", "gain (paired)", "tokens", "seconds")
    for one in found:
        own, report = one.found.accuracy, one.report
        gain = ""
        if one.gain is not None:
            gain = f"{100 * one.gain.value:+.1f} [{100 * one.gain.low:+.1f}, {100 * one.gain.high:+.1f}]"
        bounds = f"{100 * own.low:.1f} .. {100 * own.high:.1f}"
        spent = (
            f"{report[name]:.{digits}f}" if name in report else "" for name, digits in (("tokens", 0), ("seconds", 1))
        )
        shown.add_row(one.name, f"{100 * own.value:.1f} %", bounds, gain, *spent)
    return shown
