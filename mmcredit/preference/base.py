"""What a preference loss is: two sides of pairs in, a loss per pair out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch

from mmcredit.components import Component

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.preference.pairs import EncodedPair

Both = tuple["Tensor", "Tensor"]  # chosen [T], rejected [R] float32


@dataclass(frozen=True)
class Side:
    """The chosen or the rejected answers of N pairs. Everything is 0 (False) where `mask` is False."""

    logprobs: Tensor  # [N,T], with gradient
    ref_logprobs: Tensor  # [N,T], of the frozen reference
    mask: Tensor  # [N,T] bool, answer tokens
    values: Tensor | None = None  # [N,T], the token rewards or weights that the loss asked for


@dataclass(frozen=True)
class Known:
    """What was computed once for a set of pairs: per pair the log-probs of the reference, and the asked signals."""

    ref_logprobs: Sequence[Both]
    signals: Mapping[str, Sequence[Both]] = field(default_factory=dict)


class Tools(Protocol):
    """What a loss may have scored for its token rewards."""

    def signal(self, name: str) -> Sequence[Both]:
        """A signal of every answer, under the weights as loaded. Raises ValueError for one that cannot be had."""
        ...

    def logprobs_of(self, path: str) -> Sequence[Both]:
        """Log-probs of every answer under another model. Raises ValueError if its vocabulary differs."""
        ...

    def logprobs_after(self, rewrite: Rewrite) -> Sequence[Both]:
        """Log-probs of every answer, as loaded, behind prompts that `rewrite` makes."""
        ...

    def texts(self) -> Sequence[tuple[str, str]]:
        """The answers of every pair as text."""
        ...

    def offsets(self, ids: Sequence[int]) -> Sequence[tuple[int, int]]:
        """The characters [start, end) of each token in the text of its answer."""
        ...


class Rewrite(Protocol):
    """Makes the question of another prompt from an answer's own."""

    def __call__(self, question: str, answer: str) -> str: ...


class Preference(Component):
    """A preference loss."""

    beta: float

    def values(self, pairs: Sequence[EncodedPair], known: Known, tools: Tools) -> list[Both] | None:
        """Token rewards or weights of every pair, computed once; None: none."""
        return None

    def __call__(self, chosen: Side, rejected: Side) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per pair [N] with gradient, and numbers per pair [N] to be averaged."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(chosen, rejected)")


def log_ratio(logp: Tensor, ref: Tensor, mask: Tensor | None = None) -> Tensor:
    """log(pi / pi_ref) per token [..., T], exactly 0 where `mask` is False."""
    found = logp - ref
    return found if mask is None else torch.where(mask, found, torch.zeros_like(found))


def weighted_dpo(
    logp_w: Tensor,
    ref_w: Tensor,
    f_w: Tensor | None,
    logp_l: Tensor,
    ref_l: Tensor,
    f_l: Tensor | None,
    beta: float,
    *,
    mask_w: Tensor | None = None,
    mask_l: Tensor | None = None,
) -> Tensor:
    """-log sigmoid(beta (sum_t f_w a_w - sum_t f_l a_l)) with a = log(pi / pi_ref), per pair.

    Log-probs and factors are [..., T] (the sides may differ in T); the result is [...]. Factors None are 1: DPO
    (arXiv 2305.18290, eq. 7). With f = 1 the bits are those of None.
    """
    margin = weighted_sum(log_ratio(logp_w, ref_w, mask_w), f_w) - weighted_sum(log_ratio(logp_l, ref_l, mask_l), f_l)
    return -torch.nn.functional.logsigmoid(beta * margin)


def weighted_sum(values: Tensor, factors: Tensor | None) -> Tensor:
    """[..., T] -> [...]."""
    return (values if factors is None else values * factors).sum(-1)
