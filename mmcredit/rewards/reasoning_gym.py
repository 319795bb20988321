"""Reward: what the task's own scorer in reasoning-gym gives the answer."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from mmcredit.answers.extract import Extraction, extract
from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.data.sources.reasoning_gym import Recipe, entry_of
from mmcredit.rewards.base import Reward

# Scorers of reasoning-gym 0.1.25 that run the answer as Python: by `eval`, and by `sympy.parse_expr`, which is `eval`
# of a rewritten text. An answer such as __import__("os").system(...) would be carried out.
EVALUATES_LISTS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
EVALUATES_FORMULAS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)

_FORMULA = re.compile(r"[\w\s+\-*/^().,]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*")
# Beside names of one letter.
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"} | {
    *("exp", "log", "ln", "sqrt", "Abs", "pi")
}
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z_]")


@register("reward", "reasoning_gym")
class ReasoningGymScore(Reward):
    r"""What reasoning-gym's own scorer of the task gives the answer, 0 to 1. Needs the extra `tasks`.

    For samples of the source `reasoning_gym`; to samples of other sources it does not apply. The answer is the last
    complete ``<answer>...</answer>`` (`extract: tag`), the last complete ``\boxed{...}`` (`boxed`) or the whole
    response (`whole`); without one the value is 0. The item is made again in the worker from its recipe in
    ``meta["reasoning_gym"]``, so that the scorer sees what the package made, and an item that comes out differently is
    an error.

    Many scorers give partial credit: the usual one gives len(reference) / len(answer) if the answer contains the
    reference, countdown 0.05 for a wrong formula, 0.01 for any text. `full_only` makes it 1 for a full score, else 0.

    Nine scorers run the answer as Python. There an answer that could call anything (any name but those of functions of
    mathematics and of one letter; an attribute; a call in a list) is worth 0 and never reaches the scorer.
    """

    extract: Extraction = Field("tag", description="where the answer stands: tag, boxed or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    full_only: bool = Field(False, description="1 for a full score and 0 for anything less")

    def prepare(self) -> None:
        """Import reasoning-gym (1.7 s). Raises ValueError if it is not installed."""
        try:
            import reasoning_gym  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"the reward 'reasoning_gym' needs reasoning-gym ({error}): pip install 'mmcredit[tasks]'"
            ) from None

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        record = item.meta.get("reasoning_gym")
        if record is None:
            return None
        recipe = Recipe.of(record)
        dataset, entry = entry_of(recipe, item.prompt, item.answer, item.meta.get("metadata"))
        found = extract(item.response, self.extract, self.tag)
        if found is None or not found.strip():
            return 0.0
        answer = found.strip()
        if not is_harmless(answer, entry, recipe.task):
            return 0.0
        score = float(dataset.score_answer(answer, entry))
        return float(score >= 1) if self.full_only else score


def is_harmless(answer: str, entry: Mapping[str, Any], task: str) -> bool:
    """Whether the task's scorer may see `answer`: False if it would run the answer and that could call something."""
    if task == "composite":
        task = entry["metadata"]["source_dataset"]
    if task in EVALUATES_FORMULAS:
        known = _FUNCTIONS | set(_NAME.findall(entry["answer"] or ""))
        return (
            _FORMULA.fullmatch(answer) is not None
            and _ATTRIBUTE.search(answer) is None
            and all(len(name) == 1 or name in known for name in _NAME.findall(answer))
        )
    if task in EVALUATES_LISTS:
        return "(" not in answer or _is_literal(answer)
    return True


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return True
