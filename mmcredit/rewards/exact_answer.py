"""Reward: the answer is, up to case, spaces and edge punctuation, the reference text."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mmcredit.answers.extract import Extraction, normalise
from mmcredit.answers.item import RewardItem
from mmcredit.answers.references import ANSWERS_KEY, answer_in, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward


@register("reward", "exact_answer")
class ExactAnswer(Reward):
    r"""1 if the answer in the response equals the reference text, else 0.

    The answer is the last complete ``<answer>...</answer>`` (`extract: tag`), the last complete ``\boxed{...}``
    (`boxed`) or the whole response (`whole`), each of them behind ``</think>`` if there is one. A response without one
    earns 0.

    Equal means equal after normalising both: Unicode NFKC; lower case unless `ignore_case` is off; runs of white space
    are one space; quotes and markdown marks (``" ' * _ ` $``) are cut at both ends, sentence punctuation (``. , ; : !
    ?``) at the end; of what is only dress (``\text{red}``, "(red)", "# red", a code fence, HTML, characters without
    width) the words. Nothing else is touched: "3.0" is not "3" (use `number`), "the red one" is not "red". An empty
    answer is never right.

    Right is equality with the sample's answer or with any text of the list ``meta[answers_key]``. A sample with
    neither does not count (not applicable).
    """

    extract: Extraction = Field("tag", description="where the answer stands: tag, boxed or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    ignore_case: bool = Field(True, description="upper and lower case are equal")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of further right answers")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        right = references(item, self.answers_key, self.tag)
        if not right:
            return None
        found = answer_in(item.response, self.extract, self.tag)
        answer = self._plain(found or "")
        return float(bool(answer) and any(answer == self._plain(text) for text in right))

    def _plain(self, text: str) -> str:
        return normalise(text, self.ignore_case) or text.strip()  # "..." and "*" may be answers
