"""The sequence-level ratio of GSPO, in its token form."""

from __future__ import annotations

import torch

from mmcredit.components import register
from mmcredit.objective.base import LossInputs, PolicyLoss, Ratio
from mmcredit.objective.ratios.token import clipped_surrogate
from mmcredit.objective.sequences import carry, power_mean

# verl bounds the log of the sequence ratio at 10; beyond it the ratio is a constant.
MAX_LOG_SEQUENCE_RATIO = 10.0


@register("ratio", "sequence")
class Sequence(Ratio):
    """One ratio per response, the geometric mean of its tokens' ratios, clipped as a whole (GSPO).

    s_i = exp(mean_t (log pi - log pi_old));  s_{i,t} = sg[s_i] pi/sg[pi];  l = max(-A_{i,t} s, -A_{i,t} clip(s)).
    The token form (GSPO-token) takes token advantages; with one advantage per response value and gradient are GSPO's.

    Source: arXiv 2507.18071. Its clip is narrow: pair with ``clip: {low: 3e-4, high: 4e-4}`` and
    ``seq_mean_token_mean`` (GRPO's 0.2 hardly ever clips a mean). log s_i is bounded at 10, as in verl. The mean runs
    over the tokens in the loss.
    Passes: none.
    """

    def __call__(self, inputs: LossInputs) -> PolicyLoss:
        log_mean, share = power_mean(inputs.log_ratio, inputs.mask, 0.0)
        share = torch.where(log_mean > MAX_LOG_SEQUENCE_RATIO, 0.0, share)
        ratio = carry(log_mean.clamp(max=MAX_LOG_SEQUENCE_RATIO), share, inputs.mask, inputs.logprobs)
        return clipped_surrogate(ratio, inputs)
