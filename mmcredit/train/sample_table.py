"""Rows of the sample table: responses of a few groups with the credit of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.media import MediaLimits, content_key, load_image
from mmcredit.data.sample import last_text
from mmcredit.policy.vision import items
from mmcredit.policy.wording import as_read
from mmcredit.report.gallery import spread
from mmcredit.report.pieces import token_pieces
from mmcredit.report.samples import InsertedRow, MediaStore, SampleRow, VerdictRow
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.pixels import Pixels
    from mmcredit.policy.prompt import Prompt
    from mmcredit.verifiers.base import Verdict

SHOWN_FRAMES = 8  # of a video


def sample_rows(
    rollouts: Rollouts,
    credit: Credit,
    logprobs: Tensor,
    samples: Sequence[Sample],
    texts: Sequence[str],
    tokenizer: Any,
    media: MediaStore,
    limits: MediaLimits,
    num_groups: int,
    verdicts: Mapping[str, Sequence[Verdict]] = MappingProxyType({}),
    prompts: Sequence[Prompt] = (),
    pixels: Pixels | None = None,
) -> list[SampleRow]:
    """All responses of the first `num_groups` groups that have credit, filled up with others.

    `verdicts`: by verifier, one for each of the B responses. With `prompts` and `pixels`, which reads frames back,
    videos are shown by some of their frames; the prompt is kept as the model read it.
    """
    has_credit = (credit.advantages != 0).any(1)
    groups = list(dict.fromkeys(rollouts.group.tolist()))
    with_credit = [g for g in groups if bool(has_credit[rollouts.group == g].any())]
    chosen = [*with_credit, *(g for g in groups if g not in with_credit)][:num_groups]
    known = torch.where(torch.isfinite(logprobs), logprobs, torch.full_like(logprobs, torch.nan))
    rows = []
    for group in chosen:
        sample = samples[group]
        read = as_read(prompts[group], tokenizer) if prompts else ""
        names = [media.put(content_key(m), load_image(m, limits)) for m in sample.media if m.kind == "image"]
        if pixels is not None and prompts:
            names += _frames(prompts[group], media, pixels)
        for member, row in enumerate((rollouts.group == group).nonzero().squeeze(1).tolist()):
            keep = rollouts.valid[row]

            def values(x: Tensor, row: int = row, keep: Tensor = keep) -> list[float]:
                return x[row][keep].float().tolist()

            ids = rollouts.tokens[row][keep].tolist()
            signals = {k: v for k, v in rollouts.signals.items() if v.shape == rollouts.tokens.shape}
            rows.append(
                SampleRow(
                    sample_id=sample.id,
                    member=member,
                    question=last_text(sample),
                    answer=sample.answer,
                    media=names,
                    response=texts[row],
                    pieces=token_pieces(tokenizer, ids),
                    token_ids=ids,
                    advantages=values(credit.advantages),
                    weights={t.name: values(t.weights) for t in credit.trace if t.weights is not None},
                    signals={name: values(value) for name, value in signals.items()},
                    logprobs=values(known),
                    mask=rollouts.mask[row][keep].tolist(),
                    reward=float(rollouts.rewards[row]),
                    parts={name: float(value[row]) for name, value in rollouts.reward_parts.items()},
                    truncated=bool(rollouts.truncated[row]),
                    prompt=read,
                    verdicts=[VerdictRow.of(name, given[row]) for name, given in verdicts.items()],
                    inserted=[
                        InsertedRow(
                            one.at, one.end - one.at, [] if pixels is None else _frames(one.piece, media, pixels)
                        )
                        for one in (rollouts.inserted[row] if rollouts.inserted else ())
                    ],
                )
            )
    return rows


def _frames(prompt: Prompt, media: MediaStore, pixels: Pixels) -> list[str]:
    """Files of some frames of each video, as the model sees them, evenly over its length."""
    names = []
    for item in items(prompt) if prompt.media_keys else ():
        if item.kind == "video":
            frames = pixels.frames(item, prompt.sample_id)
            for place in spread(range(len(frames)), SHOWN_FRAMES):
                names.append(media.put(f"{item.key}#{place}", frames[place]))
    return names
