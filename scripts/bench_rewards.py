"""Answer rewards on two corpora of answer pairs: who pays for what is wrong, who does not pay for what is right.

    python scripts/bench_rewards.py --markdown benchmarks/rewards.md

Beside ours: math-verify alone (`parse` of the boxed answer, then `verify`, with its own time limits, as its page shows
it), if it is installed; it is slow, so it is asked every `--every`-th pair only.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcredit.answers.item import RewardItem
from mmcredit.components import build

TESTS = Path(__file__).parents[1] / "tests"
CORPORA = {"pairs": TESTS / "answer_pairs.jsonl", "apart": TESTS / "answer_pairs_apart.jsonl"}
OURS = ("math", "mathruler", "number", "exact_answer", "option", "latex_value")
OTHER = "math-verify alone"
Pair = dict[str, Any]
Judge = Callable[[Pair], bool | None]


def ours(name: str) -> Judge:
    """A reward of the registry, the answer in the place where it looks."""
    reward = build("reward", name)
    reward.prepare()
    how = getattr(reward, "extract", "boxed")

    def judge(pair: Pair) -> bool | None:
        if "response" in pair:
            response = pair["response"]
        else:
            answer = pair["answer"]
            response = {"tag": f"<answer>{answer}</answer>", "boxed": rf"\boxed{{{answer}}}", "whole": answer}[how]
        try:
            value = reward([RewardItem(response, pair["reference"])])[0]
        except ValueError:  # a reference that this reward does not take
            return None
        return None if value is None else value == 1.0

    return judge


def math_verify() -> Judge:
    """math-verify as its documentation uses it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def judge(pair: Pair) -> bool | None:
        gold = parse(rf"\boxed{{{pair['reference']}}}")
        if not gold:
            return None
        return bool(verify(gold, parse(pair.get("response", rf"\boxed{{{pair.get('answer')}}}"))))

    return judge


def confusion(pairs: Sequence[Pair], verdicts: Sequence[bool | None]) -> dict[tuple[bool, bool | None], int]:
    """How often (right or not, paid, not paid or no verdict) occurs."""
    count: dict[tuple[bool, bool | None], int] = defaultdict(int)
    for pair, verdict in zip(pairs, verdicts, strict=True):
        count[pair["verdict"], verdict] += 1
    return count


def row(name: str, count: dict[tuple[bool, bool | None], int], spent: float) -> str:
    """A line of the table of rewards."""
    total = sum(count.values())
    agree = count[True, True] + count[False, False]
    return (
        f"| {name} | {count[True, True]} | {count[True, False]} | {count[False, True]} | {count[False, False]} | "
        f"{count[True, None] + count[False, None]} | {agree / total:.1%} | {1e6 * spent / total:,.0f} |"
    )


def main() -> None:
    """Print the tables, and write them with --markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--markdown", type=Path)
    options.add_argument("--every", type=int, default=1, help="math-verify is asked every so many pairs")
    given = options.parse_args()
    corpora = {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, path in CORPORA.items()
    }
    judges: dict[str, Judge] = {name: ours(name) for name in OURS}
    try:
        judges[OTHER] = math_verify()
    except ImportError:
        print("math-verify is not installed: its row is left out")
    everything = [pair for pairs in corpora.values() for pair in pairs]
    right = sum(pair["verdict"] for pair in everything)
    lines = [
        "# Answer rewards on pairs of answers",
        "",
        f"`python scripts/bench_rewards.py --every {given.every} --markdown benchmarks/rewards.md`; Python "
        f"{platform.python_version()}, one "
        f"core of a shared machine, process time. {len(everything)} pairs: {right} say the same, "
        f"{len(everything) - right} do not. `tests/answer_pairs.jsonl` ({len(corpora['pairs'])}) was written beside "
        f"the code of `math`, `tests/answer_pairs_apart.jsonl` ({len(corpora['apart'])}) mostly apart from it: "
        "rewritings of a reference that are right, and changes that are wrong (a digit, a sign, a bracket, the order, "
        "a unit, a part left out). The verdict is a strict mathematician's; the page of `math` says where answers that "
        "look alike are not the same. A reward sees the answer where it looks (a box or an answer tag). `number`, "
        "`exact_answer` and `option` are for numbers, for texts and for letters only; `mathruler` is MathRuler's "
        "published rule. No verdict: the reward refuses the reference, an error in a run."
        + (f" math-verify was asked every {given.every} pairs." if given.every > 1 else ""),
        "",
        "| reward | right, paid | right, unpaid | wrong, paid | wrong, unpaid | no verdict | agreement | µs a pair |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[str, dict[int, bool | None]] = {}
    for name, judge in judges.items():
        asked = range(0, len(everything), given.every if name == OTHER else 1)
        began = time.process_time()
        verdicts = {i: judge(everything[i]) for i in asked}
        spent = time.process_time() - began
        lines.append(row(name, confusion([everything[i] for i in asked], list(verdicts.values())), spent))
        found[name] = verdicts
    first = len(corpora["pairs"])
    for corpus, places in (("pairs", range(first)), ("apart", range(first, len(everything)))):
        count = confusion([everything[i] for i in places], [found["math"][i] for i in places])
        total = sum(count.values())
        lines += [
            "",
            f"`math` on `{CORPORA[corpus].name}`: {count[False, True]} wrong paid, {count[True, False]} right unpaid "
            f"of {total}.",
        ]
    lines += [
        "",
        "When `math` met the second corpus first, it agreed on 97.2 % of 4,170 pairs with 40 wrong ones paid; what "
        "that showed was mended. Then 975 more pairs of kinds and spellings not seen before were written: 98.3 %, "
        "none paid wrongly, before anything was mended for them; they now stand in the second corpus. What remains "
        "after mending is 0 by construction: the figures before it tell what to expect of other pairs.",
        "",
        "By kind (wrong paid / right unpaid):",
        "",
        "| kind | pairs | " + " | ".join(found) + " |",
        "|---|---|" + "---|" * len(found),
    ]
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(everything):
        kinds[pair["kind"]].append(i)
    for kind, where in sorted(kinds.items(), key=lambda item: -len(item[1])):
        cells = []
        for verdicts in found.values():
            asked = [i for i in where if i in verdicts]
            wrong = sum(verdicts[i] is True and not everything[i]["verdict"] for i in asked)
            missed = sum(verdicts[i] is not True and everything[i]["verdict"] for i in asked)
            cells.append(f"{wrong} / {missed}" + ("" if len(asked) == len(where) else f" of {len(asked)}"))
        lines.append(f"| {kind} | {len(where)} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
