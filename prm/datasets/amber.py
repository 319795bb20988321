"""AMBER (arXiv 2311.07397): descriptions and yes/no questions, with the objects that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prm.datasets.base import LabelledSpan, Loaded, SpanSample, image_at, read_json, read_rows


def load_amber(
    responses: str,
    annotations: str,
    queries: str,
    relation: str | None = None,
    safe_words: str | None = None,
    images: str | None = None,
) -> Loaded:
    """A model's responses ({id, response}) with `annotations.json`, `query_*.json`, `relation.json`, `safe_words.txt`.

    Generative items (type "generative"): spans are the known object words of the response that are neither true nor
    associated with what is true (`relation.json`) nor safe. Known objects are those of the annotations and relations;
    AMBER itself takes every noun, so words outside that list are not judged here. Other items: hallucinated if
    the answer (Yes or No) is not the truth; those without a plain Yes or No are left out and counted.
    """
    truths = {need_id(row, place): row for place, row in read_rows(annotations)}
    asked = {need_id(row, place): row for place, row in read_rows(queries)}
    related: Mapping[str, list[str]] = read_json(relation) if relation else {}
    safe = set()
    if safe_words:
        try:
            with open(safe_words, encoding="utf-8") as file:
                safe = {line.strip().lower() for line in file if line.strip()}
        except OSError as error:
            raise ValueError(f"{safe_words} cannot be read: {error}") from None
    objects = set(related) | {word for row in truths.values() if _generative(row) for word in _objects(row)}
    loaded = Loaded()
    for place, row in read_rows(responses):
        number = need_id(row, place)
        if number not in truths or number not in asked:
            loaded.drop("no annotation or query", f"{place}: id {number}")
            continue
        truth, query, text = truths[number], asked[number], str(row.get("response", ""))
        image = image_at(images, str(query["image"])) if query.get("image") else None
        name, question = f"amber/{number}", str(query.get("query", ""))
        kind = str(truth.get("type", ""))
        if _generative(truth):
            spans = _unsupported(text, truth, objects, related, safe)
            loaded.samples.append(SpanSample(name, image, question, text, spans, bool(spans), "amber", kind))
            continue
        said = text.strip().rstrip(".").lower()
        if said not in ("yes", "no"):
            loaded.drop("answer is not Yes or No", f"{place}: {text[:40]!r}")
            continue
        wrong = said != str(truth.get("truth", "")).strip().lower()
        loaded.samples.append(SpanSample(name, image, question, text, None, wrong, "amber", kind))
    return loaded


def need_id(row: Mapping[str, Any], place: str) -> int:
    """The item's number. Raises ValueError."""
    try:
        return int(row["id"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{place}: a numeric field 'id' is wanted, got {row.get('id')!r}") from None


def _generative(row: Mapping[str, Any]) -> bool:
    return str(row.get("type", "")).startswith("generative")


def _objects(row: Mapping[str, Any]) -> list[str]:
    return [str(word).lower() for name in ("truth", "hallu") for word in row.get(name) or ()]


def _unsupported(
    text: str,
    truth: Mapping[str, Any],
    objects: set[str],
    related: Mapping[str, list[str]],
    safe: set[str],
) -> tuple[LabelledSpan, ...]:
    true = {str(word).lower() for word in truth.get("truth") or ()}
    allowed = true | {str(word).lower() for name in true for word in related.get(name, ())} | safe
    found = []
    for match in re.finditer(r"\w+", text):
        word = match.group().lower()
        forms = {word, word.removesuffix("s"), word.removesuffix("es")}
        if forms & objects and not forms & allowed:
            found.append(LabelledSpan(match.start(), match.end(), match.group()))
    return tuple(found)
