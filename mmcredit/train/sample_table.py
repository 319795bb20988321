"""Rows of the sample table: responses of a few groups with the credit of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.media import MediaLimits, content_key, load_image
from mmcredit.data.sample import last_text
from mmcredit.policy.vision import items
from mmcredit.policy.wording import as_read
from mmcredit.report.gallery import spread
from mmcredit.report.pieces import token_pieces
from mmcredit.report.samples import InsertedRow, MediaStore, SampleRow, VerdictRow, WindowRow
from mmcredit.rollouts import Credit, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.pixels import Pixels
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.strategies.base import Strategy
    from mmcredit.rollouts import Inserted
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
    strategies: Sequence[Strategy] = (),
) -> list[SampleRow]:
    """All responses of the first `num_groups` groups that have credit, filled up with others.

    `verdicts`: by verifier, one for each of the B responses. With `prompts` and `pixels`, which reads frames back,
    videos are shown by some of their frames; the prompt is kept as the model read it. `strategies` say what responses
    ask of a video.
    """
    has_credit = (credit.advantages != 0).any(1)
    groups = list(dict.fromkeys(rollouts.group.tolist()))
    with_credit = [g for g in groups if bool(has_credit[rollouts.group == g].any())]
    chosen = [*with_credit, *(g for g in groups if g not in with_credit)][:num_groups]
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    known = torch.where(torch.isfinite(logprobs), logprobs, torch.full_like(logprobs, torch.nan))
    rows = []
    for group in chosen:
        sample = samples[group]
        read = as_read(prompts[group], tokenizer) if prompts else ""
        names = [media.put(content_key(m), load_image(m, limits)) for m in sample.media if m.kind == "image"]
        times: list[float | None] = [None] * len(names)
        if pixels is not None and prompts:
            frames = _frames(prompts[group], media, pixels)
            names += [name for name, _ in frames]
            times += [seconds for _, seconds in frames]
        clips = prompts[group].clips if prompts else ()
        for member, row in enumerate((rollouts.group == group).nonzero().squeeze(1).tolist()):
            keep = rollouts.valid[row]

            def values(x: Tensor, row: int = row, keep: Tensor = keep) -> list[float]:
                return x[row][keep].float().tolist()

            ids = rollouts.tokens[row][keep].tolist()
            signals = {k: v for k, v in rollouts.signals.items() if v.shape == rollouts.tokens.shape}
            if rollouts.segments is not None:
                signals = {"segment": rollouts.segments, **signals}
            given = rollouts.inserted[row] if rollouts.inserted else ()
            windows = [WindowRow(**asdict(w)) for s in strategies for w in s.windows(rollouts, row, sample, decode)]
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
                    inserted=[_inserted(one, media, pixels) for one in given],
                    times=times,
                    duration=clips[0].duration if clips else None,
                    windows=windows,
                )
            )
    return rows


def _inserted(one: Inserted, media: MediaStore, pixels: Pixels | None) -> InsertedRow:
    frames = [] if pixels is None else _frames(one.piece, media, pixels)
    return InsertedRow(one.at, one.end - one.at, [name for name, _ in frames], [seconds for _, seconds in frames])


def _frames(prompt: Prompt, media: MediaStore, pixels: Pixels) -> list[tuple[str, float | None]]:
    """Files of some frames of each video, as the model sees them, evenly over its length, with their seconds."""
    found: list[tuple[str, float | None]] = []
    clips = iter(prompt.clips)
    for item in items(prompt) if prompt.media_keys else ():
        if item.kind == "video":
            frames, clip = pixels.frames(item, prompt.sample_id), next(clips, None)
            times = clip.times if clip is not None and len(clip.times) == len(frames) else None
            for place in spread(range(len(frames)), SHOWN_FRAMES):
                name = media.put(f"{item.key}#{place}", frames[place])
                found.append((name, None if times is None else times[place]))
    return found
