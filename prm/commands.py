"""The commands that this package adds to `mmcredit`. Heavy imports wait until a command runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any


def add(actions: Any) -> None:
    """Add `refine`, `prm-evaluate` and `prm-serve` to argparse's subparsers."""
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
    refine.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes on top of the file")
    refine.add_argument("--policy", metavar="PATH", help="model folder or builtin:NAME (default the config's)")
    refine.add_argument(
        "--prm", metavar="R", help="verifier: name, {name: {field: value}}, or a model folder (default the config's)"
    )
    refine.add_argument("--strategies", default="all", metavar="A,B", help="all, or some of them (default all)")
    refine.add_argument("--k", default="1,2,4,8,16", metavar="K,...", help="budgets (default 1,2,4,8,16)")
    refine.add_argument("--budget", choices=("cycles", "samples"), default="cycles", help="what k counts in chains")
    refine.add_argument("--returns", choices=("last", "fewest_flags"), default="last", help="of a chain still flagged")
    refine.add_argument("--chains", type=int, default=4, metavar="N", help="chains of the voted strategies (default 4)")
    refine.add_argument("--temperature", type=float, default=0.8, metavar="T", help="of continuations and samples")
    refine.add_argument("--top-p", type=float, default=0.95, metavar="P", help="of continuations and samples")
    refine.add_argument("--first-temperature", type=float, default=0.0, metavar="T", help="of a chain's first response")
    refine.add_argument("--max-new-tokens", type=int, metavar="N", help="longest response (default the config's)")
    refine.add_argument("--limit", type=int, metavar="N", help="at most N questions, of a seeded shuffle")
    refine.add_argument("--seeds", default="0", metavar="S,...", help="seeds of sampling; each answers every question")
    refine.add_argument("--batch", type=int, default=64, metavar="N", help="questions at a time (default 64)")
    refine.add_argument("--traces", type=int, default=40, metavar="N", help="traces on the page (default 40)")
    refine.add_argument("-o", "--output", type=Path, help="folder of the results (default runs/refine/POLICY)")
    _plugins(refine)
    refine.set_defaults(run=run_refine)


def _plugins(action: Any) -> None:
    action.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="registers components")


def run_refine(options: Namespace) -> int:
    """`mmcredit refine`."""
    from prm.refine_command import run

    return run(options)
