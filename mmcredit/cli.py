"""The command `mmcredit`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcredit import __version__, commands
from mmcredit.deferred import defer

if TYPE_CHECKING:
    from argparse import ArgumentParser


def parser() -> ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="mmcredit", description="RL for vision-language models, with credit as an object"
    )
    top.add_argument("--version", action="version", version=f"mmcredit {__version__}")
    actions = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = actions.add_parser("train", help="train a model with RL", description="Train a model as CONFIG says.")
    _config(train)
    train.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    train.add_argument("--dry-run", action="store_true", help="check the config and print it resolved; loads no torch")
    train.add_argument("--no-report", action="store_true", help="do not write report.html at the end")
    train.set_defaults(run=commands.train)

    evaluate = actions.add_parser(
        "evaluate", help="held-out accuracy of a model", description="Answer data.evaluate's questions with a model."
    )
    _config(evaluate)
    evaluate.add_argument("--model", help="model folder or builtin:NAME instead of the config's (e.g. RUN/model)")
    evaluate.add_argument("--output", type=Path, help="write each question's answer as JSONL to this file")
    evaluate.set_defaults(run=commands.evaluate)

    check = actions.add_parser(
        "check",
        help="preflight: what a run would drop, need, and trip over",
        description="Read samples through the real processor; print what would be dropped and why.",
    )
    _config(check)
    check.add_argument("--samples", type=int, default=200, metavar="N", help="samples to read (default 200)")
    check.set_defaults(run=commands.check)

    methods = actions.add_parser(
        "methods", help="credit methods and parts of the loss", description="List components, or print one's page."
    )
    methods.add_argument("name", nargs="?", help="a method or part")
    methods.add_argument("--kind", help="only this kind (credit, ratio, aggregate, reward, source, ...)")
    _plugins(methods)
    methods.set_defaults(run=commands.methods)

    corruptions = actions.add_parser(
        "corruptions", help="contact sheet of image corruptions", description="Show IMAGE under every corruption."
    )
    corruptions.add_argument("image", metavar="IMAGE", type=Path, help="image file")
    corruptions.add_argument("-o", "--output", type=Path, default=Path("sheet.png"), help="sheet (default sheet.png)")
    corruptions.add_argument("--seed", type=int, default=0)
    corruptions.set_defaults(run=commands.corruptions)

    report = actions.add_parser("report", help="write a run's report.html", description="Write RUN/report.html.")
    report.add_argument("run_dir", metavar="RUN", type=Path, help="run directory")
    report.set_defaults(run=commands.report)
    return top


def _config(action: ArgumentParser) -> None:
    action.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one in configs/")
    action.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes on top of the file")
    action.add_argument("--method", metavar="NAME", help="recipe from configs/methods laid over the config")
    _plugins(action)


def _plugins(action: ArgumentParser) -> None:
    action.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Python file that registers components; it runs with your rights",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a run that failed, 2 for a wrong command or config."""
    defer("torch")
    top = parser()
    options, rest = top.parse_known_args(arguments)
    # argparse gives up on `key=value` words that come after an option; they are overrides all the same.
    if rest and hasattr(options, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.run(options))
    except ValueError as error:
        return _fail(error, 2)
    except (RuntimeError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("mmcredit: interrupted; go on with --resume", file=sys.stderr)
        return 130


def _fail(error: Exception, code: int) -> int:
    """One clear line; the traceback where MMCREDIT_TRACEBACK is set."""
    if os.environ.get("MMCREDIT_TRACEBACK"):
        raise error
    print(f"mmcredit: error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
