"""MHaluBench (EasyDetect, arXiv 2402.03190): single claims about a picture, each labelled."""

from __future__ import annotations

from prm.datasets.base import LabelledSpan, Loaded, SpanSample, image_at, need, read_rows

LABELS = {"hallucination": True, "non-hallucination": False}


def load_mhalubench(path: str, images: str | None = None) -> Loaded:
    """`MHaluBench_train.json`: claim_list and ref_claim_label per picture. Every claim is a response of its own.

    `ref_prompt`, where it is text, is the question. A claim with another label is left out and counted.
    """
    loaded = Loaded()
    for place, row in read_rows(path):
        claims, labels = need(row, "claim_list", list, place), need(row, "ref_claim_label", list, place)
        if len(claims) != len(labels):
            raise ValueError(f"{place}: {len(claims)} claims, but {len(labels)} labels (ref_claim_label)")
        image = image_at(images, str(row["image_path"])) if row.get("image_path") else None
        question = row["ref_prompt"] if isinstance(row.get("ref_prompt"), str) else "Describe the image."
        for number, (claim, label) in enumerate(zip(claims, labels, strict=True)):
            bad = LABELS.get(str(label).strip().lower())
            if not isinstance(claim, str) or not claim.strip():
                loaded.drop("claim is no text", f"{place}, claim {number}")
            elif bad is None:
                loaded.drop("unknown label", f"{place}, claim {number}: {label!r}")
            else:
                spans = (LabelledSpan(0, len(claim), claim),) if bad else ()
                name = f"mhalubench/{row.get('id', len(loaded.samples))}/{number}"
                loaded.samples.append(SpanSample(name, image, question, claim, spans, bad, "mhalubench"))
    return loaded
