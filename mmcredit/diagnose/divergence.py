"""Where two checkpoints disagree: their next-token distributions, position by position, on the same responses.

Sparse but Critical (arXiv 2603.22446): P is the base model's distribution, Q the trained model's, both given the same
prefix, at temperature 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.diagnose.models import check_pair
from mmcredit.policy.passes import CLEAN, REFERENCE, Pass
from mmcredit.report.pieces import token_pieces

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts

OVERLAP_K = (1, 2, 3, 5, 10)
TOP_P = 0.7  # of the truncated Jensen-Shannon divergence, as in the paper


@dataclass(frozen=True)
class TokenDivergence:
    """All sampled tokens of a set of responses, in order. N tokens; every column is [N].

    Columns, f32, in nats: `js` (of the truncated distributions), `js_full` (of the whole vocabulary),
    `kl_base_trained` = KL(P || Q), `kl_trained_base` = KL(Q || P), `log_ratio` = log Q(y) - log P(y) of the sampled
    token, `logp_base`, `logp_trained`, `entropy_base`, `entropy_trained`. Without unit: `tv`; `top1_rank` and
    `top1_prob`, the rank and probability that P gives to Q's most likely token; `overlap_K`, the share of the K most
    likely tokens of Q that are among those of P.
    """

    response: Tensor  # int64, row of the rollouts
    position: Tensor  # int64, from 0
    relative: Tensor  # in [0, 1): position / length of the response
    tokens: Tensor  # int64
    columns: dict[str, Tensor]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]


def token_divergence(
    trained: Policy,
    base: Policy,
    prompts: Sequence[Prompt],
    rollouts: Rollouts,
    *,
    top_p: float = TOP_P,
    temperature: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> TokenDivergence:
    """Run both models over the responses (one clean and one reference pass) and compare them at every sampled token.

    ``prompts[i]`` belongs to the responses with ``group == i``. `top_p` cuts both distributions before `js` (1 = off).
    Both models read the prompts that `trained` has encoded. Raises ValueError for tokenizers that differ, or a `top_p`
    outside (0, 1].
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    check_pair(trained, base)
    before, trained.reference = trained.reference, base.body
    names = {
        f"js_to:reference:{top_p:g}": "js",
        "js_to:reference": "js_full",
        "reverse_kl_to:reference": "kl_base_trained",
        "kl_to:reference": "kl_trained_base",
        "tv_to:reference": "tv",
        "top1_rank_to:reference": "top1_rank",
        "top1_prob_to:reference": "top1_prob",
        "logprobs": "logp_trained",
        "entropy": "entropy_trained",
        **{f"topk_overlap_to:reference:{k}": f"overlap_{k}" for k in OVERLAP_K},
    }
    passes = [Pass(CLEAN, frozenset(names)), Pass(REFERENCE, frozenset({"logprobs", "entropy"}))]
    try:
        found = trained.score(prompts, rollouts, passes, temperature=temperature, progress=progress)
    finally:
        trained.reference = before
    mask = rollouts.mask
    columns = {column: found[CLEAN][name][mask].cpu() for name, column in names.items()}
    columns["logp_base"] = found[REFERENCE]["logprobs"][mask].cpu()
    columns["entropy_base"] = found[REFERENCE]["entropy"][mask].cpu()
    columns["log_ratio"] = columns["logp_trained"] - columns["logp_base"]
    place = mask.cpu().nonzero()
    lengths = rollouts.valid.sum(1).cpu()
    return TokenDivergence(
        response=place[:, 0],
        position=place[:, 1],
        relative=place[:, 1] / lengths[place[:, 0]],
        tokens=rollouts.tokens[mask].cpu(),
        columns=columns,
    )


def write_table(found: TokenDivergence, names: Sequence[str], tokenizer: Any, path: Path) -> None:
    """One row per token as parquet: ``sample_id`` (``names[response]``), ``response``, ``position``, ``token``,
    ``piece`` (its text), and all columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = found.tokens.tolist()
    rows = found.response.tolist()
    table = {
        "sample_id": [names[r] for r in rows],
        "response": rows,
        "position": found.position.tolist(),
        "token": ids,
        "piece": token_pieces(tokenizer, ids),
        **{name: values.numpy() for name, values in found.columns.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, compression="zstd")


def worst_places(found: TokenDivergence, tokenizer: Any, count: int = 10, context: int = 8) -> list[dict[str, Any]]:
    """The positions of the largest `js`, with the text around them."""
    order = found["js"].argsort(descending=True, stable=True)[:count]
    pieces = []
    for i in order.tolist():
        same = found.response == found.response[i]
        first = int(same.nonzero()[0])
        near = found.tokens[max(first, i - context) : i].tolist()
        row = {name: float(found[name][i]) for name in ("js", "logp_base", "logp_trained", "top1_rank")}
        pieces.append(
            {
                "response": int(found.response[i]),
                "position": int(found.position[i]),
                "before": "".join(token_pieces(tokenizer, near)),
                "token": token_pieces(tokenizer, [int(found.tokens[i])])[0],
                **row,
            }
        )
    return pieces


def top_tokens(found: TokenDivergence, tokenizer: Any, count: int = 20) -> list[dict[str, Any]]:
    """The sampled tokens that hold most of the divergence: total, share of it, mean and number of places."""
    ids, index = torch.unique(found.tokens, return_inverse=True)
    js = found["js"].double()
    totals = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, index, js)
    places = torch.bincount(index, minlength=len(ids))
    whole = max(float(totals.sum()), torch.finfo(torch.float64).tiny)
    order = totals.argsort(descending=True, stable=True)[:count].tolist()
    texts = token_pieces(tokenizer, [int(ids[i]) for i in order])
    return [
        {
            "token": text,
            "total": float(totals[i]),
            "share": float(totals[i]) / whole,
            "mean": float(totals[i] / places[i]),
            "places": int(places[i]),
        }
        for i, text in zip(order, texts, strict=True)
    ]
