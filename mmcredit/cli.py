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

from mmcredit import commands, look, usage, warned
from mmcredit.deferred import defer, load_now
from mmcredit.version import __version__

if TYPE_CHECKING:
    from argparse import ArgumentParser

COMMANDS_GROUP = "mmcredit.commands"


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
    _config(train)
    train.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    train.add_argument("--dry-run", action="store_true", help="check the config and print it resolved; loads no torch")
    train.add_argument("--no-report", action="store_true", help="do not write report.html at the end")
    train.set_defaults(run=commands.train)

    launch = actions.add_parser(
        "launch",
        help="train on several processes or machines",
        description="Start `mmcredit train CONFIG` on N processes, a thin layer on torchrun; on several machines run "
        "it on each. CONFIG needs train.engine=deepspeed, and run.dir on a disk that all machines see.",
    )
    _config(launch)
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
    _fit(sft)
    sft.set_defaults(run=commands.sft)

    dpo = actions.add_parser(
        "dpo",
        help="preference optimisation on pairs of answers",
        description="Train on pairs, chosen against rejected, from a data set in TRL's preference columns or from the "
        "frozen rollouts of a run: DPO, and losses that weigh tokens.",
    )
    _fit(dpo)
    dpo.add_argument("--from-run", metavar="RUN", help="pairs of this run's frozen rollouts (data.from_run)")
    dpo.set_defaults(run=commands.dpo)

    _serve_rollouts(actions)
    _evaluate(actions)

    check = actions.add_parser(
        "check",
        help="preflight: what a run would drop, need, and trip over",
        description="Read samples of data.train and data.evaluate through the real processor and the real rewards: one "
        "prompt as the model reads it, what would be dropped and why, references that no response can be paid for, "
        "what a step samples, and the memory it takes. Exit code: 0 if a run can start (warnings included), 1 if an "
        "error was found that stops it or makes it useless, 2 for a wrong command or config.",
    )
    _config(check)
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
    _plugins(methods)
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

    look.add(actions, _config, _plugins)
    _diagnose(actions)

    replay = actions.add_parser(
        "replay",
        help="frozen rollouts through several credit methods",
        description="Give the frozen rollouts of a run (log.rollouts_every) to other credit methods: where each puts "
        "its credit, how far they agree, which way their gradients point, what they cost.",
    )
    replay.add_argument("rollouts", metavar="ROLLOUTS", type=Path, help="run directory, or one RUN/rollouts/step-*")
    replay.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="changes to the run's config (model.device=cpu, ...)"
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
    _plugins(replay)
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


def _serve_rollouts(actions: Any) -> None:
    """`mmcredit serve-rollouts`: the other side of the engine `server`."""
    serve = actions.add_parser(
        "serve-rollouts",
        help="a server that samples for training runs on other processes or machines",
        description="Serve rollouts of MODEL over HTTP for runs with rollout.engine={server: {urls: [...]}}. Token ids "
        "go in and come out. One run at a time has the server; a later one takes it over.",
    )
    serve.add_argument("model", metavar="MODEL", help="model folder, builtin:NAME or hub id: what model.path names")
    serve.add_argument(
        "--engine", default="vllm", metavar="NAME", help="vllm (default), hf, or {vllm: {max_concurrent: 64, ...}}"
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default 127.0.0.1; others need a token)",
    )
    serve.add_argument("--port", type=int, default=8765, metavar="N", help="port (default 8765; 0: any free one)")
    serve.add_argument(
        "--token-env",
        default="MMCREDIT_ROLLOUT_TOKEN",
        metavar="VARIABLE",
        help="environment variable with the token that runs must show (default MMCREDIT_ROLLOUT_TOKEN)",
    )
    serve.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the model (default auto)")
    serve.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's own choice)")
    serve.add_argument("--max-body-mb", type=int, default=1024, metavar="MIB", help="longest request (default 1024)")
    serve.add_argument("--media-mb", type=int, default=2048, metavar="MIB", help="memory for media (default 2048)")
    serve.add_argument("--trust-remote-code", dest="trust", action="store_true", help="run code of the model's folder")
    serve.add_argument(
        "--with-parent", action="store_true", help="end when standard input closes; a run that starts a server sets it"
    )
    serve.set_defaults(run=commands.serve_rollouts)


def _evaluate(actions: Any) -> None:
    """`mmcredit evaluate`: held-out questions or benchmarks, clean or corrupted."""
    evaluate = actions.add_parser(
        "evaluate",
        help="accuracy of a model: held-out questions, benchmarks, corrupted images",
        description="Answer the questions of data.evaluate, or of benchmarks, with a model. With --benchmark or "
        "--corrupt the answers go into a folder: JSON lines, summary.json and evaluate.html; the same command goes on "
        "after a kill.",
    )
    _config(evaluate, optional=True)
    evaluate.add_argument("--model", help="model folder or builtin:NAME instead of the config's (e.g. RUN/model)")
    evaluate.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder of the results (default runs/evaluate/MODEL); without --benchmark and --corrupt a JSONL file",
    )
    evaluate.add_argument("--samples", type=int, metavar="K", help="answers per question: pass@k, avg@K, majority@k")
    evaluate.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature (several samples: default the rollout's)"
    )
    evaluate.add_argument("--k", metavar="1,2,4", help="values of k (default powers of two up to K); K is at least k")
    evaluate.add_argument("--limit", type=int, metavar="N", help="at most N questions, of a seeded shuffle")
    evaluate.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (no CONFIG: default 1024)")
    evaluate.add_argument("--batch", type=int, metavar="N", help="prompts answered at a time (default 64)")
    evaluate.add_argument(
        "--decoding",
        metavar="NAME",
        help="decode by r2r, arbitrage or tokenselect: a name or {name: {field: value}}; held-out questions are "
        "answered by each model alone as well",
    )
    evaluate.add_argument(
        "--frugal",
        metavar="0.9,0.7,0.5",
        help="stress test: answer with these shares of each question's words, numbers protected",
    )
    benchmarks = evaluate.add_argument_group("benchmarks, with or without a CONFIG")
    benchmarks.add_argument("--benchmark", metavar="A,B", help="names, or {name: {split: ..., ...}}")
    benchmarks.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds their files")
    benchmarks.add_argument(
        "--scoring", choices=("official", "rl"), help="official (default): own prompt and rule; rl: boxed, rule grader"
    )
    benchmarks.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible address, up to and with /v1")
    benchmarks.add_argument("--judge-model", metavar="NAME", help="its model; without a judge a rule stands in")
    benchmarks.add_argument("--judge-key-env", metavar="VARIABLE", help="environment variable that holds its key")
    corruptions = evaluate.add_argument_group("corrupted images")
    corruptions.add_argument(
        "--corrupt", metavar="all|seen|unseen|imagenet_c|A,B", help="operators; clean images come along"
    )
    corruptions.add_argument("--severity", metavar="3,5", help="severities from 1 to 5 (default 3,5)")
    evaluate.set_defaults(run=commands.evaluate)


def _diagnose(actions: Any) -> None:
    """`mmcredit diagnose divergence | cross-sampling | drift | tokens`."""
    diagnose = actions.add_parser(
        "diagnose",
        help="what training changed, token by token",
        description="Compare two checkpoints token by token, or sampled ids with their text.",
    )
    kinds = diagnose.add_subparsers(dest="what", required=True, metavar="WHAT")
    pages = {
        "divergence": "where the next-token distributions of two checkpoints differ, on the same responses",
        "cross-sampling": "accuracy when a few tokens per response are drawn by the other checkpoint",
        "drift": "whether sampled ids read back as themselves when their text is tokenised again",
        "tokens": "token premiums of languages on parallel text; entropies of prompts and rollouts, and their drift",
    }
    for name, meaning in pages.items():
        kind = kinds.add_parser(name, help=meaning, description=meaning[0].upper() + meaning[1:] + ".")
        _config(kind)
        kind.add_argument("--questions", type=int, metavar="N", help="held-out questions (default evaluate.limit)")
        kind.add_argument("--samples", type=int, default=1, metavar="K", help="responses per question (default 1)")
        kind.add_argument("--temperature", type=float, metavar="T", help="of sampling (default the rollout's)")
        kind.add_argument("-o", "--output", type=Path, help="folder of the results (default run.dir/diagnose)")
        kind.set_defaults(run=commands.diagnose)
        if name == "tokens":
            kind.add_argument(
                "--run", dest="run_dir", type=Path, metavar="RUN", help="compare the prompts with this run's samples"
            )
            kind.add_argument(
                "--parallel", type=Path, metavar="FILE", help="JSON lines {language: sentence, ...} of parallel text"
            )
            kind.add_argument("--reference", default="en", metavar="LANGUAGE", help="of the premiums (default en)")
            continue
        if name == "drift":
            kind.add_argument("--model", help="model folder or builtin:NAME (default the config's)")
            kind.add_argument(
                "--run", dest="run_dir", type=Path, metavar="RUN", help="read the samples of this run; sample nothing"
            )
            continue
        kind.add_argument("--base", metavar="PATH", help="model before training (default model.path)")
        kind.add_argument("--trained", metavar="PATH", help="model after training (default run.dir/model)")
        kind.add_argument("--top-p", type=float, default=0.7, metavar="P", help="mass kept before JS (default 0.7)")
        if name == "divergence":
            kind.add_argument("--sampled-by", choices=("trained", "base"), default="trained", help="whose responses")
            kind.add_argument(
                "--earlier", action="append", default=[], metavar="PATH", help="a checkpoint on the way; repeatable"
            )
        else:
            kind.add_argument(
                "--direction",
                choices=("forward", "backward", "both"),
                default="both",
                help="forward: the base writes; backward: the trained model writes (default both)",
            )
            kind.add_argument("--threshold", type=float, default=0.1, metavar="EPS", help="of JS, nats (default 0.1)")
            kind.add_argument(
                "--budgets", default="0,1,2,4,8,all", metavar="B,...", help="interventions (default 0,1,2,4,8,all)"
            )
            kind.add_argument("--no-control", action="store_true", help="leave out switches at random places")


def _config(action: ArgumentParser, optional: bool = False) -> None:
    action.add_argument(
        "config", metavar="CONFIG", nargs="?" if optional else None, help="YAML file, or the name of one in configs/"
    )
    action.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes on top of the file")
    action.add_argument("--method", metavar="NAME", help="recipe from configs/methods laid over the config")
    action.add_argument(
        "--published", action="store_true", help="with --method: the paper's learning rate, batch and lengths as well"
    )
    _plugins(action)


def _fit(action: ArgumentParser) -> None:
    """What supervised runs take."""
    action.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one in configs/")
    action.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes on top of the file")
    action.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    action.add_argument("--dry-run", action="store_true", help="check the config and print it resolved")
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
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = parser(more=False)
    top = own if words and words[0] in _names_of(own) else parser()
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
        print("mmcredit: interrupted; go on with --resume", file=sys.stderr)
        return 130


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
    print(f"mmcredit: error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
