"""Reward for RL on a verifier: how well the spans that it flags agree with the labelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from mmcredit.answers.item import RewardItem
from mmcredit.components import register
from mmcredit.policy.offsets import Offsets
from mmcredit.rewards.base import Reward
from prm.metrics import critic_reward
from prm.parse import parse_verification
from prm.spans import EXACT, Range, locate, token_spans, words


@register("reward", "span_iou")
class SpanIoU(Reward):
    """Token macro-IoU of the spans that a verifier flags and the labelled ones, for RL on the verifier itself.

        data: {train: {annotated_responses: {data: {spans: {path: annotated.jsonl}}}}}
        rewards: [span_iou]

    IoU = I / (|G| + |P| - I): both sets of token ranges with overlapping and touching ones merged, I what they share.
    Both empty is 1, exactly one empty is 0. An answer that is no think block with an answer block behind it is worth 0.

    The verified response stands in ``meta[response_key]``, its labelled spans, characters [start, end), in
    ``meta[spans_key]``; a sample without them is not applicable. Tokens are words and signs, or those of `tokenizer`.

    Source: the release of Perceval (arXiv 2604.24583), reward of the rows named `critic`. Differs where the release
    pays for mistakes: there an answer that cannot be read, or a flagged string that the response does not hold, is
    nothing flagged, and worth 1 if there is nothing to flag. Here the first is worth 0, and the second counts as
    flagged tokens that are no labelled ones. `lenient` brings the release's rule back.
    """

    response_key: str = Field("response", description="key of meta with the verified response")
    spans_key: str = Field("spans", description="key of meta with its labelled spans, [[start, end], ...]")
    tokenizer: str | None = Field(None, description="folder of a tokenizer whose tokens count; none: words and signs")
    ladder: tuple[Literal["exact", "trimmed", "normalised", "casefolded", "fuzzy"], ...] = Field(
        EXACT, min_length=1, description="ways to find a flagged string in the response, in turn"
    )
    occurrence: Literal["first", "all", "first_after_previous"] = Field(
        "first", description="which place of a string that stands in the response several times"
    )
    prompt_opens_think: bool = Field(False, description="the prompt ends with <think>, so the answer begins behind it")
    lenient: bool = Field(False, description="what cannot be read or found is nothing flagged, as in the release")

    def prepare(self) -> None:
        if self.tokenizer is not None:
            self._tokens("")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        response, labelled = item.meta.get(self.response_key), item.meta.get(self.spans_key)
        if response is None or labelled is None:
            return None
        gold = _ranges(labelled, response, self.spans_key)
        output = ("<think>" if self.prompt_opens_think else "") + item.response
        said = parse_verification(output)
        if said.status == "parse_error" and not self.lenient:
            return 0.0
        found = locate(said.strings, response, ladder=self.ladder, occurrence=self.occurrence)
        tokens = self._tokens(response)
        predicted = token_spans(found.spans, tokens)
        if not self.lenient:
            predicted += self._nowhere(said.dropped, [c.text for c in found.claims if c.fate == "not_found"], tokens)
        return critic_reward(output, token_spans(gold, tokens), predicted)

    def _nowhere(self, dropped: int, missing: Sequence[str], tokens: Offsets) -> list[Range]:
        """Ranges behind the response, as long as what was flagged and is not in it."""
        lengths = [max(1, len(self._tokens(text))) for text in missing] + [1] * dropped
        return [(len(tokens), len(tokens) + sum(lengths))] if lengths else []

    def _tokens(self, text: str) -> Offsets:
        if self.tokenizer is None:
            return words(text)
        read = _tokenizer(self.tokenizer)
        spans = read(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return Offsets(text, tuple((int(a), int(b)) for a, b in spans))


_READ: dict[str, Any] = {}


def _tokenizer(path: str) -> Any:
    """A fast tokenizer, loaded once in a process. Raises ValueError for one that knows no offsets."""
    if path not in _READ:
        from transformers import AutoTokenizer

        read = AutoTokenizer.from_pretrained(path)
        if not read.is_fast:
            raise ValueError(f"span_iou needs a fast tokenizer, {path} has none: offsets are not known")
        _READ[path] = read
    return _READ[path]


def _ranges(labelled: Any, response: str, key: str) -> list[Range]:
    """The labelled spans. Raises ValueError for what is no list of ranges inside the response."""
    try:
        spans = [(int(start), int(end)) for start, end in labelled]
    except (TypeError, ValueError):
        raise ValueError(f"meta[{key!r}] must be [[start, end], ...], got {str(labelled)[:80]!r}") from None
    for start, end in spans:
        if not 0 <= start < end <= len(response):
            raise ValueError(f"meta[{key!r}] holds [{start}, {end}), the response has {len(response)} characters")
    return spans
