"""From hidden states to per-token quantities, in chunks of positions: the only place where logits exist.

For a chunk of C positions the head gives [C,V] logits per view; everything asked for is read off them and they are
gone. With gradient and more than one chunk the chunk is recomputed in the backward pass, so peak memory is one
chunk's, whatever the number of responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from mmcredit.policy import attention_entropy, divergences
from mmcredit.policy.divergences import HIDDEN
from mmcredit.policy.passes import CLEAN, View

if TYPE_CHECKING:
    from torch import Tensor

PER_TOKEN = frozenset({"logprobs", "entropy", "logsumexp", "sampled_logit", "self_certainty"})
FROM_BODY = frozenset({"head_input", attention_entropy.NAME, attention_entropy.PROMPT})  # no logits needed
CHUNK_BYTES = 256 * 2**20  # float32 logits of all views of a chunk


def known_outputs(name: str) -> bool:
    """Whether a pass may ask for this output."""
    return (
        name in PER_TOKEN
        or name == "head_input"
        or attention_entropy.parse(name) is not None
        or divergences.parse(CLEAN, name) is not None
    )


def from_body(name: str) -> bool:
    """Whether an output comes from the body of the model and needs no logits."""
    return name.partition(":")[0] in FROM_BODY


def target_view(view: View, output: str) -> View | None:
    """The view that an output of `view` is compared with (``kl_to:NAME`` and its kin), None for any other output."""
    comparison = divergences.parse(view, output)
    return None if comparison is None else comparison.target


def chunk_length(vocabulary: int, views: int) -> int:
    """Positions per chunk."""
    return max(1, CHUNK_BYTES // (4 * vocabulary * max(views, 1)))


def token_scores(
    hidden: Mapping[View, Tensor],
    heads: Mapping[View, Callable[[Tensor], Tensor]],
    tokens: Tensor,
    wanted: Mapping[View, frozenset[str]],
    *,
    vocabulary: int,
    temperature: float,
    suppressed: Tensor,
    chunk: int | None = None,
) -> dict[View, dict[str, Tensor]]:
    """Per-token quantities of N positions.

    hidden: per view [N,d], the input of the LM head at the positions that predict `tokens` [N] int64. `suppressed`:
    [S] int64 ids that are never sampled; they get probability 0 in every quantity. Everything is float32, [N] (
    `head_input` [N,d]), at `temperature`, except `sampled_logit` (temperature-free); `attention_entropy` is not made
    here. A target that is itself suppressed (inserted into the response, not sampled) gets log-prob 0 without gradient.
    """
    plan = [(view, name) for view in hidden for name in sorted(wanted.get(view, ())) if not from_body(name)]
    targets = {target for v, n in plan if (target := target_view(v, n)) is not None}
    needed = {view for view, _ in plan} | targets
    views = [view for view in hidden if view in needed]
    missing = needed - set(views)
    assert not missing, f"no hidden states for {missing}"
    results: dict[View, dict[str, Tensor]] = {view: {} for view in wanted}
    for view, names in wanted.items():
        if "head_input" in names:
            results[view]["head_input"] = hidden[view].float()
    if not plan:
        return results
    n = tokens.shape[0]
    chunk = chunk or chunk_length(vocabulary, len(views))

    def run(target: Tensor, *states: Tensor) -> Tensor:
        return _chunk(dict(zip(views, states, strict=True)), heads, target, plan, temperature, suppressed)

    parts: list[Tensor] = []
    for start in range(0, n, chunk):
        piece = slice(start, start + chunk)
        states = [hidden[view][piece] for view in views]
        if torch.is_grad_enabled() and n > chunk:
            parts.append(checkpoint(run, tokens[piece], *states, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(run(tokens[piece], *states))
    stacked = torch.cat(parts, 1) if parts else torch.zeros(len(plan), 0, device=tokens.device)
    for (view, name), values in zip(plan, stacked, strict=True):
        # The outputs of a chunk are one tensor; those of a frozen view must not look as if they carried a gradient.
        results[view][name] = values.detach() if view.frozen else values
    return results


def _chunk(
    states: Mapping[View, Tensor],
    heads: Mapping[View, Callable[[Tensor], Tensor]],
    target: Tensor,
    plan: Sequence[tuple[View, str]],
    temperature: float,
    suppressed: Tensor,
) -> Tensor:
    """[len(plan), C] float32."""
    z: dict[View, Tensor] = {}
    lse: dict[View, Tensor] = {}
    raw: dict[View, Tensor] = {}
    for view, state in states.items():
        with torch.no_grad() if view.frozen else nullcontext():
            logits = heads[view](state)
        logits = logits if logits.dtype == torch.float64 else logits.float()  # float64: finite differences
        if (view, "sampled_logit") in plan:
            # By index: gather would keep the logits for its backward, and they are overwritten below.
            raw[view] = logits[torch.arange(target.shape[0], device=target.device), target]
        # In place: a linear layer's backward does not need its output, and a copy is C x V floats.
        z[view] = logits.div_(temperature).index_fill_(1, suppressed, HIDDEN)
        lse[view] = z[view].logsumexp(1)
    rows = []
    for view, name in plan:
        if name == "logprobs":
            value = z[view].gather(1, target[:, None])[:, 0] - lse[view]
            if suppressed.numel():
                value = value.masked_fill(torch.isin(target, suppressed), 0.0)
        elif name == "entropy":
            # softmax and vecdot read the logits once each; exp(z - lse) and (p * z).sum write two more copies of them.
            value = lse[view] - torch.linalg.vecdot(z[view].softmax(1), z[view])
        elif name == "logsumexp":
            value = lse[view]
        elif name == "sampled_logit":
            value = raw[view]
        elif name == "self_certainty":
            # logsumexp - mean = KL(uniform || p) + log V (UCAS, arXiv 2510.10649, as released), over ids that can occur
            total = z[view].index_fill(1, suppressed, 0.0).sum(1)
            value = lse[view] - total / (z[view].shape[1] - suppressed.numel())
        else:
            compare = divergences.parse(view, name)
            assert compare is not None, f"unknown output {name}"
            other = compare.target
            value = compare(z[view] - lse[view][:, None], z[other] - lse[other][:, None])
        rows.append(value)
    return torch.stack(rows)
