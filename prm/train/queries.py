"""Annotated responses as questions to a verifier: what RL on a verifier is trained and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from mmcredit.components import register
from mmcredit.data.dropped import Dropped
from mmcredit.data.sources.base import Source

if TYPE_CHECKING:
    from mmcredit.data.media import MediaLimits
    from mmcredit.data.sample import Sample
    from prm.datasets import SpanSample


class QuerySamples(list["Sample"]):
    """Samples in memory; `dropped` counts the rows that were left out."""

    def __init__(self, samples: Sequence[Sample], dropped: Dropped) -> None:
        super().__init__(samples)
        self.dropped = dropped


@register("source", "annotated_responses")
class AnnotatedResponses(Source):
    """Responses with labelled spans, each as the question that a verifier is asked about it; for the reward `span_iou`.

        source:
          - annotated_responses: {data: {spans: {path: runs/prm-easy-vqa/train.jsonl}}}

    `data` is a loader with its fields, as `mmcredit prm-evaluate --data` takes it: `spans` (what `mmcredit prm-train`
    writes), `mhal_detect`, `mhalo` and the other public sets. Rows without labelled spans are left out and counted.
    Meta holds `response`, `spans` (characters), `hallucinated`, and what the row brings itself.
    """

    data: Any = Field(description="{loader: {field: value}}: where the annotated responses are")
    layout: Literal["full", "short"] = Field("short", description="instructions and example, or the bare question")
    limit: int | None = Field(None, gt=0, description="keep at most this many responses")

    def load(self, limits: MediaLimits) -> QuerySamples:
        from prm.datasets import load

        loaded = load(yaml.safe_load(self.data) if isinstance(self.data, str) else self.data)
        dropped = Dropped()
        for reason, count in loaded.dropped.items():
            dropped.add(reason, loaded.first[reason], count)
        found: dict[str, Sample] = {}
        why = ""
        for sample in loaded.samples:
            if sample.spans is None:
                dropped.add("no labelled spans", sample.id)
            elif sample.id in found:
                raise ValueError(f"{self.data}: two responses have the id {sample.id!r}; ids must be unique")
            else:
                try:
                    found[sample.id] = self._sample(sample)
                except ValueError as error:  # the question mentions an image that the row does not bring
                    dropped.add("image missing", sample.id)
                    why = why or f": {sample.id}: {error}; the loader's field 'images' names their folder"
            if self.limit is not None and len(found) == self.limit:
                break
        if not found:
            raise ValueError(f"{self.data}: no response with labelled spans; {dropped}{why}")
        return QuerySamples(list(found.values()), dropped)

    def _sample(self, sample: SpanSample) -> Sample:
        from dataclasses import replace

        from prm.local import verification_sample
        from prm.verifier import Query

        images = () if sample.image is None else (sample.image,)
        asked = verification_sample(Query(sample.question, sample.response, images, {}, sample.id), self.layout)
        spans = [[start, end] for start, end in sample.gold or ()]
        meta = {**sample.meta, "response": sample.response, "spans": spans, "hallucinated": sample.hallucinated}
        return replace(asked, meta=meta)
