"""Arguments of the commands that have many, and those that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit import commands

if TYPE_CHECKING:
    from argparse import ArgumentParser


def serve_rollouts(actions: Any) -> None:
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


def evaluate(actions: Any) -> None:
    """`mmcredit evaluate`: held-out questions or benchmarks, clean or corrupted."""
    action = actions.add_parser(
        "evaluate",
        help="accuracy of a model: held-out questions, benchmarks, corrupted images",
        description="Answer the questions of data.evaluate, or of benchmarks, with a model. With --benchmark or "
        "--corrupt the answers go into a folder: JSON lines, summary.json and evaluate.html; the same command goes on "
        "after a kill.",
    )
    config(action, optional=True)
    action.add_argument("--model", help="model folder or builtin:NAME instead of the config's (e.g. RUN/model)")
    action.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder of the results (default runs/evaluate/MODEL); without --benchmark and --corrupt a JSONL file",
    )
    action.add_argument("--samples", type=int, metavar="K", help="answers per question: pass@k, avg@K, majority@k")
    action.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature (several samples: default the rollout's)"
    )
    action.add_argument("--k", metavar="1,2,4", help="values of k (default powers of two up to K); K is at least k")
    action.add_argument("--limit", type=int, metavar="N", help="at most N questions, of a seeded shuffle")
    action.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (no CONFIG: default 1024)")
    action.add_argument("--batch", type=int, metavar="N", help="prompts answered at a time (default 64)")
    action.add_argument(
        "--decoding",
        metavar="NAME",
        help="decode by r2r, arbitrage or tokenselect: a name or {name: {field: value}}; held-out questions are "
        "answered by each model alone as well",
    )
    action.add_argument(
        "--frugal",
        metavar="0.9,0.7,0.5",
        help="stress test: answer with these shares of each question's words, numbers protected",
    )
    benchmarks = action.add_argument_group("benchmarks, with or without a CONFIG")
    benchmarks.add_argument("--benchmark", metavar="A,B", help="names, or {name: {split: ..., ...}}")
    benchmarks.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds their files")
    benchmarks.add_argument(
        "--scoring", choices=("official", "rl"), help="official (default): own prompt and rule; rl: boxed, rule grader"
    )
    benchmarks.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible address, up to and with /v1")
    benchmarks.add_argument("--judge-model", metavar="NAME", help="its model; without a judge a rule stands in")
    benchmarks.add_argument("--judge-key-env", metavar="VARIABLE", help="environment variable that holds its key")
    corruptions = action.add_argument_group("corrupted images")
    corruptions.add_argument(
        "--corrupt", metavar="all|seen|unseen|imagenet_c|A,B", help="operators; clean images come along"
    )
    corruptions.add_argument("--severity", metavar="3,5", help="severities from 1 to 5 (default 3,5)")
    action.set_defaults(run=commands.evaluate)


def diagnose(actions: Any) -> None:
    """`mmcredit diagnose divergence | cross-sampling | drift | tokens`."""
    action = actions.add_parser(
        "diagnose",
        help="what training changed, token by token",
        description="Compare two checkpoints token by token, or sampled ids with their text.",
    )
    kinds = action.add_subparsers(dest="what", required=True, metavar="WHAT")
    pages = {
        "divergence": "where the next-token distributions of two checkpoints differ, on the same responses",
        "cross-sampling": "accuracy when a few tokens per response are drawn by the other checkpoint",
        "drift": "whether sampled ids read back as themselves when their text is tokenised again",
        "tokens": "token premiums of languages on parallel text; entropies of prompts and rollouts, and their drift",
    }
    for name, meaning in pages.items():
        kind = kinds.add_parser(name, help=meaning, description=meaning[0].upper() + meaning[1:] + ".")
        config(kind)
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


def config(action: ArgumentParser, optional: bool = False) -> None:
    """A config file with overrides, a recipe, plug-ins."""
    action.add_argument(
        "config", metavar="CONFIG", nargs="?" if optional else None, help="YAML file, or the name of one in configs/"
    )
    action.add_argument("overrides", nargs="*", default=[], metavar="key.sub=value", help="changes on top of the file")
    action.add_argument("--method", metavar="NAME", help="recipe from configs/methods laid over the config")
    action.add_argument(
        "--published", action="store_true", help="with --method: the paper's learning rate, batch and lengths as well"
    )
    plugins(action)


def fit(action: ArgumentParser) -> None:
    """What supervised runs take."""
    action.add_argument("config", metavar="CONFIG", help="YAML file, or the name of one in configs/")
    action.add_argument("overrides", nargs="*", default=[], metavar="key.sub=value", help="changes on top of the file")
    action.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in run.dir")
    action.add_argument("--dry-run", action="store_true", help="check the config and print it resolved")
    plugins(action)


def plugins(action: ArgumentParser) -> None:
    """`--plugin`."""
    action.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Python file that registers components; it runs with your rights",
    )
