"""The `rl` family: the last box of the response against the reference, by MathRuler's rule (PAPO-Eval, EasyR1)."""

from __future__ import annotations

from collections.abc import Sequence

from mmcredit.answers.prm_grade import NOTHING, boxed_content, text_verdict
from mmcredit.evaluate.benchmarks.scoring import Score, ScoredBy
from mmcredit.evaluate.benchmarks.steps import Asking, Compare, Steps
from mmcredit.rewards.mathruler import tightened


def steps(references: Sequence[str], response: str, scored_by: ScoredBy = "rule") -> Steps:
    r"""Score the last ``\boxed{}`` against any of the references.

    A response without a complete box answers "None", which is wrong.
    """
    found = boxed_content(tightened(response))
    correct, rule = False, "text"
    for reference in references:
        correct, rule = yield from graded(found, reference)
        if correct:
            break
    return Score(correct, None if found in ("", NOTHING) else found, f"boxed, {rule}", scored_by)


def graded(given: str, reference: str) -> Asking[tuple[bool, str]]:
    """MathRuler's `grade` as steps that return (equal, what decided): the symbolic part runs in a worker process."""
    verdict = text_verdict(given, reference)
    if isinstance(verdict, bool):
        return verdict, "text"
    equal = yield Compare(given, reference, "mathruler")
    return equal, "symbolic"
