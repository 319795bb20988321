"""TRL's GRPOTrainer with our credit.

    trainer = CreditGRPOTrainer(model, reward_funcs, args=GRPOConfig(...), train_dataset=..., credit=["grpo", "pgpo"])

Sampling, rewards, loss, optimizer and logging are TRL's. What TRL computes as one advantage per response is replaced by
the advantages [B,T] of a `credit:` list in the syntax of our configs; the signals that its methods ask for are computed
by our score passes over TRL's own model and batch. Statistics are those of the whole batch of all processes, as TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import mmcredit.compat  # noqa: F401  # before TRL imports torchvision
from mmcredit.credit import Pipeline
from mmcredit.integrations import served, trl_batch
from mmcredit.integrations.scorer import Scorer
from mmcredit.rollouts import Rollouts
from mmcredit.signals.plan import plan_scores
from mmcredit.state_tree import load_tree, save_tree

try:
    from accelerate.utils import gather_object
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from trl import GRPOTrainer
except ImportError as error:
    raise ImportError(
        f"mmcredit.integrations.trl needs TRL ({error}); install the extra: pip install 'mmcredit[trl]'"
    ) from error

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollouts import Credit

HOST = "TRL's GRPOTrainer"
_STATE = "mmcredit_credit"  # name of the files with the memory of credit methods, in a checkpoint of TRL


class CreditGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose advantages are those of a `credit:` list; all its other arguments are TRL's.

    Raises ValueError for a method that TRL's loop has no place for (see `served.refuse`), and for a setting of TRL that
    would act on one advantage per response: `scale_rewards`, `multi_objective_aggregation`, a ratio per
    response (`importance_sampling_level`), the loss `vespo`, and `off_policy_mask_threshold`.
    """

    def __init__(
        self,
        *args: Any,
        credit: Sequence[str | Mapping[str, Any]] = ("grpo",),
        layout: Literal["shared", "padded"] = "shared",
        score_tokens: int = 16384,
        **kwargs: Any,
    ) -> None:
        """`credit`: entries as in a run config, the first turns rewards into advantages. `layout` and `score_tokens`:
        as `model.layout` and `model.score_tokens` there."""
        self.credit_pipeline = Pipeline(list(credit))
        served.refuse(self.credit_pipeline, HOST, scores=True, loss_mask=True)
        self._layout, self._score_tokens = layout, score_tokens
        self._scorer: Scorer | None = None
        self._rewards_per_func: Tensor | None = None
        super().__init__(*args, **kwargs)
        self._refuse_settings()
        self.credit_plan = plan_scores(self.credit_pipeline.needs(), on_policy=True)
        if self.credit_plan.passes:
            self._refuse_spread_weights()
            self._suppress_placeholders()

    # -- what cannot be served --------------------------------------------------------------------------------------

    def _refuse_settings(self) -> None:
        needs = self.credit_pipeline.needs()
        if self.scale_rewards != "group":
            raise ValueError(
                f"scale_rewards={self.scale_rewards!r} would do nothing: the first credit method scales; leave it out "
                "(credit dr_grpo does not divide, reinforce_pp divides by the batch)"
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                f"multi_objective_aggregation={self.multi_objective_aggregation!r} is not supported: credit starts "
                "from the weighted sum of the rewards"
            )
        if self.loss_type == "vespo":
            raise ValueError("loss_type='vespo' reads one advantage per response; credit is per token: take another")
        if self.importance_sampling_level != "token":
            raise ValueError(
                f"importance_sampling_level={self.importance_sampling_level!r} has one ratio per response: its "
                "gradient gives every token the mean of the response's credit; take 'token'"
            )
        if self.off_policy_mask_threshold is not None:
            raise ValueError("off_policy_mask_threshold reads one advantage per response; credit is per token")
        if missing := [part for part in needs.reward_parts if part not in self.reward_func_names]:
            raise ValueError(f"credit reads reward part {missing[0]!r}; reward_funcs are {self.reward_func_names}")
        if needs.sampler_logprobs and not self.use_vllm:
            raise ValueError("credit reads sampler log-probs, which TRL has with use_vllm=True only")

    def _refuse_spread_weights(self) -> None:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
            raise ValueError(
                "credit: signals are computed over the whole model, which FSDP and ZeRO-3 spread over processes; take "
                "ZeRO 0-2, or train with `mmcredit launch`"
            )
        if any(view.weights == "reference" for view in self.credit_plan.views):
            adapters = getattr(self.accelerator.unwrap_model(self.model), "peft_config", None)
            if adapters is not None and "ref" in adapters:
                raise ValueError("credit: the reference of an adapter that is trained further is not supported")
            if adapters is None and self.ref_model is None:
                raise ValueError(
                    "credit: a method reads the reference model, which TRL keeps with beta > 0 or a peft_config only"
                )

    def _suppress_placeholders(self) -> None:
        """No sampled placeholder has media behind it: TRL suppresses those of images, we all."""
        if self.use_vllm or not self._is_vlm:
            return
        config = self.accelerator.unwrap_model(self.model).config
        ids = {getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")} - {None}
        kept = sorted({*(self.generation_config.suppress_tokens or ()), *ids})
        self.generation_config.suppress_tokens = self.generation_kwargs["suppress_tokens"] = kept

    # -- advantages -------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards_per_func = super()._calculate_rewards(*args, **kwargs)
        return self._rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        rollouts = self._whole_batch(output, mode)
        credit = self.credit_pipeline(rollouts, self.state.global_step, max(1, self.state.max_steps))
        if credit.clip_low is not None or credit.clip_high is not None:
            raise ValueError("credit: a method sets a clip range per token, which TRL's loss has no place for")
        count, width = output["completion_ids"].shape
        own = slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)
        output["advantages"] = credit.advantages[own, :width].contiguous()
        if bool((credit.loss_mask != rollouts.valid).any()):
            output["tool_mask"] = credit.loss_mask[own, :width].to(output["completion_mask"].dtype)
            output["num_items_in_batch"] = credit.loss_mask.sum()
        self._note(credit, rollouts, mode)
        return output

    def _whole_batch(self, output: dict[str, Any], mode: str) -> Rollouts:
        """The responses of all processes, scored, in the order in which TRL gathers rewards."""
        assert self._rewards_per_func is not None, "TRL computed no rewards"
        names = trl_batch.prompt_ids(output)
        images = [int(n) for n in output.get("num_images") or [0] * len(names)]
        if self.credit_plan.passes:
            local = self._scored(output, names)
        else:
            local = trl_batch.read_rollouts(output, [0] * len(names), self.eos_token_ids)
        per_function = self._rewards_per_func
        weights = self.reward_weights.to(per_function.device)
        rewards = (per_function * weights).nansum(1)
        rewards[torch.isnan(per_function).all(1)] = torch.nan
        return trl_batch.regroup(
            self._gathered(local),
            rewards,
            {name: per_function[:, i] for i, name in enumerate(self.reward_func_names)},
            gather_object(names),
            gather_object(images),
            self.num_generations if mode == "train" else self.num_generations_eval,
        )

    def _scored(self, output: dict[str, Any], names: Sequence[str]) -> Rollouts:
        scorer = self._scorer = self._scorer or self._new_scorer()
        policy = scorer.policy
        prompts, group = trl_batch.read_prompts(output, names, policy.body.kinds, policy.encoder.positions)
        rollouts = trl_batch.read_rollouts(output, group, self.eos_token_ids)
        placeholders = torch.tensor(policy.suppressed_ids, dtype=torch.int64, device=rollouts.tokens.device)
        found = torch.isin(rollouts.tokens, placeholders) & rollouts.valid
        if bool(found.any()):
            raise ValueError(
                f"response {int(found.any(1).nonzero()[0])} holds a media placeholder (of a tool, or sampled): signals "
                "are computed for images of the prompt alone"
            )
        with self.accelerator.autocast():
            return scorer(prompts, rollouts, self.state.global_step)

    def _new_scorer(self) -> Scorer:
        reference = None
        if self.ref_model is not None and any(v.weights == "reference" for v in self.credit_plan.views):
            reference = self.accelerator.unwrap_model(self.ref_model)
        return Scorer(
            self.accelerator.unwrap_model(self.model),
            self._tokenizer,
            self.processing_class if self._is_vlm else None,
            self.credit_plan,
            views=self.credit_pipeline.needs().views,
            seed=self.args.seed,
            temperature=self.temperature,
            layout=self._layout,
            score_tokens=self._score_tokens,
            reference=reference,
        )

    def _gathered(self, local: Rollouts) -> Rollouts:
        def whole(values: Tensor) -> Tensor:
            plain = values.to(torch.int32) if values.dtype == torch.bool else values
            if plain.ndim > 1:
                plain = self.accelerator.pad_across_processes(plain, dim=1)
            return self.accelerator.gather(plain).to(values.dtype)

        return Rollouts(
            tokens=whole(local.tokens),
            mask=whole(local.mask),
            valid=whole(local.valid),
            group=whole(local.group),
            rewards=whole(local.rewards),
            truncated=whole(local.truncated),
            sampler_logprobs=None if local.sampler_logprobs is None else whole(local.sampler_logprobs),
            old_logprobs=None if local.old_logprobs is None else whole(local.old_logprobs),
            signals={name: whole(values) for name, values in local.signals.items()},
        )

    def _note(self, credit: Credit, rollouts: Rollouts, mode: str) -> None:
        """What the methods noted, in TRL's metrics; and in its table of completions the mean over a response's tokens,
        which TRL's own advantage is there."""
        for trace in credit.trace:
            for name, value in trace.notes.items():
                self._metrics[mode][f"credit/{trace.name}/{name}"].append(value)
        self._metrics[mode]["credit/unscored_responses"].append(
            float((rollouts.valid.any(1) & ~rollouts.mask.any(1)).sum())
        )
        means = (credit.advantages.sum(1) / credit.loss_mask.sum(1).clamp(min=1)).tolist()
        shown = self._logs["advantages"]
        for _ in range(min(len(means), len(shown))):
            shown.pop()
        shown.extend(means)

    # -- memory of credit methods -----------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        state = self.credit_pipeline.state_dict()
        if state and self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            save_tree(state, Path(self._get_output_dir(trial=trial)) / folder / _STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / f"{_STATE}.json").is_file():
            self.credit_pipeline.load_state_dict(load_tree(Path(checkpoint) / _STATE))
