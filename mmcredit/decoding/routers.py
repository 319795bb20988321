"""Token routers of R2R: from a small model's own signals to the probability that its token leads away.

arXiv 2505.21600, code thu-nics/R2R. `StepSignals` are those of the position that predicts the token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TOP = 100  # logits kept per step


@dataclass(frozen=True)
class StepSignals:
    """What a router sees of B steps."""

    logits_topk: Tensor  # [B,K] raw logits, descending
    hidden: Tensor  # [B,d] last hidden state at the predicting position
    token: Tensor  # [B] int64, the small model's proposal

    @classmethod
    def of(cls, logits: Tensor, hidden: Tensor, token: int, k: int = TOP) -> StepSignals:
        """Of one step: logits [V], hidden [d]."""
        top = logits.topk(min(k, logits.shape[0])).values
        return cls(top[None], hidden[None], torch.tensor([token], device=logits.device))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [..., K] -> [...]."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def logu(logits_topk: Tensor, k: int = 10) -> tuple[Tensor, Tensor]:
    """(aleatoric, epistemic) uncertainty of the k largest raw logits a, S = sum a; [..., K] -> [...] twice.

    AU = -sum (a_i / S)(psi(a_i + 1) - psi(S + 1)), EU = k / (S + k); both are NaN where a logit is negative.
    """
    a = logits_topk[..., :k]
    total = a.sum(-1, keepdim=True)
    aleatoric = -((a / total) * (torch.digamma(a + 1) - torch.digamma(total + 1))).sum(-1)
    epistemic = a.shape[-1] / (total[..., 0] + a.shape[-1])
    bad = (a < 0).any(-1)
    return aleatoric.masked_fill(bad, torch.nan), epistemic.masked_fill(bad, torch.nan)


def find_best_threshold(p: Tensor, y: Tensor, r_min: float = 0.95, f_max: float = 0.1, *, points: int = 100) -> float:
    """A threshold for p >= threshold, scanned over linspace(0.01, 0.99).

    Of the points with recall >= r_min and false positives / N <= f_max the one of the fewest false positives, the first
    of equal ones; without any, the limit on false positives is dropped; without any then, 0.5.
    """
    p, y = p.double(), y.bool()
    grid = torch.linspace(0.01, 0.99, points, dtype=torch.float64)
    routed = p[None] >= grid[:, None]
    recall = (routed & y).sum(1) / max(1, int(y.sum()))
    false = (routed & ~y).sum(1) / max(1, len(y))
    for allowed in ((recall >= r_min) & (false <= f_max), recall >= r_min):
        if bool(allowed.any()):
            rates = torch.where(allowed, false.double(), torch.inf)
            return float(grid[int(rates.argmin())])
    return 0.5


def pos_weight(labels: Tensor, recall_factor: float = 1.0) -> float:
    """(negatives / positives) recall_factor. Raises ValueError without a positive label."""
    positive = int((labels == 1).sum())
    if not positive:
        raise ValueError("no label is 1 (divergent): there is nothing to learn; label more responses")
    return float((labels == 0).sum()) / positive * recall_factor


class _Block(nn.Module):
    """x + MLP(LayerNorm(x))."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class RouterHead(nn.Module):
    """The published head: W_c [h ; e ; W_z z] -> W_in -> residual blocks -> LayerNorm -> one logit.

    h: hidden state [B,d]; z: top logits [B,K]; e: embedding of the proposed token, from a frozen table [V,d] that is
    handed in. 56,302,081 parameters for d = 1536, K = 100, width 1024, 6 blocks.
    """

    def __init__(
        self, d: int, *, top: int = TOP, width: int = 1024, blocks: int = 6, inner: int = 4096, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.settings = {"d": d, "top": top, "width": width, "blocks": blocks, "inner": inner, "dropout": dropout}
        self.logits = nn.Linear(top, d)
        self.join = nn.Linear(3 * d, width)
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, inner, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, hidden: Tensor, logits_topk: Tensor, embedding: Tensor) -> Tensor:
        """[B] logits."""
        missing = self.logits.in_features - logits_topk.shape[-1]
        if missing > 0:  # a vocabulary smaller than K
            logits_topk = nn.functional.pad(logits_topk, (0, missing))
        x = self.enter(self.join(torch.cat([hidden, embedding, self.logits(logits_topk)], -1)))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))[..., 0]

    def save(self, folder: str | Path, threshold: float) -> None:
        """Write weights and settings."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path / "router.safetensors")
        (path / "router.json").write_text(json.dumps({**self.settings, "threshold": threshold}, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> tuple[RouterHead, float]:
        """The head and its threshold. Raises ValueError for a folder that holds none."""
        path = Path(folder)
        try:
            settings = json.loads((path / "router.json").read_text(encoding="utf-8"))
            weights = load_file(path / "router.safetensors")
            threshold = float(settings.pop("threshold"))
            head = cls(**settings)
            head.load_state_dict(weights)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} holds no trained router (router.json, router.safetensors): {error}") from None
        return head.eval(), threshold


Score = Callable[[StepSignals], Tensor]


@dataclass(frozen=True)
class Router:
    """A score with its threshold."""

    function: Score
    threshold: float

    def score(self, signals: StepSignals) -> Tensor:
        """[B]: the probability, or another number, that says how far the token leads away."""
        return self.function(signals)

    def route(self, signals: StepSignals) -> Tensor:
        """[B] bool: the large model is asked, at the threshold and above it."""
        return self.score(signals).to(torch.float64) >= self.threshold


def entropy_router(signals: StepSignals) -> Tensor:
    """[B]: entropy of the softmax over the kept logits; routed at 0.45 nats in the release."""
    return entropy(signals.logits_topk.float())


def aleatoric_router(signals: StepSignals) -> Tensor:
    """[B]: aleatoric log-uncertainty, routed at 2.275 in the release; negative logits give infinity (routed)."""
    return logu(signals.logits_topk.float())[0].nan_to_num(nan=torch.inf)


def random_router(seed: int) -> Score:
    """[B] uniform numbers: routed with probability 1 - threshold."""
    generator = torch.Generator().manual_seed(seed)
    return lambda signals: torch.rand(len(signals.token), generator=generator)


def head_router(head: RouterHead, embed: Any) -> Score:
    """sigmoid of the head's logit; `embed`: the small model's input embeddings."""

    @torch.no_grad()
    def score(signals: StepSignals) -> Tensor:
        return torch.sigmoid(head(signals.hidden.float(), signals.logits_topk.float(), embed(signals.token).float()))

    return score


def costs(routed: int, tokens: int, small: float, large: float) -> dict[str, float]:
    """Share of large-model tokens, and parameters per token: as published (1-f) P_s + f P_l, and with the small model
    that always runs, P_s + f P_l."""
    share = routed / max(1, tokens)
    return {
        "large_share": share,
        "average_parameters": (1 - share) * small + share * large,
        "additive_parameters": small + share * large,
    }


def label(match: bool, verdict: int | None = None) -> int | None:
    """Path following: 0 where the small model's token is the large one's, else the verdict of the two continuations (1
    divergent, 0 neutral); None (dropped) where the verifier gave none (-1)."""
    if match:
        return 0
    return verdict if verdict in (0, 1) else None


def sentence_ends(tokenizer: Any, extra: Sequence[int] = ()) -> set[int]:
    """Ids of short tokens (up to 4 characters) that end a sentence: the last character is one of . ! ? in two scripts
    or a new line, and no colon, opening bracket or quote is left open in them; and `extra` (ends of thinking)."""
    found = set(extra)
    for text, token in ((tokenizer.decode([i]), i) for i in range(len(tokenizer))):
        if 0 < len(text) <= 4 and text[-1] in ".。!！?？\n" and ":" not in text and "：" not in text:
            opened = any(text.count(a) > text.count(b) for a, b in ("()", "[]", "{}", "（）", "“”", "‘’"))
            if not opened and text.count('"') % 2 == 0:
                found.add(token)
    return found
