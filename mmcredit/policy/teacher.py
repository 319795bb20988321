"""The view `teacher`: the same prompt with a hint in its last user message.

On-policy distillation (arXiv 2603.10165) scores the response's own ids under this prompt. Here the hint comes with the
sample: its meta, or a sentence made of the reference answer (privileged information, for verifiable tasks).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmcredit.views.teacher import TeacherView

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.passes import View
    from mmcredit.policy.prompt import Prompt


class TeacherPrompts:
    """Makes the prompts of the view; a value of `Policy.view_prompts`.

    None for a sample without a hint. A hint that cannot be encoded (reserved tokens in it, no text) is none either; a
    warning names the sample, once, and `refused` keeps the reason by sample.
    """

    def __init__(self, encode: Callable[[Sample], Prompt], settings: TeacherView | None = None) -> None:
        self.encode, self.settings = encode, settings or TeacherView()
        self.refused: dict[str, str] = {}

    def __call__(self, view: View, prompt: Prompt) -> Prompt | None:
        """The prompt of the teacher. Raises ValueError for a prompt that was not made from a sample."""
        if prompt.sample is None:
            raise ValueError(f"sample {prompt.sample_id}: a teacher's prompt is made from its sample; encode it again")
        try:
            sample = self.settings.shown(prompt.sample)
            return None if sample is None else self.encode(sample)
        except ValueError as error:
            if prompt.sample_id not in self.refused:
                self.refused[prompt.sample_id] = str(error)
                warnings.warn(f"no teacher for {error}", stacklevel=2)
            return None
