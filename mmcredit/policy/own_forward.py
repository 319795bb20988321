"""Is a pass what the model itself computes? Asked before a run, by `check` and `train` alike.

A model that this program takes apart wrongly (positions, masks, soft caps, scaled logits, features of another order)
would be trained on wrong scores without a sign. So one prompt with media, and one without, goes through the model's
own forward, with what its processor makes of it, and through a pass of the padded layout.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.agreement import TOLERANCE
from mmcredit.policy.costs import ViewCost
from mmcredit.policy.layout import Row
from mmcredit.policy.vision import UnsupportedModel
from mmcredit.policy.visual_tokens import whole

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.encode import PromptEncoder
    from mmcredit.policy.forward import Body
    from mmcredit.policy.prompt import Prompt

PROBE = 3  # tokens behind the prompt


def check(body: Body, encoder: PromptEncoder, prompt: Prompt) -> bool:
    """Whether the prompt could be compared (one with videos, or without its sample, is not).

    Raises UnsupportedModel, naming model and sample, where the two differ or one of them fails.
    """
    inputs = None if prompt.sample is None else encoder.whole(prompt.sample)
    if inputs is None:
        return False
    with whole(body.vision, encoder) as pools:  # the model's own forward knows of no pooler
        return _compared(body, encoder(prompt.sample) if pools else prompt, inputs)  # type: ignore[arg-type]


def _compared(body: Body, prompt: Prompt, inputs: dict[str, Any]) -> bool:
    tokens = prompt.tokens[~prompt.visual][-PROBE:]
    name = type(body.model).__name__
    try:
        own = _own(body, inputs, tokens)
        ours = _ours(body, prompt, tokens)
    except Exception as error:  # each architecture fails in its own way; the reason is reported
        raise UnsupportedModel(
            f"{name} cannot be trained: on sample {prompt.sample_id} it raised {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; docs/models.md names the families that can (model.path)"
        ) from error
    limit = TOLERANCE[next(body.language_model.parameters()).dtype]
    found = float((own.exp() * (own - ours).abs()).nan_to_num(0.0).sum(-1).max())
    if found > limit:
        raise UnsupportedModel(
            f"{name} cannot be trained: on sample {prompt.sample_id} log-probs of a pass are {found:.2g} nats from "
            f"those of its own forward (more than {limit:g}); docs/models.md names the families that can (model.path)"
        )
    return True


def _own(body: Body, inputs: dict[str, Any], tokens: Tensor) -> Tensor:
    """[n,V] log-probs of the model's own forward."""
    shape, rest = inputs["input_ids"].shape, tokens[None, :-1]
    given: dict[str, Any] = {}
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor):
            if value.shape == shape:  # ids, masks and types: those of text behind the prompt
                more = rest if key == "input_ids" else torch.full_like(rest, int(key == "attention_mask"))
                value = torch.cat([value, more.to(value.dtype)], 1)
            value = value.to(body.device)
        given[key] = value
    logits = body.model(**given, use_cache=False).logits[0, -len(tokens) :]
    return logits.float().log_softmax(-1)


def _ours(body: Body, prompt: Prompt, tokens: Tensor) -> Tensor:
    """[n,V] log-probs of a pass."""
    row = Row(prompt, tokens, 0)
    with body.vision.unremembered() if body.vision is not None else nullcontext():
        states = body.hidden([row], blind=False, layout="padded", weights="policy", cost=ViewCost())
    return body.head(states).float().log_softmax(-1)
