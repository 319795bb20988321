"""Decoding `arbitrage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mmcredit.components import register
from mmcredit.decoding.base import Decoding

if TYPE_CHECKING:
    from mmcredit.decoding.speculation import StepSpeculator
    from mmcredit.policy.policy import Policy


@register("decoding", "arbitrage")
class Arbitrage(Decoding):
    """Step-level speculation by predicted advantage: a draft model writes a step, and the target only where it pays.

        z_d ~ draft until the separator
        y = router(x, z_d) ~ P(target's step is better)
        y > tau: z_t ~ target from the same prefix, instead of z_d

    The policy is the draft, `target` the other. arXiv 2512.05033 (algorithm 1), code SqueezeAILab/Arbitrage; its
    comparisons are the paper's, strict. Here the target writes a step only when it is asked (the public script always
    generates it, and only counts).

    Routers: `model`, a token classifier of two labels (`router_model`: read at the last token, with the writers' names
    before the steps), and `confidence`, 1 - the geometric mean probability of the draft's tokens, which needs no
    training. The published router weights are not available.

    Reported: acceptance by tokens (the code's rate) and by steps (the paper's), share of target tokens, seconds, and
    both models alone in the same loop. The paper's decisions (oracle, reward-guided, budget) are functions of
    `mmcredit.decoding.advantage`.
    """

    target: str = Field(description="the target model: a folder, builtin:NAME or hub id")
    router: Literal["confidence", "model"] = Field("confidence", description="who predicts the advantage")
    router_model: str | None = Field(None, description="folder of a token classifier, for router: model")
    tau: float = Field(0.5, ge=0, le=1, description="steps above it are written anew")
    sep: str = Field("\n\n", min_length=1, description="a step ends with it")
    max_steps: int = Field(150, ge=1, description="steps of a response at most")

    @model_validator(mode="after")
    def _model(self) -> Arbitrage:
        if (self.router == "model") != (self.router_model is not None):
            raise ValueError(
                f"arbitrage: router {self.router!r} and router_model {self.router_model!r} do not go together"
            )
        return self

    def open(self, policy: Policy) -> StepSpeculator:
        """Both models, with the policy's settings. Raises ValueError for vocabularies that differ."""
        from mmcredit.decoding.base import same_vocabulary
        from mmcredit.decoding.speculation import ConfidenceRouter, ModelRouter, StepRouter, StepSpeculator
        from mmcredit.policy.policy import Policy

        target = Policy.load(policy.config.at(self.target, lora=None), 0, policy.media_limits)
        same_vocabulary(policy, target)
        router: StepRouter = ConfidenceRouter()
        if self.router_model is not None:
            router = ModelRouter.load(self.router_model, self.sep)
        return StepSpeculator(policy, target, router, self.sep, self.tau, self.max_steps)
