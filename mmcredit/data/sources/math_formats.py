"""The public column formats of mathematics data sets, and how the reference answer is taken out of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmcredit.answers.extract import last_boxed
from mmcredit.data.columns import get, is_empty

Extract = Callable[[Any], str | None]


def as_is(value: Any) -> str | None:
    """An answer column: text without enclosing dollar signs; a number as text, 142.0 as "142"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    return _undollared(value) or None if isinstance(value, str) else None


def after_hashes(value: Any) -> str | None:
    """GSM8K: what follows the last ``####``, without thousands commas: "... #### 1,234" gives "1234"."""
    if not isinstance(value, str) or "####" not in value:
        return None
    return re.sub(r"(?<=\d),(?=\d{3})", "", value.rpartition("####")[2].strip()) or None


_BARE_BOX = re.compile(r"\\f?box(?:ed)?\s+([^\s{}$]+)")


def last_box(value: Any) -> str | None:
    r"""The content of the last ``\boxed{...}`` of a worked solution; of the last ``\boxed 2`` if none has braces."""
    if not isinstance(value, str):
        return None
    found = last_boxed(value)
    if found is None:
        bare = _BARE_BOX.findall(value)
        found = bare[-1].rstrip(".,;") if bare else None
    return found or None


def joined(value: Any) -> str | None:
    """OlympiadBench: a list of final answers, as one text: ["$2$", "$-3$"] gives "2, -3"."""
    if not isinstance(value, list | tuple):
        return as_is(value)
    parts = [as_is(part) for part in value]
    return None if not parts or None in parts else ", ".join(part for part in parts if part is not None)


def _undollared(text: str) -> str:
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


@dataclass(frozen=True)
class Format:
    """Where a data set keeps its question and its reference answer: columns in order of preference."""

    question: tuple[str, ...]
    answer: tuple[tuple[str, Extract], ...]
    known_as: str  # public names of the data set, for the documentation


_CONTEST = Format(
    question=("problem", "question", "Problem", "prompt"),
    answer=(
        ("answer", as_is),
        ("Answer", as_is),
        ("reward_model.ground_truth", as_is),
        ("solution", last_box),
    ),
    known_as="",
)


def _contest(known_as: str) -> Format:
    return Format(_CONTEST.question, _CONTEST.answer, known_as)


_MATH = (("answer", as_is), ("solution", last_box))

FORMATS: dict[str, Format] = {
    "gsm8k": Format(("question",), (("answer", after_hashes),), "openai/gsm8k, grade-school-math"),
    "math": Format(("problem",), _MATH, "MATH of Hendrycks et al., also as one JSON file per problem"),
    "math500": Format(("problem",), _MATH, "HuggingFaceH4/MATH-500"),
    "dapo_math_17k": Format(
        ("prompt",), (("reward_model.ground_truth", as_is),), "BytedTsinghua-SIA/DAPO-Math-17k (verl)"
    ),
    "aime24": _contest("HuggingFaceH4/aime_2024, Maxwell-Jia/AIME_2024, math-ai/aime24, BytedTsinghua-SIA/AIME-2024"),
    "aime25": _contest("opencompass/AIME2025, math-ai/aime25, yentinglin/aime_2025"),
    "amc": _contest("AI-MO/aimo-validation-amc, math-ai/amc23, zwhe99/amc23"),
    "minerva": Format(("question", "problem"), _MATH, "math-ai/minervamath, minerva_math of Qwen2.5-Math"),
    "olympiadbench": Format(
        ("question",), (("final_answer", joined), ("answer", joined)), "Hothan/OlympiadBench, math-ai/olympiadbench"
    ),
}

# The instruction that DAPO-Math-17k and AIME-2024 of the same authors put around each problem.
_DAPO = re.compile(
    r"Solve the following math problem step by step\. The last line of your response should be of the form Answer: "
    r"\$Answer \(without quotes\) where \$Answer is the answer to the problem\.\s+(?P<problem>.*\S)\s+"
    r'Remember to put your answer on its own line after "Answer:"\.\s*',
    re.DOTALL,
)


def without_instruction(text: str) -> str:
    """The bare problem of a DAPO prompt; any other text as it is."""
    match = _DAPO.fullmatch(text)
    return match["problem"] if match else text


def question_text(value: Any) -> str:
    """The question of a row: text, or the user's turn of a chat of one user message.

    Raises ValueError if it is anything else, or blank.
    """
    if isinstance(value, list | tuple):
        turns = [m for m in value if isinstance(m, Mapping) and m.get("role") != "system"]
        if len(turns) != 1 or turns[0].get("role") != "user":
            raise ValueError(f"the prompt must hold one user message, got {_short(value)}")
        value = turns[0].get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the question must be text, got {_short(value)}")
    return value.strip()


def reference(row: Mapping[str, Any], form: Format) -> str | None:
    """The reference answer: that of the first column which has one."""
    for name, extract in form.answer:
        value = get(row, name)
        if not is_empty(value):
            found = extract(value)
            if found is not None:
                return found
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
