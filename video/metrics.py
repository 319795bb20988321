"""Official metrics of video benchmarks, as plain functions; shares are 0 to 1.

Sources: the official repositories of NExT-GQA, Charades-STA (hull IoU as in all its readers), Video-MME, MLVU, LVBench.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from video.rewards import answer_of

Span = tuple[float, float]  # start and end, seconds
THRESHOLDS = (0.3, 0.5, 0.7)
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_JOINED = re.compile(rf"{_NUMBER} (?:to|and) {_NUMBER}")
_ANY_RANGE = re.compile(rf"{_NUMBER}\s*(?:s|sec|seconds)?\s*(?:-|–|—|to|and)\s*{_NUMBER}")
_CLOCK_RANGE = re.compile(r"((?:\d+:)?\d+:\d\d(?:\.\d+)?)\s*(?:-|–|—|to|and)\s*((?:\d+:)?\d+:\d\d(?:\.\d+)?)")


def hull_iou(prediction: Span | None, gold: Span) -> float:
    """Intersection over hull, at least 0; 0 for no prediction and for a hull without length.

    It is the IoU wherever the two overlap, and negative numbers never arise from spans that do not.
    """
    if prediction is None:
        return 0.0
    hull = max(prediction[1], gold[1]) - min(prediction[0], gold[0])
    shared = min(prediction[1], gold[1]) - max(prediction[0], gold[0])
    return max(0.0, shared / hull) if hull > 0 else 0.0


def iou_iop(prediction: Span, gold: Span) -> tuple[float, float]:
    """(IoU, intersection over prediction) of one gold segment, as NExT-GQA computes them: both may be negative.

    A prediction without length has IoU 0, and IoP 1 if it lies in the segment, ends included, else 0.
    """
    if prediction[0] == prediction[1]:
        return 0.0, float(gold[0] <= prediction[0] <= gold[1])
    shared = min(prediction[1], gold[1]) - max(prediction[0], gold[0])
    hull = max(prediction[1], gold[1]) - min(prediction[0], gold[0])
    length = prediction[1] - prediction[0]
    return (shared / hull if hull > 0 else 0.0), (shared / length if length > 0 else 0.0)


def best_iou_iop(prediction: Span, gold: Iterable[Span]) -> tuple[float, float]:
    """The largest IoU and the largest IoP over the gold segments of a question, each at least 0."""
    pairs = [(0.0, 0.0), *(iou_iop(prediction, each) for each in gold)]
    return max(iou for iou, _ in pairs), max(iop for _, iop in pairs)


def nextgqa(questions: Sequence[tuple[Span, Sequence[Span], bool]]) -> dict[str, float]:
    """NExT-GQA over (predicted span, gold segments, answered right): mIoP, mIoU, IoP@τ, IoU@τ, Acc@GQA, Acc@QA.

    Thresholds are inclusive. Acc@GQA is the share with IoP >= .5 and a right answer. Raises ValueError for no question.
    """
    if not questions:
        raise ValueError("no questions to score")
    found = [(*best_iou_iop(span, gold), right) for span, gold, right in questions]
    count = len(found)
    scores = {"mIoU": sum(f[0] for f in found) / count, "mIoP": sum(f[1] for f in found) / count}
    for threshold in (0.3, 0.5):
        scores[f"IoU@{threshold}"] = sum(f[0] >= threshold for f in found) / count
        scores[f"IoP@{threshold}"] = sum(f[1] >= threshold for f in found) / count
    scores["Acc@GQA"] = sum(f[1] >= 0.5 and f[2] for f in found) / count
    scores["Acc@QA"] = sum(f[2] for f in found) / count
    return scores


def moment_retrieval(pairs: Sequence[tuple[Span | None, Span]]) -> dict[str, float]:
    """R1@.3/.5/.7 (inclusive) and mIoU over (prediction or None, gold); a missing prediction counts as 0.

    Raises ValueError for no pair.
    """
    if not pairs:
        raise ValueError("no moments to score")
    ious = [hull_iou(prediction, gold) for prediction, gold in pairs]
    found = {f"R1@{t}": sum(value >= t for value in ious) / len(ious) for t in THRESHOLDS}
    return {**found, "mIoU": sum(ious) / len(ious)}


# --- reading responses ------------------------------------------------------------------------------------------------


def span_in_answer(response: str) -> Span | None:
    """The first range in the first `<answer>`: "3.2 - 8", "3.2 to 8 seconds", "0:16 - 0:20". None without one."""
    said = answer_of(response)
    return None if said is None else first_range(said)


def first_range(text: str) -> Span | None:
    """The first range of a text, in seconds or as clock times."""
    clock = _CLOCK_RANGE.search(text)
    if clock is not None:
        return seconds(clock.group(1)), seconds(clock.group(2))
    found = _ANY_RANGE.search(text)
    return None if found is None else (float(found.group(1)), float(found.group(2)))


def last_joined_range(text: str) -> Span | None:
    """The last "a to b" or "a and b" of a whole text, with single blanks: the reading of Time-R1's evaluation."""
    found = _JOINED.findall(text)
    return (float(found[-1][0]), float(found[-1][1])) if found else None


def seconds(clock: str) -> float:
    """Seconds of h:mm:ss, mm:ss or a number. Raises ValueError for another text."""
    value = 0.0
    for part in clock.strip().split(":"):
        value = 60 * value + float(part)
    return value


# Video-MME's own list. Two of its entries are joined by a missing comma, and so never match: kept, for equal scores.
_LEAD_INS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def video_mme_letter(response: str) -> str:
    """The official extraction: lead-ins removed, then the first capital A to D; "" if there is none."""
    text = response.strip()
    for lead_in in _LEAD_INS:
        text = text.replace(lead_in, "")
    found = re.search("[ABCD]", text)
    return found.group() if found else ""


def mlvu_letter(response: str) -> str:
    """The official reading: the character before the first ")"; the whole text where there is none."""
    text = response.strip()
    return text[text.index(")") - 1 : text.index(")")] if ")" in text else text


def lvbench_letter(response: str) -> str:
    """The reading of the official `answer_util.py`: the first character of what stands before the first ")" (and behind
    a "(" there); "" for an empty text."""
    text = response.strip().split(")")[0].strip()
    if "(" in text:
        text = text.split("(")[1].strip()
    return text[:1]


def macro_average(results: Mapping[str, Sequence[bool]]) -> float:
    """Unweighted mean of the accuracies of tasks (MLVU's M-Avg); tasks without questions are left out."""
    shares = [sum(values) / len(values) for values in results.values() if values]
    if not shares:
        raise ValueError("no questions to score")
    return sum(shares) / len(shares)
