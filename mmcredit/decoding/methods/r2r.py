"""Decoding `r2r`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.decoding.base import Decoding

if TYPE_CHECKING:
    from mmcredit.decoding.two_models import TwoModelGenerator
    from mmcredit.policy.policy import Policy

DEFAULTS = {"entropy": 0.45, "aleatoric": 2.275, "random": 0.85}


@register("decoding", "r2r")
class R2R(Decoding):
    """Roads to Rome: a small model writes, and a router lets the large one replace single tokens.

        y_s ~ small
        p = router(h, e(y_s), z)
        p >= threshold: the large model reads what it has missed and draws the token anew, which replaces y_s

    The policy is the small model, `large` the other. No roll-back and no verification of blocks; the cache of the large
    model may lag, and each model reads the prompt (and encodes its images) once. arXiv 2505.21600, code thu-nics/R2R.

    Routers: `entropy` of the small model's 100 largest logits (0.45 nats), `aleatoric` log-uncertainty of its 10
    largest (2.275), `random` (the share routed is 1 - threshold), `head`: a trained one from the folder `head`
    (`scripts/r2r_head.py`: labels by path following, then BCE), with its own threshold. Both models must have one
    vocabulary: ids pass between them. Reported: share of large tokens, parameters per token as published and with the
    small model counted always, seconds, against both models alone in the same loop.
    """

    large: str = Field(description="the large model: a folder, builtin:NAME or hub id")
    router: Literal["entropy", "aleatoric", "random", "head"] = Field("entropy", description="who decides")
    threshold: float | None = Field(None, description="routed at or above it; none: the router's own")
    head: Path | None = Field(None, description="folder of a trained head, for router: head")
    repeats: int = Field(0, ge=0, description="a response ends after this many repeats of its last 8 tokens; 0 = off")

    @model_validator(mode="after")
    def _head(self) -> R2R:
        if (self.router == "head") != (self.head is not None):
            raise ValueError(f"r2r: router {self.router!r} and head {str(self.head)!r}: a head goes with router: head")
        return self

    def open(self, policy: Policy) -> TwoModelGenerator:
        """Both models, with the policy's settings. Raises ValueError for vocabularies that differ."""
        from mmcredit.decoding import routers
        from mmcredit.decoding.base import same_vocabulary
        from mmcredit.decoding.two_models import TwoModelGenerator
        from mmcredit.policy.policy import Policy

        large = Policy.load(policy.config.at(self.large, lora=None), 0, policy.media_limits)
        same_vocabulary(policy, large)
        threshold = self.threshold
        score: Any
        if self.router == "head":
            assert self.head is not None
            head, own = routers.RouterHead.load(self.head)
            if head.settings["d"] != policy.body.config.hidden_size:
                raise ValueError(
                    f"the router {self.head} was trained for hidden states of {head.settings['d']}, "
                    f"{policy.config.path} has {policy.body.config.hidden_size}; train one for this model"
                )
            threshold = own if threshold is None else threshold
            score = routers.head_router(head.to(policy.device), policy.body.embed)
        elif self.router == "random":
            score = routers.random_router(0)
        else:
            score = routers.entropy_router if self.router == "entropy" else routers.aleatoric_router
        threshold = DEFAULTS[self.router] if threshold is None else threshold
        return TwoModelGenerator(policy, large, score, threshold, self.repeats)
