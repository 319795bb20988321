"""Overlong filtering: responses that the length limit cut off do not enter the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from mmcredit.components import register
from mmcredit.rollout.strategies.base import Rest, Stage, Strategy

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask, Batch


@register("strategy", "overlong_filter")
class OverlongFilter(Strategy):
    """Overlong filtering: no token of a truncated response bears credit.

    `mask` becomes False on the whole row, `valid` stays: the response keeps its reward in the statistics of its group,
    but has no loss and counts in no denominator of it. Methods that pool tokens (TLGA, whitening, percentiles) pool
    those of the other responses.

    Source: DAPO, arXiv 2503.14476, section 3.4; TRL's `mask_truncated_completions`. DAPO's final recipe keeps truncated
    responses and adds a soft penalty instead, reward `length`.
    A batch whose responses are all truncated has loss 0 and no gradient; the step is counted and the alarms for
    truncation and for a step without credit are raised. If that is the first step, sampler and trainer cannot be
    compared in it.
    Composes: inside `d3s_selection`, so that what is cut off is not selected.
    Cost: none; filtered responses are not scored and not trained on. Noted: responses filtered.
    """

    plain_first: ClassVar[bool] = True

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        rollouts = batch.rollouts
        stage.note("overlong_filter/responses", float(rollouts.truncated.sum()))
        return batch.replace_rollouts(rollouts.replace(mask=rollouts.mask & ~rollouts.truncated[:, None]))
