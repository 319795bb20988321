"""A tiny model on disk, a TRL trainer on it that keeps its batches, and our own pipeline on the same responses."""

from __future__ import annotations

import mmcredit.compat  # isort: skip  # noqa: F401  # before transformers, in a process that pytest has not prepared

import io
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from tiny import tiny_text, tiny_vl
from trl import GRPOConfig

from mmcredit.credit import Pipeline
from mmcredit.data.sample import Media, Sample
from mmcredit.integrations import trl_batch
from mmcredit.integrations.trl import CreditGRPOTrainer
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.passes import CLEAN
from mmcredit.policy.policy import Policy
from mmcredit.policy.views import furnish_views
from mmcredit.rollouts import Rollouts
from mmcredit.signals.plan import plan_scores

COLOURS = [(200, 30, 30), (30, 160, 40), (40, 60, 210), (220, 200, 40), (120, 120, 120), (250, 250, 250)]


def picture(i):
    image = Image.new("RGB", (56 + 28 * (i % 3), 84), COLOURS[i % 6])
    image.paste((0, 0, 0), (8, 8, 30 + i, 40))
    return image


def question(i):
    return ["how many squares", "what is the color of the square in the image", "is there a circle"][i % 3]


def save_model(folder, family="qwen2_5_vl"):
    model, keeper = tiny_text() if family == "text" else tiny_vl(family)
    model.save_pretrained(folder)
    keeper.save_pretrained(folder)
    return folder


def dataset(count, images=True):
    rows = [[{"role": "user", "content": question(i)}] for i in range(count)]
    content = {"prompt": rows, "number": list(range(count))}
    return Dataset.from_dict(content | ({"image": [picture(i) for i in range(count)]} if images else {}))


def reward(completions, completion_ids, number, **kwargs):
    """Different within a group, and a function of the sampled ids alone."""
    return [float(sum(ids) % 11) / 10 + 0.1 * n for ids, n in zip(completion_ids, number, strict=True)]


def half(completions, completion_ids, **kwargs):
    return [None if sum(ids) % 3 == 0 else 1.0 for ids in completion_ids]


class Keeping(CreditGRPOTrainer):
    """Keeps every batch as TRL is handed it, with the samples' numbers."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in output.items()}
        self.kept = [*getattr(self, "kept", []), kept | {"number": [row["number"] for row in inputs]}]
        self.all_rewards = self._rewards_per_func
        return output


def trainer(folder, out, credit, *, rows=8, group=4, images=True, cls=Keeping, funcs=reward, extra=None, **settings):
    options = {
        "per_device_train_batch_size": rows, "num_generations": group, "max_completion_length": 6, "max_steps": 1,
        "learning_rate": 1e-3, "temperature": 1.0, "beta": 0.0, "logging_steps": 1, "seed": 3, "use_cpu": True,
        "bf16": False, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip
    args = GRPOConfig(output_dir=str(out), **{**options, **settings})
    extra = extra or {}
    return cls(
        model=str(folder), reward_funcs=funcs, args=args, train_dataset=dataset(6, images), credit=credit, **extra
    )


def encoded(policy, i, images=True, name=None):
    """Our own prompt of row i of `dataset`: from the messages and the file, through our encoder."""
    content = [{"type": "image"}, {"type": "text", "text": question(i)}] if images else question(i)
    media = ()
    if images:
        data = io.BytesIO()
        picture(i).save(data, "PNG")
        media = (Media("image", data=data.getvalue()),)
    sample = Sample(name or str(i), ({"role": "user", "content": content},), media)
    return sample, policy.encode(sample)


def own_pipeline(folder, credit, batch, rewards, group, images=True, layout="shared", step=0, total=1, seed=3):
    """Advantages and loss mask [B,T] of our own pipeline: model, prompts and scores made by us, responses TRL's."""
    policy = Policy.load(ModelConfig(path=str(folder), layout=layout))
    pipeline = Pipeline(credit)
    plan = plan_scores(pipeline.needs(), on_policy=True)
    # Draws of masked images depend on the name of the sample, which is a hash where TRL has none.
    names = trl_batch.prompt_ids(batch)[::group]
    pairs = [encoded(policy, n, images, name) for n, name in zip(batch["number"][::group], names, strict=True)]
    valid = batch["completion_mask"].bool()
    rollouts = Rollouts(
        tokens=batch["completion_ids"],
        mask=valid,
        group=torch.arange(len(valid)) // group,
        rewards=rewards.float(),
        samples=tuple(sample for sample, _ in pairs),
    )
    for row, prompt in enumerate(prompt for _, prompt in pairs for _ in range(group)):
        sent = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        assert torch.equal(sent, prompt.tokens), "TRL and our encoder read the prompt differently"
    if plan.passes:
        if images:
            furnish_views(policy, pipeline.needs().views, seed).begin(step)
        results = policy.score([prompt for _, prompt in pairs], rollouts, plan.passes, temperature=1.0)
        rollouts = rollouts.with_signals(plan.read(results))
        if plan.old_logprobs:
            rollouts = rollouts.replace(old_logprobs=results[CLEAN]["logprobs"])
    return pipeline(rollouts, step, total)


def main(folder: str, out: str) -> None:
    """One of several processes (torchrun): a group is spread over them. Rank 0 compares."""
    from accelerate.utils import gather_object

    credit = ["grpo", {"pgpo": {"tau": 0.3}}, {"forking_tokens": {"normalizer": "kept"}}]
    each = trainer(Path(folder), out, credit, rows=3, group=6)
    each.train()
    own = each.kept[0]
    parts = gather_object(
        [
            {
                "ids": row[keep].tolist(), "prompt": ids[real].tolist(), "number": number,
                "advantages": advantage[keep].tolist(), "loss": loss[keep].tolist(),
            }
            for row, keep, ids, real, number, advantage, loss in zip(
                own["completion_ids"], own["completion_mask"].bool(), own["prompt_ids"], own["prompt_mask"].bool(),
                own["number"], own["advantages"], own.get("tool_mask", own["completion_mask"]), strict=True,
            )
        ]
    )  # fmt: skip
    if each.accelerator.process_index == 0:
        width, wide = max(len(p["ids"]) for p in parts), max(len(p["prompt"]) for p in parts)
        batch = {
            "completion_ids": torch.tensor([p["ids"] + [0] * (width - len(p["ids"])) for p in parts]),
            "completion_mask": torch.tensor([[1] * len(p["ids"]) + [0] * (width - len(p["ids"])) for p in parts]),
            "prompt_ids": torch.tensor([[0] * (wide - len(p["prompt"])) + p["prompt"] for p in parts]),
            "prompt_mask": torch.tensor([[0] * (wide - len(p["prompt"])) + [1] * len(p["prompt"]) for p in parts]),
            "number": [p["number"] for p in parts],
        }
        assert len(set(batch["number"])) == 1, "one group, spread over both processes"
        found = own_pipeline(Path(folder), credit, batch, each.all_rewards[:, 0], 6)
        for i, part in enumerate(parts):
            there = found.advantages[i, : len(part["ids"])]
            assert torch.allclose(there, torch.tensor(part["advantages"]), atol=1e-6), i
            assert found.loss_mask[i, : len(part["ids"])].long().tolist() == part["loss"], i
        assert found.advantages.abs().max() > 0.1
        (Path(out) / "agreed").write_text("yes")


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
