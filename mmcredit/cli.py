"""The command `mmcredit`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit import arguments, commands, look, usage, warned
from mmcredit.components import nearest
from mmcredit.deferred import defer, load_now
from mmcredit.version import __version__

if TYPE_CHECKING:
    from argparse import ArgumentParser

COMMANDS_GROUP = "mmcredit.commands"
KEEPS_ITS_ANSWERS = ("audit", "refine")  # evaluate says so itself


def parser(more: bool = True) -> ArgumentParser:
    """The command line; `more`: with the commands that other packages bring."""
    top = argparse.ArgumentParser(
        prog="mmcredit",
        description="Reinforcement learning for vision-language and text models from verifiable rewards, with credit "
        "as an object: which token gets how much of the reward.",
    )
    top.add_argument("--version", action="version", version=f"mmcredit {__version__}")
    actions = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = actions.add_parser(
        "train",
        help="train a model with RL",
        description="Train a model as CONFIG says: evaluate, train, evaluate again, write the report.",
    )
    arguments.config(train)
    train.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    train.add_argument("--dry-run", action="store_true", help="check the config and print it resolved; loads no torch")
    train.add_argument("--no-report", action="store_true", help="do not write report.html at the end")
    train.set_defaults(run=commands.train)

    launch = actions.add_parser(
        "launch",
        help="train on several processes or machines",
        description="Start `mmcredit train CONFIG` (or sft, dpo) on N processes, a thin layer on torchrun; on several "
        "machines run it on each. CONFIG needs train.engine=deepspeed, and run.dir on a disk that all machines see.",
    )
    arguments.config(launch)
    launch.add_argument(
        "--what", choices=("train", "sft", "dpo"), default="train", help="the command that is run (default train)"
    )
    launch.add_argument("--processes", type=int, required=True, metavar="N", help="processes on this machine")
    launch.add_argument("--nodes", type=int, default=1, metavar="M", help="machines (default 1)")
    launch.add_argument("--node-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    launch.add_argument("--master", metavar="HOST:PORT", help="address of machine 0; needed with --nodes")
    launch.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    launch.add_argument("--no-report", action="store_true", help="do not write report.html at the end")
    launch.set_defaults(run=commands.launch)

    sft = actions.add_parser(
        "sft",
        help="supervised fine-tuning, text and images",
        description="Teach a model what to write: examples as CONFIG says, prompt tokens masked, held-out loss before "
        "and after.",
    )
    arguments.fit(sft)
    sft.set_defaults(run=commands.sft)

    dpo = actions.add_parser(
        "dpo",
        help="preference optimisation on pairs of answers",
        description="Train on pairs, chosen against rejected, from a data set in TRL's preference columns or from the "
        "frozen rollouts of a run: DPO, and losses that weigh tokens.",
    )
    arguments.fit(dpo)
    dpo.add_argument("--from-run", metavar="RUN", help="pairs of this run's frozen rollouts (data.from_run)")
    dpo.set_defaults(run=commands.dpo)

    arguments.serve_rollouts(actions)
    arguments.evaluate(actions)

    check = actions.add_parser(
        "check",
        help="preflight: what a run would drop, need, and trip over",
        description="Read samples of data.train and data.evaluate through the real processor and the real rewards: one "
        "prompt as the model reads it, what would be dropped and why, references that no response can be paid for, "
        "what a step samples, and the memory it takes. Exit code: 0 if a run can start (warnings included), 1 if an "
        "error was found that stops it or makes it useless, 2 for a wrong command or config.",
    )
    arguments.config(check)
    check.add_argument(
        "--samples", type=int, default=200, metavar="N", help="samples to read of each set, evenly spread (default 200)"
    )
    check.set_defaults(run=commands.check)

    methods = actions.add_parser(
        "methods",
        help="list credit methods, parts of the loss, rewards, sources, ...; or the page of one",
        description="List what can be named in a config, by kind and with a line on each; or print the page of one: "
        "equation, source, differences from the paper, fields with their defaults.",
    )
    methods.add_argument("name", metavar="NAME", nargs="?", help="print the page of this one")
    methods.add_argument(
        "--kind", metavar="KIND", help="only this kind (credit, ratio, aggregate, reward, source, ...)"
    )
    arguments.plugins(methods)
    methods.set_defaults(run=commands.methods)

    corruptions = actions.add_parser(
        "corruptions",
        help="contact sheet of image corruptions",
        description="Draw IMAGE under every corruption at severities 1 to 5.",
    )
    corruptions.add_argument("image", metavar="IMAGE", type=Path, help="image file")
    corruptions.add_argument("-o", "--output", type=Path, default=Path("sheet.png"), help="sheet (default sheet.png)")
    corruptions.add_argument("--seed", type=int, default=0, metavar="N", help="of the random ones (default 0)")
    corruptions.set_defaults(run=commands.corruptions)

    merge = actions.add_parser(
        "merge",
        help="a LoRA run's result as a plain model folder",
        description="Merge the adapter in MODEL (RUN/model of a run with model.lora) into the base that it names, and "
        "write a folder that transformers loads by itself.",
    )
    merge.add_argument("model", metavar="MODEL", help="folder with an adapter, such as RUN/model")
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="new folder for the model")
    merge.add_argument("--base", metavar="PATH", help="the base, where it is not where the adapter says")
    merge.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: the base's)"
    )
    merge.add_argument("--trust-remote-code", dest="trust", action="store_true", help="run code of the base's folder")
    merge.set_defaults(run=commands.merge)

    look.add(actions, arguments.config, arguments.plugins)
    arguments.diagnose(actions)

    replay = actions.add_parser(
        "replay",
        help="frozen rollouts through several credit methods",
        description="Give the frozen rollouts of a run (log.rollouts_every) to other credit methods: where each puts "
        "its credit, how far they agree, which way their gradients point, what they cost.",
    )
    replay.add_argument("rollouts", metavar="ROLLOUTS", type=Path, help="run directory, or one RUN/rollouts/step-*")
    replay.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key.sub=value",
        help="changes to the run's config (model.device=cpu, ...)",
    )
    replay.add_argument(
        "--methods",
        default="all",
        metavar="A,B,...",
        help="names, {name: {field: value}}, [a, pipeline], recipe:NAME of configs/methods; default: all there are",
    )
    replay.add_argument(
        "--model", metavar="PATH", help="model to score and take gradients on; default: the one that sampled, if kept"
    )
    replay.add_argument("--recompute", action="store_true", help="do not use the run's own log-probs and signals")
    replay.add_argument("--no-gradient", action="store_true", help="leave out the gradient cosines")
    replay.add_argument("--groups", type=int, default=8, metavar="N", help="groups per batch on the page (default 8)")
    replay.add_argument("-o", "--output", type=Path, help="folder of the results (default ROLLOUTS/replay)")
    arguments.plugins(replay)
    replay.set_defaults(run=commands.replay)
    usage.finish(top)
    if more:
        _more_commands(actions)
    return top


def _more_commands(actions: Any) -> None:
    """Commands of other packages: every entry point of `mmcredit.commands` names a function that adds its own.

    The function gets argparse's subparsers; the module it stands in must not load what only a run needs.
    """
    for entry in sorted(entry_points(group=COMMANDS_GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(actions)
        except Exception as error:
            raise RuntimeError(
                f"commands of {entry.name!r} ({entry.value}) cannot be added: {error!r}; mend or uninstall it"
            ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a run that failed, 2 for a wrong command or config."""
    defer("torch")
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = parser(more=False)
    if not words:
        parser().print_help(sys.stderr)
        return 2
    top = own if words and words[0] in _names_of(own) else parser()
    if not words[0].startswith("-") and words[0] not in (known := _names_of(top)):
        print(f"mmcredit: error: no command {words[0]!r}; {nearest(words[0], sorted(known))}", file=sys.stderr)
        return 2
    # argparse gives up on words without a dash that come after an option (`key=value`, and all that stands after `--`).
    cut = words.index("--") if "--" in words else len(words)
    options, rest = top.parse_known_args(words[:cut])
    after = words[cut + 1 :]
    if after and hasattr(options, "arguments"):
        options.arguments = [*options.arguments, *after]
    else:
        rest = [*rest, *after]
    if rest and hasattr(options, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        options.overrides = [*options.overrides, *rest]
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if top is not own:
        load_now()  # commands of other packages need not know that torch was put off
    try:
        with warned.one_line(lambda text: print(f"mmcredit: note: {text}", file=sys.stderr)):
            return int(options.run(options))
    except ValueError as error:
        return _fail(error, 2)
    except (RuntimeError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(f"mmcredit: interrupted{_goes_on(options)}", file=sys.stderr)
        return 130


def _goes_on(options: argparse.Namespace) -> str:
    """How to go on with an interrupted command, where that is possible."""
    if getattr(options, "resume", None) is not None:
        return "; go on with --resume (from the newest checkpoint, see checkpoint.every)"
    return "; the same command goes on from here" if options.command in KEEPS_ITS_ANSWERS else ""


def _names_of(top: ArgumentParser) -> set[str]:
    """Names of its commands."""
    return {name for action in top._actions for name in (action.choices or ()) if action.dest == "command"}


def _fail(error: Exception, code: int) -> int:
    """One clear line; the traceback where MMCREDIT_TRACEBACK is set."""
    if os.environ.get("MMCREDIT_TRACEBACK"):
        raise error
    if told := os.environ.get("MMCREDIT_LAUNCHED") and os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # Several processes meet the same mistake: `mmcredit launch` prints the first one's.
        words = {"message": {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(told).write_text(json.dumps(words), encoding="utf-8")
        return code
    print(f"mmcredit: error: {' '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
