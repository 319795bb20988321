"""POPE (arXiv 2305.10355): is there a ... in the image? yes or no."""

from __future__ import annotations

from prm.datasets.base import Loaded, SpanSample, image_at, need, read_rows


def load_pope(path: str, answers: str | None = None, images: str | None = None, split: str = "random") -> Loaded:
    """`coco_pope_*.json` (JSON lines: question_id, image, text, label), and a model's answers file (question, answer).

    Without answers every question gives two responses, "Yes" and "No". A response is hallucinated if its official
    reading (`says_yes`) is not the label. No spans: the whole response is labelled.
    """
    loaded = Loaded()
    rows = read_rows(path)
    given: list[str] | None = None
    if answers is not None:
        answered = read_rows(answers)
        if len(answered) != len(rows):
            raise ValueError(f"{answers} has {len(answered)} answers, {path} has {len(rows)} questions")
        given = [need(row, "answer", str, place) for place, row in answered]
    for number, (place, row) in enumerate(rows):
        label = need(row, "label", str, place).strip().lower()
        if label not in ("yes", "no"):
            raise ValueError(f"{place}: label must be yes or no, got {label!r}")
        image = image_at(images, need(row, "image", str, place))
        for response in ["Yes", "No"] if given is None else [given[number]]:
            wrong = says_yes(response) != (label == "yes")
            name = f"pope/{split}/{row.get('question_id', number)}" + (f"/{response}" if given is None else "")
            question = need(row, "text", str, place)
            loaded.samples.append(SpanSample(name, image, question, response, None, wrong, "pope", split))
    return loaded


def says_yes(answer: str) -> bool:
    """POPE's own reading: of the first sentence, commas removed, no word is "No", "not" or "no"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not any(word in ("No", "not", "no") for word in words)
