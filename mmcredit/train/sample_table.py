"""Rows of the sample table: responses of a few groups with the credit of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.media import MediaLimits, content_key, load_image
from mmcredit.data.sample import last_text
from mmcredit.policy.wording import as_read
from mmcredit.report.pieces import token_pieces
from mmcredit.report.samples import MediaStore, SampleRow, VerdictRow
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.verifiers.base import Verdict


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
    prompts: Sequence[Prompt] | None = None,
) -> list[SampleRow]:
    """All responses of the first `num_groups` groups that have credit, filled up with others.

    `verdicts`: by verifier, one for each of the B responses. `prompts`: as the model read them, one per sample.
    """
    has_credit = (credit.advantages != 0).any(1)
    groups = list(dict.fromkeys(rollouts.group.tolist()))
    with_credit = [g for g in groups if bool(has_credit[rollouts.group == g].any())]
    chosen = [*with_credit, *(g for g in groups if g not in with_credit)][:num_groups]
    known = torch.where(torch.isfinite(logprobs), logprobs, torch.full_like(logprobs, torch.nan))
    rows = []
    for group in chosen:
        sample = samples[group]
        read = "" if prompts is None else as_read(prompts[group], tokenizer)
        names = [media.put(content_key(m), load_image(m, limits)) for m in sample.media if m.kind == "image"]
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
                )
            )
    return rows
