"""M-HalDetect (arXiv 2308.06394) and its cleaned subset in MHALO: character spans in responses about COCO pictures."""

from __future__ import annotations

from pathlib import Path

from prm.datasets.base import (
    HALLUCINATION,
    LabelledSpan,
    Loaded,
    SpanSample,
    from_spans,
    image_at,
    need,
    read_rows,
    tagged,
)


def load_mhal_detect(path: str, images: str | None = None, split: str = "val") -> Loaded:
    """`train_raw.json` or `val_raw.json`: question, response, image (a COCO val2014 file name), annotations.

    The label INACCURATE is a hallucination; other labels are kept in lower case. A sample with a span whose text is not
    what stands there is left out and counted: its labels point elsewhere.
    """
    loaded = Loaded()
    for number, (place, row) in enumerate(read_rows(path)):
        response = need(row, "response", str, place)
        spans = []
        for annotation in need(row, "annotations", list, place):
            label = str(annotation.get("label", "")).strip()
            start, end = need(annotation, "start", int, place), need(annotation, "end", int, place)
            text = annotation.get("text", response[start:end])
            kind = HALLUCINATION if label.upper() == "INACCURATE" else label.lower()
            spans.append(LabelledSpan(start, end, text, kind))
        kept = from_spans(spans, response, place, loaded)
        if kept is None:
            continue
        image = image_at(images, need(row, "image", str, place))
        bad = any(span.label == HALLUCINATION for span in kept)
        loaded.samples.append(
            SpanSample(
                f"mhal_detect/{split}/{number}", image, need(row, "question", str, place), response, kept, bad,
                "mhal_detect", split,
            )
        )  # fmt: skip
    return loaded


def load_mhalo(path: str, images: str | None = None) -> Loaded:
    """MHALO's `processed_*.json`: spans as given, else from the <hallucination> tags of `hallucinated_solution`."""
    loaded = Loaded()
    for place, row in read_rows(path):
        response = need(row, "test_solution", str, place)
        if isinstance(row.get("hallucination_spans"), list):
            spans = [LabelledSpan(int(s["start"]), int(s["end"]), str(s["text"])) for s in row["hallucination_spans"]]
        else:
            found = next(tagged(need(row, "hallucinated_solution", str, place)), None)
            if found is None:
                loaded.drop("tags do not pair up", place)
                continue
            if found[0] != response:
                loaded.drop("tagged text differs", place)
                continue
            spans = [LabelledSpan(a, b, response[a:b]) for a, b in found[1]]
        kept = from_spans(spans, response, place, loaded)
        if kept is None:
            continue
        name = row.get("image_path", row.get("image"))
        image = image_at(images, str(name)) if name else None
        question = str(row.get("prompt", row.get("question", "")))
        identity = row.get("id", len(loaded.samples))
        source = Path(path).stem
        loaded.samples.append(
            SpanSample(f"mhalo/{source}/{identity}", image, question, response, kept, bool(kept), f"mhalo/{source}")
        )
    return loaded
