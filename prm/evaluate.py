"""How good a verifier is: spans against labelled ones, responses against their labels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmcredit.data.media import content_key
from mmcredit.intervals import Z95, proportion
from mmcredit.seeds import derive
from prm.checking import SpanSettings
from prm.metrics import auroc, macro_iou, matches, merge, mhalo_f1m, mhalo_iou, overlap, prf, word_spans
from prm.spans import INFERENCE, locate, token_spans, words
from prm.verifier import Query, Verifier

if TYPE_CHECKING:
    from mmcredit.policy.offsets import Offsets
    from prm.datasets.base import SpanSample
    from prm.parse import Verification

AT_ONCE = 256  # samples a verifier is asked about in one call: more than an endpoint's requests at a time
Tokenise = Callable[[str], "Offsets"]


@dataclass(frozen=True)
class Judged:
    """A sample, what the verifier said of it, and what was found in the response."""

    sample: SpanSample
    said: Verification
    gold: tuple[tuple[int, int], ...] | None  # characters
    predicted: tuple[tuple[int, int], ...]
    not_found: int

    @property
    def known(self) -> bool:
        """Whether the verifier answered readably."""
        return self.said.status in ("clean", "flagged")

    @property
    def score(self) -> float:
        """Flagged share of the response: the verifier's word as a number."""
        length = max(1, len(self.sample.response))
        return sum(b - a for a, b in merge(self.predicted)) / length


def judge(
    samples: Sequence[SpanSample],
    verifier: Verifier,
    settings: SpanSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Judged]:
    """Ask the verifier about every sample, and find what it flags; `progress` is told the samples done."""
    settings = settings or SpanSettings(ladder=INFERENCE)
    queries = [
        Query(s.question, s.response, () if s.image is None else (s.image,), s.meta, s.id) for s in samples
    ]  # fmt: skip
    out = []
    answers: list[Verification] = []
    for start in range(0, len(queries), AT_ONCE):
        answers += verifier.verify(queries[start : start + AT_ONCE])
        if progress is not None:
            progress(len(answers) - start)
    for sample, said in zip(samples, answers, strict=True):
        found = locate(
            said.strings,
            sample.response,
            occurrence=settings.occurrence,
            ladder=settings.ladder,
            zone=settings.zone,
            places=said.places,
        )
        gold = None if sample.gold is None else tuple(sample.gold)
        places = tuple((span.start, span.end) for span in found.spans)
        out.append(Judged(sample, said, gold, places, found.count("not_found")))
    return out


def exchanged(samples: Sequence[SpanSample], seed: int = 0) -> list[SpanSample]:
    """The samples with each other's pictures: a verifier that reads them falls to chance.

    Every sample gets another picture (by content) where there is one; texts and labels stay. `meta` stays too, so an
    oracle that reads it does not notice.
    """
    order = [i for i, sample in enumerate(samples) if sample.image is not None]
    rng = random.Random(derive(seed, "exchange pictures"))
    rng.shuffle(order)
    keys = {i: content_key(image) for i in order if (image := samples[i].image) is not None}
    out = list(samples)
    for place, i in enumerate(order):
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        other = next((j for j in others if keys[j] != keys[i]), None)
        if other is not None:
            out[i] = replace(samples[i], image=samples[other].image)
    return out


def measures(found: Sequence[Judged], tokenise: Tokenise = words, threshold: float = 0.5) -> dict[str, Any]:
    """All numbers of a verifier on a set. Parse and verifier errors are counted, and left out of the rates.

    Spans (samples with spans): mean token macro-IoU; precision, recall and F1 of spans matched one to one at token
    IoU >= `threshold`, over all spans of the set; precision and recall of tokens; MHALO's F1M and IoU_H on words.
    Responses: accuracy, precision, recall and F1 of "has a hallucination", AUROC of the flagged share.
    """
    known = [each for each in found if each.known]
    statuses = Counter(each.said.status for each in found)
    out: dict[str, Any] = {
        "samples": len(found),
        "statuses": dict(statuses),
        "parse_error_rate": statuses["parse_error"] / max(1, len(found)),
        "prm_error_rate": statuses["prm_error"] / max(1, len(found)),
        "flagged_strings": sum(len(each.said.strings) for each in known),
        "not_found": sum(each.not_found for each in known),
    }
    if not known:
        return out
    truth = [each.sample.hallucinated for each in known]
    guess = [bool(each.predicted) for each in known]
    hits = sum(t and g for t, g in zip(truth, guess, strict=True))
    response = prf(hits, sum(truth), sum(guess))
    right = proportion(sum(t == g for t, g in zip(truth, guess, strict=True)), len(known))
    area = auroc([each.score for each in known], truth)
    out["response"] = {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "majority": max(sum(truth), len(truth) - sum(truth)) / len(truth),
        "hallucinated": sum(truth) / len(truth),
        "flagged": sum(guess) / len(guess),
        "auroc": area,
        **{name: getattr(response, name) for name in ("precision", "recall", "f1")},
    }
    with_spans = [each for each in known if each.gold is not None]
    if with_spans:
        out["spans"] = _span_measures(with_spans, tokenise, threshold)
    return out


def _span_measures(found: Sequence[Judged], tokenise: Tokenise, threshold: float) -> dict[str, float]:
    ious, f1m, iou_h = [], [], []
    hit = golds = preds = token_hits = token_gold = token_pred = 0
    for each in found:
        offsets = tokenise(each.sample.response)
        gold = [span for span in token_spans(each.gold or (), offsets) if span[0] < span[1]]
        predicted = [span for span in token_spans(each.predicted, offsets) if span[0] < span[1]]
        ious.append(macro_iou(gold, predicted))
        hit += matches(gold, predicted, threshold)
        golds, preds = golds + len(gold), preds + len(predicted)
        gold, predicted = merge(gold), merge(predicted)
        token_hits += sum(overlap(a, b) for a in gold for b in predicted)
        token_gold += sum(b - a for a, b in gold)
        token_pred += sum(b - a for a, b in predicted)
        text = each.sample.response
        ours, theirs = word_spans(text, merge(each.gold or ())), word_spans(text, merge(each.predicted))
        f1m.append(mhalo_f1m(ours, theirs))
        iou_h.append(mhalo_iou(ours, theirs))
    n = len(ious)
    mean = sum(ious) / n
    half = Z95 * (sum((x - mean) ** 2 for x in ious) / max(1, n - 1) / n) ** 0.5
    span, token = prf(hit, golds, preds), prf(token_hits, token_gold, token_pred)
    return {
        "samples": n,
        "macro_iou": mean,
        "macro_iou_low": max(0.0, mean - half),
        "macro_iou_high": min(1.0, mean + half),
        "nothing_flagged_iou": sum(not each.gold for each in found) / n,  # macro-IoU of a verifier that flags nothing
        "precision": span.precision,
        "recall": span.recall,
        "f1": span.f1,
        "token_precision": token.precision,
        "token_recall": token.recall,
        "token_f1": token.f1,
        "gold_spans": golds,
        "predicted_spans": preds,
        "f1m": sum(f1m) / n,
        "iou_h": sum(iou_h) / n,
    }
