"""What of annotated examples is kept: strings that are there, pictures of no test, clean and flagged in balance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence

from mmcredit.data.media import content_key
from prm.train.annotate import Example


def keep_sound(
    examples: Sequence[Example], forbidden_images: Collection[str] = ()
) -> tuple[list[Example], Counter[str]]:
    """Examples that can be learnt from, and how many were dropped for which reason.

    Dropped: answers that could not be had or read; annotations with a string that is not an exact part of the response
    (which removes most of a model annotator's noise); duplicates; pictures whose content is in `forbidden_images`.
    """
    dropped: Counter[str] = Counter()
    kept: list[Example] = []
    seen: set[tuple[str, ...]] = set()
    for example in examples:
        query, said = example.query, example.said
        keys = tuple(content_key(image) for image in query.images)
        identity = (*keys, query.question, query.response)
        if said.status in ("prm_error", "parse_error"):
            dropped[said.status] += 1
        elif any(not string or string not in query.response for string in said.strings):
            dropped["string not in the response"] += 1
        elif set(keys) & set(forbidden_images):
            dropped["picture of the test set"] += 1
        elif identity in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(identity)
            kept.append(example)
    return kept, dropped


def balanced(
    examples: Sequence[Example], seed: int, low: float = 0.4, high: float = 0.6
) -> tuple[list[Example], Counter[str]]:
    """Examples with a clean share in [low, high]: the larger side is thinned at random. Order is kept.

    Raises ValueError if one side is missing altogether.
    """
    clean = [i for i, example in enumerate(examples) if not example.flagged]
    flagged = [i for i, example in enumerate(examples) if example.flagged]
    if not clean or not flagged:
        raise ValueError(f"clean and flagged examples are both needed, got {len(clean)} and {len(flagged)}")
    most_clean, most_flagged = int(len(flagged) * high / (1 - high)), int(len(clean) * (1 - low) / low)
    rng = random.Random(seed)
    dropped: Counter[str] = Counter()
    if len(clean) > most_clean:
        dropped["too many clean"] = len(clean) - most_clean
        clean = rng.sample(clean, most_clean)
    elif len(flagged) > most_flagged:
        dropped["too many flagged"] = len(flagged) - most_flagged
        flagged = rng.sample(flagged, most_flagged)
    return [examples[i] for i in sorted(clean + flagged)], dropped
