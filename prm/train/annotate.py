"""Supervised data for a verifier: responses of a policy and minimal edits, annotated by one that knows.

The paper's stages (arXiv 2604.24583, section 3): rollouts of the policy on each question, whose natural mistakes are
the negatives; an annotator that goes through them claim by claim; filters. Edits of true statements are added where the
policy's own mistakes are too few or too alike. The annotator is any verifier: a strong model behind an endpoint, or
the scene graph.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmcredit.rollout.engine import Request, Sampling
from mmcredit.seeds import derive
from prm.train.edits import edited
from prm.verifier import Query, Verifier, query_of

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.engine import RolloutEngine
    from prm.parse import Verification


@dataclass(frozen=True)
class Example:
    """A query with the verification that a verifier shall learn to give."""

    query: Query
    said: Verification
    origin: str  # rollout, ideal, edit

    @property
    def flagged(self) -> bool:
        """Whether there is something to flag."""
        return self.said.status == "flagged"


def target_text(said: Verification) -> str:
    """What the verifier shall write: its thoughts, then the list or the sentinel."""
    if said.status == "clean":
        answer = "The response is correct."
    else:
        answer = "[" + ", ".join(_quoted(string) for string in said.strings) + "]"
    return f"<think>{said.think}</think><answer>{answer}</answer>"


def _quoted(string: str) -> str:
    """A Python literal with double quotes, as the instruction shows them."""
    return '"' + string.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def roll_out(
    samples: Sequence[Sample],
    policy: Policy,
    engine: RolloutEngine,
    each: int,
    sampling: Sampling,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[Query]:
    """`each` responses of the policy to every sample, equal ones once; `progress` is told the responses done."""
    requests = [
        Request(policy.encode(s), tuple(derive(seed, "annotate", s.id, n) for n in range(each)), tag=i)
        for i, s in enumerate(samples)
    ]
    found: dict[tuple[int, str], Query] = {}
    for response in engine.generate(requests, sampling, progress):
        text = policy.tokenizer.decode(response.tokens, skip_special_tokens=True)
        found.setdefault((response.tag, text), query_of(samples[response.tag], text))
    return list(found.values())


def ideal_and_edits(
    samples: Sequence[Sample],
    ideal: Callable[[Sample], str | None],
    kinds: tuple[tuple[str, ...], ...],
    each: int,
    seed: int,
) -> list[tuple[Query, str]]:
    """Per sample the ideal response ("ideal") and `each` edits of it ("edit")."""
    found = []
    for sample in samples:
        text = ideal(sample)
        if text is None:
            continue
        found.append((query_of(sample, text), "ideal"))
        rng = random.Random(derive(seed, "edits", sample.id))
        for _ in range(each):
            other = edited(text, kinds, rng, rng.choice((1, 1, 1, 2)))
            if other is not None:
                found.append((query_of(sample, other), "edit"))
    return found


def annotate(
    queries: Sequence[tuple[Query, str]], annotator: Verifier, thoughts: Callable[[Query], str] | None = None
) -> list[Example]:
    """Examples for (query, origin); `thoughts` replaces the annotator's own where it has none."""
    said = annotator.verify([query for query, _ in queries])
    out = []
    for (query, origin), verification in zip(queries, said, strict=True):
        if thoughts is not None and not verification.think:
            verification = replace(verification, think=thoughts(query))
        out.append(Example(query, verification, origin))
    return out
