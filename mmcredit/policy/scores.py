"""From hidden states to per-token quantities, in chunks of positions: the only place where logits exist.

For a chunk of C positions the head gives [C,V] logits per view; everything asked for is read off them and they are
gone. With gradient and more than one chunk the chunk is recomputed in the backward pass, so peak memory is one
chunk's, whatever the number of responses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from mmcredit.policy.passes import View

if TYPE_CHECKING:
    from torch import Tensor

PER_TOKEN = frozenset({"logprobs", "entropy", "logsumexp", "sampled_logit", "self_certainty"})
CHUNK_BYTES = 256 * 2**20  # float32 logits of all views of a chunk

# Stands for -inf: exp() of it is exactly 0, but 0 times it is 0 and not NaN, in values and gradients alike.
_HIDDEN = -1e30


def known_outputs(name: str) -> bool:
    """Whether a pass may ask for this output."""
    return name in PER_TOKEN or name == "head_input" or name.startswith("kl_to:")


def kl_target(view: View, output: str) -> View:
    """The view that ``kl_to:NAME`` of `view` compares with: ``reference`` = the same view of the reference model, any
    other name = that view of the same model (``NAME#2`` = index 2)."""
    name = output.removeprefix("kl_to:")
    if name == "reference":
        return View(view.name, view.index, "reference")
    name, _, index = name.partition("#")
    return View(name, int(index or 0), view.weights)


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
    `head_input` [N,d]), at `temperature`, except `sampled_logit` (temperature-free). A target that is itself
    suppressed (inserted into the response, not sampled) gets log-prob 0 without gradient.
    """
    plan = [(view, name) for view in hidden for name in sorted(wanted.get(view, ())) if name != "head_input"]
    needed = {view for view, _ in plan} | {kl_target(v, n) for v, n in plan if n.startswith("kl_to:")}
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
        # The outputs of a chunk are one tensor; those of a frozen model must not look as if they carried a gradient.
        results[view][name] = values.detach() if view.weights == "reference" else values
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
        logits = heads[view](state)
        logits = logits if logits.dtype == torch.float64 else logits.float()  # float64: finite differences
        if (view, "sampled_logit") in plan:
            # By index: gather would keep the logits for its backward, and they are overwritten below.
            raw[view] = logits[torch.arange(target.shape[0], device=target.device), target]
        # In place: a linear layer's backward does not need its output, and a copy is C x V floats.
        z[view] = logits.div_(temperature).index_fill_(1, suppressed, _HIDDEN)
        lse[view] = z[view].logsumexp(1)
    rows = []
    for view, name in plan:
        if name == "logprobs":
            value = z[view].gather(1, target[:, None])[:, 0] - lse[view]
            if suppressed.numel():
                value = value.masked_fill(torch.isin(target, suppressed), 0.0)
        elif name == "entropy":
            p = (z[view] - lse[view][:, None]).exp()
            value = lse[view] - (p * z[view]).sum(1)
        elif name == "logsumexp":
            value = lse[view]
        elif name == "sampled_logit":
            value = raw[view]
        elif name == "self_certainty":
            # logsumexp - mean = KL(uniform || p) + log V (UCAS, arXiv 2510.10649, as released), over ids that can occur
            total = z[view].index_fill(1, suppressed, 0.0).sum(1)
            value = lse[view] - total / (z[view].shape[1] - suppressed.numel())
        else:
            other = kl_target(view, name)
            log_p = z[view] - lse[view][:, None]
            log_q = z[other] - lse[other][:, None]
            value = (log_p.exp() * (log_p - log_q)).sum(1)
        rows.append(value)
    return torch.stack(rows)
