"""Training data and training of R2R's router: labels by path following along the large model's responses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmcredit.decoding.routers import TOP, RouterHead, StepSignals, find_best_threshold, label, pos_weight
from mmcredit.decoding.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

Verifier = Callable[[str, str, str], int]  # (common context, sentence a, sentence b) -> 1 differs, 0 same, -1 unknown


@dataclass(frozen=True)
class Labelled:
    """One position: what the small model saw there, and whether its token leads away (None: dropped)."""

    signals: StepSignals
    match: bool
    label: int | None


def same_words(context: str, a: str, b: str) -> int:
    """A verifier without a model: 1 where the sentences differ by more than case and white space."""
    return int(a.lower().split() != b.lower().split())


@torch.inference_mode()
def follow(
    small: Policy,
    large: Policy,
    prompt: Prompt,
    large_prompt: Prompt,
    response: Sequence[int],
    ends: set[int],
    verify: Verifier = same_words,
    longest: int = 64,
) -> list[Labelled]:
    """Labels along one response of the large model.

    Where the small model's most likely token differs from the response's, the large model completes the sentence
    greedily behind it, up to a token of `ends` or `longest` tokens; its own side is cut from the response. `verify`
    says whether the two differ in meaning.
    """
    reader, writer = Stream(small, prompt), Stream(large, large_prompt)
    found = []
    for i, real in enumerate(response):
        logits = reader.logits()
        mine = int(logits.argmax())
        signals = StepSignals.of(logits, reader.hidden.clone(), mine)
        verdict = None
        if mine != real:
            other = _sentence(writer, mine, i, ends, longest, large.eos_token_ids)
            own = _cut(response[i:], ends, longest)
            texts = [large.decode(ids) for ids in (response[:i], other, own)]
            verdict = verify(*texts)
        found.append(Labelled(signals, mine == real, label(mine == real, verdict)))
        if i + 1 < len(response):
            reader.read([real])
            writer.read([real])
    return found


def _sentence(writer: Stream, first: int, count: int, ends: set[int], longest: int, eos: Sequence[int]) -> list[int]:
    """The large model's own end of a sentence that begins with `first`; the stream is put back afterwards."""
    kept = writer.hidden
    tokens = [first]
    while tokens[-1] not in ends and tokens[-1] not in eos and len(tokens) < longest:
        writer.read([tokens[-1]])
        tokens.append(int(writer.logits().argmax()))
    writer.cut(count)
    writer.hidden = kept
    return tokens


def _cut(ids: Sequence[int], ends: set[int], longest: int) -> list[int]:
    for n, token in enumerate(ids):
        if token in ends:
            return list(ids[: n + 1])
    return list(ids[:longest])


def train_head(
    rows: Sequence[Labelled],
    embed: Callable[[Tensor], Tensor],
    *,
    head: RouterHead | None = None,
    epochs: int = 50,
    batch: int = 1024,
    learning_rate: float = 5e-5,
    weight_decay: float = 5e-4,
    recall_factor: float = 1.0,
    r_min: float = 0.95,
    held_out: float = 0.2,
    patience: int = 10,
    seed: int = 0,
) -> tuple[RouterHead, float, dict[str, float]]:
    """A trained head, its threshold (by the scan of `find_best_threshold` on held-out positions), and figures.

    Binary cross-entropy with pos_weight = negatives / positives, AdamW, validated every 2 epochs, the best kept (the
    published settings). Raises ValueError without a positive label.
    """
    rows = [row for row in rows if row.label is not None]
    if not rows:
        raise ValueError("there is no labelled position; label more responses")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    hold = max(1, int(held_out * len(rows)))
    parts = [[rows[i] for i in order[hold:]] or [rows[i] for i in order], [rows[i] for i in order[:hold]]]
    (x, y), (test, truth) = (_stack(part, embed) for part in parts)
    if head is None:
        torch.manual_seed(seed)
        head = RouterHead(rows[0].signals.hidden.shape[-1], top=TOP)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight(y, recall_factor)))
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    best, kept, waited = float("inf"), {k: v.clone() for k, v in head.state_dict().items()}, 0
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        head.train()
        for index in torch.randperm(len(y), generator=generator).split(batch):
            optimizer.zero_grad(set_to_none=True)
            loss(head(*(part[index] for part in x)), y[index]).backward()
            optimizer.step()
        if epoch % 2 == 1 or epoch + 1 == epochs:
            head.eval()
            with torch.no_grad():
                now = float(loss(head(*test), truth))
            if now < best:
                best, kept, waited = now, {k: v.clone() for k, v in head.state_dict().items()}, 0
            else:
                waited += 2
                if waited >= patience:
                    break
    head.load_state_dict(kept)
    head.eval()
    with torch.no_grad():
        p = torch.sigmoid(head(*test))
    threshold = find_best_threshold(p, truth, r_min)
    routed = p >= threshold
    figures = {
        "positions": float(len(rows)),
        "positive": float(y.mean()),
        "held_out_loss": best,
        "recall": float((routed & (truth > 0)).sum() / (truth > 0).sum().clamp(min=1)),
        "routed": float(routed.float().mean()),
    }
    return head, threshold, figures


def _stack(rows: Sequence[Labelled], embed: Callable[[Tensor], Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    hidden = torch.cat([row.signals.hidden.float() for row in rows]).clone()
    logits = torch.cat([row.signals.logits_topk.float() for row in rows]).clone()
    with torch.no_grad():
        token = embed(torch.cat([row.signals.token for row in rows]).clone()).float().detach()
    return (hidden, logits, token), torch.tensor([float(row.label or 0) for row in rows])
