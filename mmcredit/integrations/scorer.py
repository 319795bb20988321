"""Our score passes over a model that belongs to another trainer.

The model is borrowed for the length of a call: its attention function, and whether its modules are in train mode, are
what they were afterwards. Nothing is copied, and no weight is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from mmcredit.policy.config import ModelConfig
from mmcredit.policy.forward import Body
from mmcredit.policy.passes import CLEAN
from mmcredit.policy.policy import Policy
from mmcredit.policy.views import Views, furnish_views

if TYPE_CHECKING:
    from torch import nn

    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts
    from mmcredit.signals.plan import ScorePlan


@contextmanager
def borrowed(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put back what our passes set on these models: attention function and train mode."""
    modules = [module for model in models for module in model.modules()]
    modes = [(module, module.training) for module in modules]
    configs: dict[int, tuple[Any, Any]] = {}
    for module in modules:
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            configs.setdefault(id(config), (config, config._attn_implementation))
    try:
        yield
    finally:
        for config, attention in configs.values():  # outer ones first: setting one may set those inside it
            config._attn_implementation = attention
        for module, training in modes:
            module.training = training


class Scorer:
    """Runs the passes of a plan over a borrowed model."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        processor: Any,
        plan: ScorePlan,
        *,
        views: Mapping[str, Any],
        seed: int,
        temperature: float,
        layout: Literal["shared", "padded"],
        score_tokens: int,
        reference: nn.Module | None = None,
    ) -> None:
        """`views`: settings of the views that show other pixels (`Needs.views`). `reference`: the frozen model of
        reference passes; None: adapters switched off. Raises ValueError for a model whose parts cannot be found."""
        self.plan, self.temperature = plan, temperature
        self.models = [model] if reference is None else [model, reference]
        with borrowed(self.models):
            config = ModelConfig(path="the trainer's model", layout=layout, score_tokens=score_tokens)
            self.policy = Policy(model, tokenizer, processor, config)
            if reference is not None:
                self.policy.reference = Body(reference, config.vision_cache_mb * 2**20)
        self.views: Views | None = None if processor is None else furnish_views(self.policy, views, seed)

    def _configs(self) -> list[Any]:
        bodies = [self.policy.body, *([] if self.policy.reference is None else [self.policy.reference])]
        return [body.config for body in bodies]

    def __call__(self, prompts: Sequence[Prompt], rollouts: Rollouts, step: int) -> Rollouts:
        """The rollouts (``group`` indexes `prompts`) with old log-probs and signals, as the model is now."""
        from mmcredit.policy import attention

        if self.views is not None:
            self.views.begin(step)
        self.policy.weights_changed()
        if self.policy.reference is not None and self.policy.reference.vision is not None:
            self.policy.reference.vision.clear()  # a trainer may move its reference, too
        with borrowed(self.models):
            for config in self._configs():
                config._attn_implementation = attention.NAME
            results = self.policy.score(prompts, rollouts, self.plan.passes, temperature=self.temperature)
        rollouts = rollouts.with_signals(self.plan.read(results))
        return rollouts.replace(old_logprobs=results[CLEAN]["logprobs"]) if self.plan.old_logprobs else rollouts
