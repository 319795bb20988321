"""Decoding `tokenselect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.decoding.base import Decoding

if TYPE_CHECKING:
    from mmcredit.decoding.selecting import SelectingEngine
    from mmcredit.policy.policy import Policy


@register("decoding", "tokenselect")
class TokenSelect(Decoding):
    """Attention to a part of the cache: per query the keys that the heads vote for, the first ones, the latest ones.

        s = sum_h softmax(Q_h K_kv(h)^T) over the candidates;   I = top-k(s)
        attended: the first n_init, I, the last n_local; everything where that covers all keys

    Training-free. arXiv 2411.02886 (section 4), code pzs19/TokenSelect. A prompt is read in chunks, each with the
    selection of its mean query; in decoding the selection of a layer is used again while cos(Q, its query) >= theta
    (the selection cache; the release has it off). With k = all it is full attention.

    Differs: keys keep their rotated positions (the paper re-positions the selected set, which extrapolates lengths, and
    which 3-row positions do not allow). `gqa_map: mod` is the paper's kernel; `grouped` is how the weights share heads.
    `keep_images` never leaves a visual token out. Not for rollouts: the behaviour policy would not be the one that is
    scored; the run config refuses it.
    """

    k: int = Field(2048, ge=1, description="candidates kept per query")
    share: float | None = Field(None, gt=0, le=1, description="keep this share of the keys there are, instead of k")
    n_init: int = Field(128, ge=0, description="first positions, always attended to")
    n_local: int = Field(512, ge=1, description="latest positions, always attended to")
    theta: float | None = Field(0.9, ge=-1, le=1, description="selection cache: used again from this cosine; none: off")
    chunk: int = Field(512, ge=1, description="prompt tokens that share a selection")
    gqa_map: Literal["grouped", "mod"] = Field("grouped", description="which key head a query head votes with")
    pool: int = Field(1, ge=1, description="width (odd) of a max-pool over the votes")
    keep_images: bool = Field(False, description="visual tokens are always attended to")

    @model_validator(mode="after")
    def _odd(self) -> TokenSelect:
        if self.pool % 2 == 0:
            raise ValueError(f"tokenselect: pool must be odd, got {self.pool}")
        return self

    def open(self, policy: Policy) -> SelectingEngine:
        from mmcredit.decoding.kv_select import Selector
        from mmcredit.decoding.selecting import SelectingEngine

        def make(prompt):  # type: ignore[no-untyped-def]
            visual = prompt.visual if self.keep_images and bool(prompt.visual.any()) else None
            return Selector(
                self.k, self.n_init, self.n_local, self.theta, self.chunk, self.gqa_map, self.pool, self.share, visual
            )

        return SelectingEngine(policy, make, lambda prompt: Selector(2**40, theta=None))
