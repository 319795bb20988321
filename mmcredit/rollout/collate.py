"""From responses to the `Rollouts` that the rest of a step reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.engine import Request, Response
from mmcredit.rollouts import Rollouts


def collate(
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    responses: Sequence[Response],
    pad_token_id: int,
    samples: Sequence[Any] | None = None,
    device: torch.device | str = "cpu",
) -> Rollouts:
    """Responses, in the order `RolloutEngine.generate` gave them, as right-padded [B,T] tensors.

    `group` is the index into `prompts` of a request's prompt (the same object); `samples`, if given, go along with
    `prompts`. A request's prefix stands before its responses' tokens: valid, but not credited, since it was not
    sampled here; neither is what was inserted into a response. Tokens and log-probs are copied, never re-tokenised;
    padding is `pad_token_id` and 0. Rewards are 0 until scored.

    Raises ValueError if the responses are not those of the requests, or a prompt is missing.
    """
    place = {id(prompt): i for i, prompt in enumerate(prompts)}
    if samples is not None and len(samples) != len(prompts):
        raise ValueError(f"samples must go along with prompts: got {len(samples)} for {len(prompts)} prompts")
    expected = [(request, member) for request in requests for member in range(len(request.seeds))]
    if len(expected) != len(responses):
        raise ValueError(f"the requests ask for {len(expected)} responses, but there are {len(responses)}")

    prefixes: list[list[int]] = []
    group: list[int] = []
    for (request, member), response in zip(expected, responses, strict=True):
        if (response.tag, response.member) != (request.tag, member):
            raise ValueError(
                f"responses are out of request order: got tag {response.tag}, member {response.member} where "
                f"tag {request.tag}, member {member} is due"
            )
        if id(request.prompt) not in place:
            raise ValueError(f"sample {request.prompt.sample_id}: the request's prompt is not among the prompts")
        if len(response.tokens) != len(response.logprobs):
            raise ValueError(
                f"sample {request.prompt.sample_id}: {len(response.tokens)} tokens, but "
                f"{len(response.logprobs)} logprobs"
            )
        prefixes.append([int(i) for i in request.prefix])
        group.append(place[id(request.prompt)])

    width = max((len(p) + len(r.tokens) for p, r in zip(prefixes, responses, strict=True)), default=0)
    tokens, logprobs, sampled = [], [], []
    for prefix, response in zip(prefixes, responses, strict=True):
        before, count = len(prefix), len(response.tokens)
        after = width - before - count
        tokens.append([*prefix, *response.tokens, *[pad_token_id] * after])
        logprobs.append([*[0.0] * before, *response.logprobs, *[0.0] * after])
        sampled.append((before, before + count))
    inserted = [
        tuple(replace(one, at=len(prefix) + one.at) for one in response.inserted)
        for prefix, response in zip(prefixes, responses, strict=True)
    ]
    b = len(responses)
    columns, span = torch.arange(width), torch.tensor(sampled, dtype=torch.int64).view(b, 2, 1)
    mask = (columns >= span[:, 0]) & (columns < span[:, 1])
    for row, own in enumerate(inserted):
        for one in own:
            mask[row, one.at : one.end] = False
    rollouts = Rollouts(
        tokens=torch.tensor(tokens, dtype=torch.int64).view(b, width),
        mask=mask,
        valid=columns < span[:, 1],
        group=torch.tensor(group, dtype=torch.int64),
        rewards=torch.zeros(b),
        truncated=torch.tensor([r.finish == "length" for r in responses], dtype=torch.bool),
        sampler_logprobs=torch.tensor(logprobs, dtype=torch.float32).view(b, width),
        samples=None if samples is None else tuple(samples),
        inserted=tuple(inserted) if any(inserted) else None,
    )
    return rollouts.to(device)
