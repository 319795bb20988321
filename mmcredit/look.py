"""The commands that look at runs: report, watch, compare, audit. Heavy imports wait until a command needs them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit import components
from mmcredit.commands import _bar, _load, _quiet_libraries, _stages, console

if TYPE_CHECKING:
    from argparse import ArgumentParser


def add(actions: Any, config: Callable[..., None], plugins: Callable[[ArgumentParser], None]) -> None:
    """Add the commands to argparse's subparsers; `config` and `plugins` add the arguments that others have too."""
    report_ = actions.add_parser(
        "report",
        help="write a run's report.html",
        description="Write RUN/report.html, one page that works offline: curves, held-out accuracy, samples with the "
        "credit of each token, cost, config. A run that is still going on can be looked at, too.",
    )
    report_.add_argument("run_dir", metavar="RUN", type=Path, help="run directory")
    report_.add_argument(
        "--heatmaps",
        type=int,
        default=0,
        metavar="N",
        help="for N responses, compute how every token's log-prob moves when a patch of the image is hidden",
    )
    report_.set_defaults(run=report)

    watch_ = actions.add_parser(
        "watch",
        help="the report of a run that goes on, in the browser",
        description="Serve the report page of RUN on 127.0.0.1 and keep it fresh while the run writes. Read-only: "
        "nothing but the page can be asked for. Ends with Ctrl-C; the run does not notice.",
    )
    watch_.add_argument("run_dir", metavar="RUN", type=Path, help="run directory")
    watch_.add_argument("--port", type=int, default=8790, metavar="N", help="port (default 8790; 0 = any free one)")
    watch_.add_argument("--seconds", type=float, default=5.0, metavar="S", help="between two looks (default 5)")
    watch_.set_defaults(run=watch)

    compare_ = actions.add_parser(
        "compare",
        help="several runs and seeds of several methods on one page",
        description="Put runs side by side: curves with the range of their seeds, paired differences on the same "
        "questions, interquartile means and probability of improvement with bootstraps over seeds, accuracy against "
        "cost, and where the configs differ. Runs that differ by their seed only are one method; the first run's "
        "method is what the others are compared with.",
    )
    compare_.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directories, two or more")
    compare_.add_argument(
        "-o", "--output", type=Path, default=Path("runs/compare"), help="folder (default runs/compare)"
    )
    compare_.set_defaults(run=compare)

    _audit(actions, plugins)


def _audit(actions: Any, plugins: Callable[[ArgumentParser], None]) -> None:
    found = actions.add_parser(
        "audit",
        help="credit methods against the true advantages of the tokens",
        description="Measure what every sampled token is worth, by continuations of each prefix, and compare the "
        "credit of every method with it: correlation, sign, gradient, noise, cost. SOURCE is a config, whose rollouts "
        "are then sampled, or frozen rollouts. The same command goes on after a kill.",
    )
    found.add_argument("source", metavar="CONFIG|ROLLOUTS", help="config, run directory, or one RUN/rollouts/step-*")
    found.add_argument(
        "overrides", nargs="*", default=[], metavar="key.sub=value", help="changes to the config (rollout.group=4, ...)"
    )
    found.add_argument(
        "--methods", default="all", metavar="A,B,...", help="as in `mmcredit replay`; default: all there are"
    )
    found.add_argument("--prompts", type=int, default=200, metavar="N", help="of a CONFIG (default 200)")
    found.add_argument(
        "--batch", type=int, default=16, metavar="N", help="prompts per batch, over which methods take their statistics"
    )
    found.add_argument(
        "--regroup", type=int, default=2, metavar="M", help="independent groups per prompt, for the gradient's noise"
    )
    found.add_argument(
        "--dense", type=int, default=32, metavar="K", help="continuations of a second SPO-chain row; 0 = none"
    )
    found.add_argument(
        "--continuations",
        default="16,64",
        metavar="K,MOST",
        help="per prefix and half of the truth: everywhere, and at most where the error is large (default 16,64)",
    )
    found.add_argument(
        "--error", type=float, default=0.04, metavar="SE", help="standard error of a value to aim at (default 0.04)"
    )
    found.add_argument("--exact", action="store_true", help="list all responses instead (small tasks, engine hf)")
    found.add_argument("--model", metavar="PATH", help="model of the values; default: the one that sampled, if kept")
    found.add_argument("--no-gradient", action="store_true", help="leave out the gradients")
    found.add_argument(
        "-o", "--output", type=Path, help="folder (default RUN/audit of rollouts, runs/audit/NAME of a config)"
    )
    plugins(found)
    found.set_defaults(run=audit, method=None, published=False)


def report(options: Namespace) -> int:
    """Write the report page of a run."""
    if options.heatmaps:
        _quiet_libraries()
        from mmcredit.heatmaps import write_heatmaps

        with _bar("heat maps", options.heatmaps) as advance:
            path, count, weights = write_heatmaps(options.run_dir, options.heatmaps, advance)
        console.print(f"{path}: {count} heat maps, weights of {weights}", highlight=False, soft_wrap=True)
    from mmcredit.report import render

    console.print(str(render(options.run_dir)), highlight=False, soft_wrap=True)
    return 0


def watch(options: Namespace) -> int:
    """The report page of a run over loopback."""
    from mmcredit.report.watch import serve

    def ready(address: str) -> None:
        console.print(f"{address}  (Ctrl-C ends it)", highlight=False)

    try:
        serve(options.run_dir, options.port, options.seconds, ready)
    except KeyboardInterrupt:
        console.print("ended", highlight=False)
    return 0


def compare(options: Namespace) -> int:
    """Several runs on one page."""
    from rich.table import Table

    from mmcredit.report.comparison import compare as write

    compared, rows, paths = write(options.runs, options.output)
    table = Table("method", "runs", "interquartile mean", "95 % over seeds", f"beats {compared.arms[0].label}")

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    for row in rows:
        around = "–" if row["iqm_low"] is None else f"{100 * row['iqm_low']:.1f} .. {100 * row['iqm_high']:.1f}"
        table.add_row(row["label"], str(row["runs"]), percent(row["iqm"]), around, percent(row["better"]))
    console.print(table)
    for pair in compared.pairs:
        gain = pair.gain
        console.print(
            f"{pair.arm} against {compared.arms[0].label} on {pair.task}: {100 * gain.value:+.1f} points "
            f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {gain.n} questions",
            highlight=False,
            markup=False,
        )
    for note in compared.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def audit(options: Namespace) -> int:
    """Credit against the truth."""
    for path in options.plugin:
        components.load_plugin(path)
    _quiet_libraries()
    from mmcredit.audit import output
    from mmcredit.audit.board import board
    from mmcredit.audit.command import Options
    from mmcredit.audit.command import audit as run_audit
    from mmcredit.audit.estimate import Plan

    numbers = options.continuations.split(",")
    if len(numbers) > 2 or not all(n.strip().isdecimal() for n in numbers):
        raise ValueError(f"--continuations must be K or K,MOST, such as 16,64, got {options.continuations!r}")
    plan = None if options.exact else Plan(int(numbers[0]), int(numbers[-1]), options.error)
    wanted = Options(
        options.methods,
        options.prompts,
        options.batch,
        options.regroup,
        options.dense,
        plan,
        not options.no_gradient,
        options.model,
    )
    path = Path(options.source)
    source: Any
    if path.is_dir():
        if options.overrides:
            raise ValueError("frozen rollouts carry their config; overrides are for a CONFIG")
        source, folder = path, options.output or path / "audit"
    else:
        options.config = options.source
        source = _load(options)
        folder = options.output or Path("runs/audit") / source.run.name
    with _stages() as stage:
        found = run_audit(source, folder, wanted, stage)
        made = board(found)
    console.print(output.terminal(made))
    console.print(output.verdict_sentence(made), highlight=False, markup=False)
    for label, why in found.refused.items():
        console.print(f"not audited: {label} {why}", highlight=False, markup=False, soft_wrap=True)
    for written in output.write(found, made, folder):
        console.print(str(written), highlight=False, soft_wrap=True)
    return 0
