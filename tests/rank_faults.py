"""For scenarios of several ranks: what goes wrong on rank 1 alone. Imported as a plug-in; `FAULT` says what."""

from __future__ import annotations

import os
from typing import Any

from mmcredit.components import register
from mmcredit.credit.base import CreditMethod
from mmcredit.policy.policy import Policy

RANK = int(os.environ.get("RANK", "0"))


@register("credit", "of_this_process")
class OfThisProcess(CreditMethod):
    """Credit that depends on the process; with `fails` it breaks on rank 1."""

    fails: bool = False

    def __call__(self, credit: Any, rollouts: Any, step: Any) -> Any:
        if self.fails and RANK == 1:
            raise ValueError("broken on this rank alone")
        return credit.replace(advantages=credit.advantages * (1 + RANK))


@register("credit", "lost_picture")
class LostPicture(CreditMethod):
    """Leaves credit alone; while it is in a config, rank 1 cannot read every third picture."""

    def model_post_init(self, _: Any) -> None:
        encode, seen = Policy.encode, [0]

        def without(policy: Policy, sample: Any, limit: int | None = None) -> Any:
            seen[0] += 1
            if RANK == 1 and seen[0] % 3 == 0:
                raise ValueError(f"sample {sample.name}: the image is gone")
            return encode(policy, sample, limit)

        Policy.encode = without  # type: ignore[method-assign]

    def __call__(self, credit: Any, rollouts: Any, step: Any) -> Any:
        return credit
