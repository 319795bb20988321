"""Does the shared layout give what the padded one gives? Asked once per model, on real responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from mmcredit.policy.costs import ViewCost
from mmcredit.policy.forward import Body, LayoutName
from mmcredit.policy.layout import Row
from mmcredit.policy.prompt import Prompt

if TYPE_CHECKING:
    from torch import Tensor

# Largest difference of log-probs, nats.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
PROBE_TOKENS = 16  # of each response


def probe_rows(groups: Sequence[int], lengths: Sequence[int], prompts: Sequence[Prompt]) -> list[int]:
    """Two responses each of two prompts with media and two without, as far as there are any."""
    chosen: list[int] = []
    for with_media in (True, False):
        found = [i for i, g in enumerate(groups) if lengths[i] > 0 and bool(prompts[g].media_keys) == with_media]
        for name in list(dict.fromkeys(groups[i] for i in found))[:2]:
            chosen += [i for i in found if groups[i] == name][:2]
    return chosen


def difference(body: Body, rows: Sequence[Row], logprobs: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """None if the layouts agree on these rows, else what is wrong. `logprobs` maps states [N,d] and tokens [N] to [N].

    An error in the padded layout is not the shared layout's fault and is raised.
    """
    rows = [r if r.inserted else Row(r.prompt, r.tokens[:PROBE_TOKENS], r.number) for r in rows]
    if not rows:
        return None
    tokens = torch.cat([r.targets for r in rows]).to(body.device)

    def run(layout: LayoutName) -> Tensor:
        return logprobs(body.hidden(rows, blind=False, layout=layout, weights="policy", cost=ViewCost()), tokens)

    # Features encoded here would be used later, in other company than in a run that did not ask: off in the last bit.
    with body.vision.unremembered() if body.vision is not None else nullcontext():
        padded = run("padded")
        try:
            shared = run("shared")
        except Exception as error:  # any architecture may refuse in its own way; the reason is reported
            return f"it raised {type(error).__name__}: {error}"
    limit = TOLERANCE[next(body.language_model.parameters()).dtype]
    found = float((shared - padded).abs().max())
    if found <= limit:
        return None
    return f"its log-probs differ from the padded ones by {found:.2g} (more than {limit:g})"
