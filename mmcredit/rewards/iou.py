"""Reward: overlap of the boxes in the response with the reference boxes."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from mmcredit.answers.extract import Extraction, extract
from mmcredit.answers.item import RewardItem
from mmcredit.answers.plain import plain_dashes, visible
from mmcredit.answers.references import ANSWERS_KEY, references
from mmcredit.components import register
from mmcredit.rewards.base import Reward

Box = tuple[float, float, float, float]  # x1, y1, x2, y2

_NUMBER = r"\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4})?)\s*"
_PART = rf"{_NUMBER}(?:[,;]|(?<=\s))"
_SCORE = r"(?:[,;]\s*(?:0?\.\d+|0|1(?:\.0*)?)\s*)?"  # a fifth number up to 1
_BETWEEN = r"[^\d()\[\]]{0,40}"
_NAMES = (
    ("x_?1|x_?min|left", "y_?1|y_?min|top", "x_?2|x_?max|right", "y_?2|y_?max|bottom"),
    ("x", "y", "w|width", "h|height"),
)
_BOX = re.compile(
    "|".join(
        [
            rf"[\[({{]{_PART}{_PART}{_PART}{_NUMBER}{_SCORE}[\])}}]",
            rf"[(\[]{_PART}{_NUMBER}[)\]]{_BETWEEN}[(\[]{_PART}{_NUMBER}[)\]]",
            *(r"[^\w.+-]{1,4}".join(rf"\b(?:{name})\s*[:=]{_NUMBER}" for name in names) for names in _NAMES),
        ]
    ),
    re.IGNORECASE,
)
_BARE = re.compile(rf"[\s*`$]*{_PART}{_PART}{_PART}{_NUMBER}[\s*`$.]*")
_TAGS = re.compile(r"<\|?(/?)(?:b?box(?:_2d)?|box_(start|end)|bounding_box)\|?>", re.IGNORECASE)


@register("reward", "iou")
class IoU(Reward):
    """Mean intersection over union of predicted and reference boxes, or 0/1 at a threshold.

    Boxes are read from the answer (`extract`) in these forms: ``[x1, y1, x2, y2]``, ``(x1,y1),(x2,y2)``, with or
    without ``<box>`` around or a score behind, by name (``x1=.., y1=.., x2=.., y2=..``, also ``xmin``, ``left`` and
    ``x, y, w, h``), also as values of JSON such as ``[{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}]``, and four
    numbers that are the whole answer. A box without area is no box. Coordinates are compared as they stand: the
    reference must be in the same system (pixels of the resized image, or 0-1000) that the model was asked for.

    Each predicted box is paired with at most one reference, best overlap first (ties: first in the text). The value is
    the sum of the paired overlaps over max(number predicted, number of references), so missing and surplus boxes both
    cost. With `threshold` the value is 1 if that mean reaches it, else 0. No box in the response is 0.

    The reference stands in ``meta[boxes_key]`` (one box or a list of boxes) or, if that is absent, in the sample's
    answer in the forms above; of alternatives in ``meta[answers_key]`` the best counts. A reference without a box is an
    error; a sample without a reference is not applicable.
    """

    extract: Extraction = Field("tag", description="where the answer stands: tag, boxed or whole")
    tag: str = Field("answer", description="name of the tag for `extract: tag`", pattern=r"^[A-Za-z_][\w-]*$")
    coordinates: Literal["xyxy", "xywh"] = Field("xyxy", description="corners, or corner and size; on both sides")
    threshold: float | None = Field(None, gt=0, le=1, description="overlap that earns 1; none = the overlap itself")
    answers_key: str = Field(ANSWERS_KEY, description="key of meta with a list of alternative right answers")
    boxes_key: str = Field("boxes", description="key of meta with the reference boxes")

    def __call__(self, items: Sequence[RewardItem]) -> list[float | None]:
        return [self._value(item) for item in items]

    def _value(self, item: RewardItem) -> float | None:
        reference: Any = item.meta.get(self.boxes_key)
        texts = references(item, self.answers_key, self.tag) if reference is None else [json.dumps(reference)]
        if not texts:
            return None
        right = [self._boxes(text) for text in texts]
        if [] in right:
            raise ValueError(f"the reference {texts[right.index([])]!r} holds no box [x1, y1, x2, y2] with an area")
        predicted = self._boxes(extract(item.response, self.extract, self.tag) or "")
        overlap = max(mean_overlap(predicted, each) for each in right)
        return overlap if self.threshold is None else float(overlap >= self.threshold)

    def _boxes(self, text: str) -> list[Box]:
        text = plain_dashes(unicodedata.normalize("NFKC", visible(text)))
        text = re.sub(r"\s+", " ", text)  # the patterns below would go through long runs of white space again and again
        text = re.sub(
            r"(?<=\d)\s?px\b|[\"'`]", "", _TAGS.sub(lambda tag: "]" if tag[1] or tag[2] == "end" else "[", text)
        )
        whole = _BARE.fullmatch(text)
        found = []
        for match in [whole] if whole is not None else _BOX.finditer(text):
            a, b, c, d = (float(group) for group in match.groups() if group is not None)
            box = (a, b, c, d) if self.coordinates == "xyxy" else (a, b, a + c, b + d)
            if all(map(math.isfinite, box)) and area(box) > 0:
                found.append(box)
        return found


def area(box: Box) -> float:
    """Area of a box; 0 if its corners are the wrong way round."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes with an area, in [0, 1]."""
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return shared / (area(a) + area(b) - shared)


def mean_overlap(predicted: Sequence[Box], right: Sequence[Box]) -> float:
    """Sum of the overlaps of greedily paired boxes over the larger number of boxes; 0 if none is predicted."""
    if not predicted or not right:
        return 0.0
    pairs = [(-overlap(p, r), i, j) for i, p in enumerate(predicted) for j, r in enumerate(right)]
    used_predicted: set[int] = set()
    used_right: set[int] = set()
    total = 0.0
    for negative, i, j in sorted(pairs):
        if i not in used_predicted and j not in used_right:
            used_predicted.add(i)
            used_right.add(j)
            total -= negative
    return total / max(len(predicted), len(right))
