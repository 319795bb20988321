"""The commands that this package adds to `mmcredit`. Heavy imports wait until a command runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from mmcredit.usage import end_with

# Commands of docs/verifiers.md, which tests/test_docs_commands.py runs.
EXAMPLES = {
    "refine": "mmcredit refine easy_vqa --policy runs/perceval/model --prm builtin:tiny-prm-easy-vqa "
    "--limit 40 --k 1,2,4",
    "prm-train": "mmcredit prm-train configs/prm/easy_vqa.yaml",
    "prm-evaluate": "mmcredit prm-evaluate --prm runs/prm-easy-vqa "
    '--data "{spans: {path: runs/prm-easy-vqa/test.jsonl}}"',
    "prm-serve": "mmcredit prm-serve models/perceval --port 8000 --name perceval",
}


def add(actions: Any) -> None:
    """Add `refine`, `prm-evaluate`, `prm-train` and `prm-serve` to argparse's subparsers."""
    refine = actions.add_parser(
        "refine",
        help="test-time refinement: cut where a verifier flags, go on; beside voting and best-of-N",
        description="Answer the held-out questions of CONFIG with a policy, refine the answers with a verifier, and "
        "compare with greedy decoding, majority voting and best-of-N at equal numbers of generated tokens. Writes a "
        "JSON line per question, summary.json, a table and refine.html; the same command goes on after a kill.",
    )
    refine.add_argument(
        "config", metavar="CONFIG", help="YAML file, or the name of one in configs/: questions, rewards"
    )
    refine.add_argument("overrides", nargs="*", default=[], metavar="key.sub=value", help="changes on top of the file")
    refine.add_argument("--policy", metavar="PATH", help="model folder or builtin:NAME (default the config's)")
    refine.add_argument(
        "--prm", metavar="R", help="verifier: name, {name: {field: value}}, or a model folder (default the config's)"
    )
    refine.add_argument("--strategies", default="all", metavar="A,B", help="all, or some of them (default all)")
    refine.add_argument("--k", default="1,2,4,8,16", metavar="K,...", help="budgets (default 1,2,4,8,16)")
    refine.add_argument(
        "--budget",
        choices=("cycles", "samples"),
        default="cycles",
        help="what k counts in chains: cuts (default), or responses of the policy, the first included",
    )
    refine.add_argument(
        "--returns",
        choices=("last", "fewest_flags"),
        default="last",
        help="of a chain that is flagged to its end: the last response (default), or the one with the fewest flags",
    )
    refine.add_argument("--chains", type=int, default=4, metavar="N", help="chains of the voted strategies (default 4)")
    refine.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="of continuations and samples (default 0.8)"
    )
    refine.add_argument(
        "--top-p", type=float, default=0.95, metavar="P", help="of continuations and samples (default 0.95)"
    )
    refine.add_argument(
        "--first-temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="of a chain's first response (default 0: greedy)",
    )
    refine.add_argument("--max-new-tokens", type=int, metavar="N", help="longest response (default the config's)")
    refine.add_argument("--limit", type=int, metavar="N", help="at most N questions, of a seeded shuffle")
    refine.add_argument(
        "--seeds", default="0", metavar="S,...", help="seeds of sampling; each answers every question (default 0)"
    )
    refine.add_argument("--batch", type=int, default=64, metavar="N", help="questions at a time (default 64)")
    refine.add_argument("--traces", type=int, default=40, metavar="N", help="traces on the page (default 40)")
    refine.add_argument("-o", "--output", type=Path, help="folder of the results (default runs/refine/POLICY)")
    _plugins(refine)
    refine.set_defaults(run=run_refine)

    evaluate = actions.add_parser(
        "prm-evaluate",
        help="how good a verifier is, on annotated responses",
        description="Ask a verifier about annotated responses: token macro-IoU, precision, recall and F1 of spans, "
        "accuracy and AUROC of responses, beside a verifier that flags nothing.",
    )
    evaluate.add_argument("--prm", required=True, metavar="R", help="verifier: name, {name: {...}}, or a model folder")
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="{LOADER: {...}}",
        help="mhal_detect, mhalo, mhalubench, rlhf_v, pope, chair, amber, spans; e.g. {pope: {path: p.json}}",
    )
    evaluate.add_argument("--tokenizer", metavar="PATH", help="tokens of the span measures (default: words)")
    evaluate.add_argument("--images-root", type=Path, metavar="DIR", help="declared root of image files")
    evaluate.add_argument("--exchange", action="store_true", help="also with each other's pictures")
    evaluate.add_argument("--limit", type=int, metavar="N", help="at most N samples")
    evaluate.add_argument("-o", "--output", type=Path, default=Path("runs/prm-evaluate"), help="folder of the results")
    _plugins(evaluate)
    evaluate.set_defaults(run=run_evaluate)

    train = actions.add_parser(
        "prm-train",
        help="train a verifier on annotated responses",
        description="Make annotated responses (rollouts of a policy, minimal edits), filter and balance them, train a "
        "verifier on them, test it on held-out pictures (and on exchanged ones), and write its card.",
    )
    train.add_argument("config", metavar="CONFIG", help="YAML file, such as configs/prm/easy_vqa.yaml")
    train.add_argument("overrides", nargs="*", default=[], metavar="key.sub=value", help="changes on top of the file")
    train.add_argument(
        "--data-only", action="store_true", help="write the annotated responses (train.jsonl, test.jsonl) and stop"
    )
    _plugins(train)
    train.set_defaults(run=run_train)

    serve = actions.add_parser(
        "prm-serve",
        help="serve a verifier model with vLLM, for the verifier prm_endpoint",
        description="Start vLLM's OpenAI-compatible server for MODEL on a loopback port; needs the vllm environment.",
    )
    serve.add_argument("model", metavar="MODEL", help="model folder or hub id")
    serve.add_argument("--port", type=int, default=8000, help="port (default 8000)")
    serve.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1; others need --api-key-env)")
    serve.add_argument("--name", default="prm", help="name it is asked by (default prm)")
    serve.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable that holds the server's key")
    serve.add_argument("--max-model-len", type=int, default=32768, metavar="N", help="longest prompt and answer")
    serve.add_argument(
        "arguments", nargs="*", default=[], metavar="...", help="after --: further arguments of `vllm serve`"
    )
    serve.set_defaults(run=run_serve)
    for name, example in EXAMPLES.items():
        end_with(actions.choices[name], example)


def _plugins(action: Any) -> None:
    action.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Python file that registers components; it runs with your rights",
    )


def run_refine(options: Namespace) -> int:
    """`mmcredit refine`."""
    from prm.refine_command import run

    return run(options)


def run_evaluate(options: Namespace) -> int:
    """`mmcredit prm-evaluate`."""
    from prm.evaluate_command import run

    return run(options)


def run_serve(options: Namespace) -> int:
    """`mmcredit prm-serve`."""
    from prm.serve import run

    return run(options)


def run_train(options: Namespace) -> int:
    """`mmcredit prm-train`."""
    from prm.train.command import run

    return run(options)
