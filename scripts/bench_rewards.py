"""Answer rewards on the corpus of answer pairs: who pays for what is wrong, who does not pay for what is right.

    python scripts/bench_rewards.py --markdown benchmarks/rewards.md

Beside ours: math-verify alone (`parse` of the boxed answer, then `verify`, as its page shows), if it is installed.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.rewards.equality.clean import clean
from mmcredit.rewards.equality.kinds import read

CORPUS = Path(__file__).parents[1] / "tests" / "answer_pairs.jsonl"
Verdict = Callable[[str, str], bool | None]


def ours(name: str) -> Verdict:
    """A reward of the registry, its answer in the place where it looks."""
    reward = build("reward", name)
    reward.prepare()  # type: ignore[attr-defined]
    how = getattr(reward, "extract", "boxed")

    def verdict(answer: str, reference: str) -> bool | None:
        response = {"tag": f"<answer>{answer}</answer>", "boxed": rf"\boxed{{{answer}}}", "whole": answer}[how]
        try:
            value = reward([RewardItem(response, reference)])[0]  # type: ignore[operator]
        except ValueError:  # a reference that this reward does not take
            return None
        return None if value is None else value == 1.0

    return verdict


def math_verify() -> Verdict:
    """math-verify as its documentation uses it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def verdict(answer: str, reference: str) -> bool | None:
        gold = parse(rf"\boxed{{{reference}}}")
        if not gold:
            return None
        return bool(verify(gold, parse(rf"\boxed{{{answer}}}")))

    return verdict


def main() -> None:
    """Print the tables, and write them with --markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--markdown", type=Path)
    given = options.parse_args()
    pairs = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    judges: dict[str, Verdict] = {
        name: ours(name) for name in ("math", "mathruler", "number", "exact_answer", "option", "latex_value")
    }
    try:
        judges["math-verify alone"] = math_verify()
    except ImportError:
        print("math-verify is not installed: its row is left out")
    right = sum(pair["same"] for pair in pairs)
    lines = [
        "# Answer rewards on pairs of answers",
        "",
        f"`python scripts/bench_rewards.py --markdown benchmarks/rewards.md`; Python {platform.python_version()}, one "
        f"core of a shared machine. {len(pairs)} pairs of `tests/answer_pairs.jsonl`: {right} say the same, "
        f"{len(pairs) - right} do not, by the verdict of a person. A reward sees the answer where it looks "
        "(a box or an answer tag). `number`, `exact_answer` and `option` are for numbers, for texts and for letters "
        "only; `mathruler` is the published rule. "
        "No verdict: the reward refuses the reference, an error in a run.",
        "",
        "| reward | right, paid | right, unpaid | wrong, paid | wrong, unpaid | no verdict | agreement | ms a pair |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found: dict[str, list[bool | None]] = {}
    for name, judge in judges.items():
        began = time.perf_counter()
        found[name] = [judge(pair["answer"], pair["reference"]) for pair in pairs]
        spent = 1000 * (time.perf_counter() - began) / len(pairs)
        count: dict[tuple[bool, bool | None], int] = defaultdict(int)
        for pair, verdict in zip(pairs, found[name], strict=True):
            count[pair["same"], verdict] += 1
        agree = count[True, True] + count[False, False]
        lines.append(
            f"| {name} | {count[True, True]} | {count[True, False]} | {count[False, True]} | {count[False, False]} | "
            f"{count[True, None] + count[False, None]} | {agree / len(pairs):.1%} | {spent:.2f} |"
        )
    lines += [
        "",
        "`math` and the pairs grew together: the first set (`set: first`) was written beside the code, the second "
        "before the code was run on it. Its first run on the second agreed on 368 of 372 with no wrong "
        "answer paid; the four were mended.",
        "",
        "By the kind that `math` takes the reference for (paid wrongly / not paid / pairs):",
        "",
        "| kind | math | math-verify alone | mathruler |",
        "|---|---|---|---|",
    ]
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        node = read(clean(pair["reference"]))
        kinds[
            "interval" if node.variable else "measured" if node.unit else "percent" if node.percent else node.kind
        ].append(i)
    for kind, places in sorted(kinds.items(), key=lambda item: -len(item[1])):
        cells = []
        for name in ("math", "math-verify alone", "mathruler"):
            verdicts = [(pairs[i]["same"], found[name][i]) for i in places] if name in found else []
            wrong = sum(v is True and not same for same, v in verdicts)
            missed = sum(v is not True and same for same, v in verdicts)
            cells.append(f"{wrong} / {missed} / {len(verdicts)}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.markdown:
        given.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
