"""The model that frozen rollouts are replayed on, and what it computes for all methods at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmcredit import config as configs
from mmcredit import yaml_values
from mmcredit.components import names
from mmcredit.config import TrainBlock
from mmcredit.data.media import MediaLimits
from mmcredit.frozen import FOLDER, Frozen, vocabulary_digest
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.policy.views import furnish_views
from mmcredit.rollout.engine import Sampling
from mmcredit.signals.plan import merge, plan_scores
from mmcredit.state_tree import load_tree
from mmcredit.train.checkpoint import problem
from mmcredit.train.checks import Mismatch, mismatch

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.components import Needs
    from mmcredit.policy.passes import View
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts


@dataclass(frozen=True)
class Setting:
    """What of a run's config a replay goes by."""

    model: ModelConfig
    sampling: Sampling
    objective: dict[str, Any]
    media: MediaLimits
    max_prompt_tokens: int | None
    token_budget: int
    threads: int | None
    seed: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> Setting:
        """From a resolved config as plain data. Raises ValueError naming the block that cannot be read."""

        def block(kind: Any, value: Any) -> Any:
            return configs.block(kind, value, "config of the frozen rollouts")

        return cls(
            model=block(ModelConfig, config["model"]),
            sampling=block(Sampling, config["rollout"]["sampling"]),
            objective=dict(config["objective"]),
            media=block(MediaLimits, config["data"]["media"]),
            max_prompt_tokens=yaml_values.plain(config["data"]["max_prompt_tokens"]),
            token_budget=block(TrainBlock, config["train"]).token_budget,
            threads=yaml_values.plain(config["run"]["threads"]),
            seed=int(config["run"]["seed"]),
        )


@dataclass(frozen=True)
class Scored:
    """A batch with everything the methods ask for."""

    rollouts: Rollouts
    prompts: list[Prompt]
    logprobs: Tensor  # [B,T] of this model, now
    entropy: Tensor | None  # [B,T], if a method follows the update
    passes: tuple[str, ...]  # views that were run, each once
    view_seconds: dict[View, float]  # seconds of each view's forwards
    mismatch: Mismatch | None  # this model against the sampler


class ReplayModel:
    """A policy that takes over, batch by batch, the weights that sampled it where a checkpoint still holds them.

    With `path` it is that model for every batch. The reference model is the run's own starting point (`model.path` of
    its config). Dropout of adapters is off: two methods must differ by their credit only.
    """

    def __init__(self, setting: Setting, path: str | None = None) -> None:
        self.setting, self.path = setting, path
        config = setting.model
        if config.lora is not None:
            config = config.model_copy(update={"lora": config.lora.model_copy(update={"dropout": 0.0})})
        self.config = config if path is None else config.at(path, lora=None)
        self.policy = Policy.load(self.config, media_limits=setting.media)
        self.views = furnish_views(self.policy, {}, setting.seed)
        self._start: dict[str, Tensor] | None = None  # the weights as loaded, once others have been taken over
        self._digest = vocabulary_digest(self.policy.tokenizer)

    def show_views(self, settings: Mapping[str, Any]) -> None:
        """What the masked and corrupted views show (`Needs.views`), drawn as the run itself would."""
        self.views = furnish_views(self.policy, settings, self.setting.seed)

    def keep_reference(self) -> None:
        """Have the reference model at hand; to be called before `take_weights`."""
        if self.path is not None:
            own = Policy.load(self.setting.model.model_copy(update={"lora": None}), media_limits=self.setting.media)
            own.model.requires_grad_(False)
            self.policy.reference = own.body
        elif not self.policy.starts_at_base:
            self.policy.keep_reference()

    def take_weights(self, frozen: Frozen) -> str:
        """Use the weights that sampled the batch if they can be had; says which weights are in use now.

        Raises ValueError if the model's tokenizer is not the one whose ids these are.
        """
        if self._digest != frozen.tokenizer:
            raise ValueError(
                f"model {self.config.path!r} has another vocabulary than the one that sampled {frozen.path}: its ids "
                "would mean other tokens; name a model of the same tokenizer with --model"
            )
        if self.path is not None:
            return self.path
        checkpoint = frozen.path.parent.parent / "checkpoints" / frozen.path.name
        if frozen.step and frozen.path.parent.name == FOLDER and checkpoint.is_dir() and problem(checkpoint) is None:
            if self._start is None:
                self._start = {name: value.clone() for name, value in self.policy.state_dict().items()}
            self.policy.load_state_dict(load_tree(checkpoint / "training")["weights"])
            return f"checkpoint {checkpoint.name}"
        if self._start is not None:
            self.policy.load_state_dict(self._start)
            self._start = None
        return self.config.path

    def prompts(self, frozen: Frozen) -> list[Prompt]:
        """The prompts of a batch, encoded. Raises ValueError naming the sample."""
        assert frozen.rollouts.samples is not None
        return [self.policy.encode(sample, self.setting.max_prompt_tokens) for sample in frozen.rollouts.samples]

    def complete(
        self,
        frozen: Frozen,
        needs: Needs,
        follow: bool,
        *,
        recompute: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> Scored:
        """Everything that the methods ask for (`needs`, their union) and the batch does not carry, each pass run once,
        with the clean log-probs among them; with `follow` the entropy too, for methods that follow the update.

        `recompute`: forget the log-probs and signals of the run that a pass can make again.
        """
        rollouts = frozen.rollouts
        if recompute:
            kept = {name: value for name, value in rollouts.signals.items() if name not in names("signal")}
            rollouts = rollouts.replace(old_logprobs=None, signals=kept)
        plan = plan_scores(needs, on_policy=False, given=rollouts.signals)
        passes = list(plan.passes)
        self.views.begin(frozen.step)
        if follow:
            passes.append(Pass(CLEAN, frozenset({"entropy"})))
        merged = merge(passes)
        prompts = self.prompts(frozen)
        rollouts = rollouts.to(self.policy.device)
        before = {p.view: self.policy.costs.of(p.view).seconds for p in merged}
        temperature = self.setting.sampling.temperature
        results = self.policy.score(prompts, rollouts, merged, temperature=temperature, progress=advance)
        logprobs = results[CLEAN]["logprobs"]
        rollouts = rollouts.with_signals(plan.of_tokens(rollouts, self.policy.tokenizer) | plan.read(results))
        if rollouts.old_logprobs is None:
            rollouts = rollouts.replace(old_logprobs=logprobs)
        return Scored(
            rollouts,
            prompts,
            logprobs,
            results[CLEAN]["entropy"] if follow else None,
            tuple(p.view.label for p in merged),
            {view: self.policy.costs.of(view).seconds - value for view, value in before.items()},
            mismatch(rollouts, logprobs),
        )


def use_threads(count: int | None) -> None:
    """As many CPU threads as the run had."""
    if count is not None:
        torch.set_num_threads(count)
