"""CHAIR (arXiv 1809.02156): captions of COCO pictures with the words that name absent objects."""

from __future__ import annotations

import re
from typing import Any

from prm.datasets.base import LabelledSpan, Loaded, SpanSample, image_at, read_json

_TOKEN = re.compile(r"\w+(?:'\w+)?|[^\w\s]")


def load_chair(path: str, images: str | None = None, image_name: str = "COCO_val2014_{:012d}.jpg") -> Loaded:
    """The output of CHAIR: `sentences` with caption, hallucination_idxs and mscoco_hallucinated_words [(word, node)].

    The n-th index counts the caption's words; where the word there is not the one named, it is looked for in the whole
    caption. A hallucinated word that is nowhere is left out and counted (CHAIR made it singular or joined two words).
    """
    whole = read_json(path)
    rows = whole.get("sentences") if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: an object with a list 'sentences' is wanted (CHAIR's output)")
    loaded = Loaded()
    for number, row in enumerate(rows):
        place = f"{path}, sentence {number}"
        try:
            caption, image_id = str(row["caption"]), row["image_id"]
            words = [str(word[0]) for word in row["mscoco_hallucinated_words"]]
            numbers = [int(i) for i in row["hallucination_idxs"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"{place}: caption, image_id, mscoco_hallucinated_words and hallucination_idxs are wanted ({error})"
            ) from None
        spans = []
        for i, word in enumerate(words):
            span = _find(caption, word, numbers[i] if i < len(numbers) else -1)
            if span is None:
                loaded.drop("hallucinated word not found", f"{place}: {word!r}")
            elif span not in spans:
                spans.append(span)
        image = None if images is None else image_at(images, image_name.format(int(image_id)))
        marks = tuple(LabelledSpan(a, b, caption[a:b]) for a, b in spans)
        loaded.samples.append(
            SpanSample(f"chair/{image_id}/{number}", image, "Describe the image.", caption, marks, bool(words), "chair")
        )
    return loaded


def _find(caption: str, word: str, number: int) -> tuple[int, int] | None:
    tokens = [match.span() for match in _TOKEN.finditer(caption)]
    stem = word.lower().split()[0]
    if 0 <= number < len(tokens):
        a, b = tokens[number]
        if caption[a:b].lower().startswith(stem[: max(3, len(stem) - 1)]):
            more = len(word.split()) - 1
            return a, tokens[min(number + more, len(tokens) - 1)][1]
    match = re.search(rf"(?<!\w){re.escape(word.lower())}\w{{0,2}}(?!\w)", caption.lower())
    return match.span() if match else None


def chair_scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    """CHAIRs: share of captions with an absent object; CHAIRi: absent ones among the objects named."""
    named = sum(len(row["mscoco_generated_words"]) for row in rows)
    absent = sum(len(row["mscoco_hallucinated_words"]) for row in rows)
    bad = sum(bool(row["mscoco_hallucinated_words"]) for row in rows)
    return {"CHAIRs": bad / len(rows) if rows else 0.0, "CHAIRi": absent / named if named else 0.0}
