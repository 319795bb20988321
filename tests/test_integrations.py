"""What plugs into other trainers, as far as it goes without them. The rest: scripts/test_integrations.sh."""

import importlib
import sys

import pytest
import torch
from tiny import tiny_image, tiny_png, tiny_vl

from mmcredit.credit import Pipeline
from mmcredit.data.sample import Media, Sample
from mmcredit.integrations import trl_batch
from mmcredit.integrations.scorer import Scorer
from mmcredit.integrations.served import refuse
from mmcredit.policy.passes import BLIND, CLEAN
from mmcredit.policy.policy import Policy
from mmcredit.signals.plan import plan_scores


@pytest.mark.parametrize(("name", "said"), [("trl", r"pip install 'mmcredit\[trl\]'"), ("verl", "--no-deps mmcredit")])
def test_without_the_library_the_error_says_what_to_install(name, said, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"mmcredit.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=said):
        importlib.import_module(f"mmcredit.integrations.{name}")


def batch(processor, questions=("how many squares", "is the circle red or is it blue"), group=2):
    """A batch as TRL has it: prompts and pixels repeated for every response, prompts padded on the left."""
    images = [tiny_image(64 + 56 * i, i) for i in range(len(questions))]
    content = [[{"type": "image"}, {"type": "text", "text": q}] for q in questions]
    texts = [
        processor.apply_chat_template([{"role": "user", "content": c}], add_generation_prompt=True, tokenize=False)
        for c in content
    ]
    repeated = [i for i in range(len(questions)) for _ in range(group)]
    processor.tokenizer.padding_side = "left"
    made = processor(
        images=[[images[i]] for i in repeated], text=[texts[i] for i in repeated], padding=True, return_tensors="pt"
    )
    generator = torch.Generator().manual_seed(0)
    rows = len(repeated)
    return {
        "prompt_ids": made["input_ids"],
        "prompt_mask": made["attention_mask"],
        "pixel_values": made["pixel_values"],
        "image_grid_thw": made["image_grid_thw"],
        "num_images": [1] * rows,
        "completion_ids": torch.randint(20, 300, (rows, 5), generator=generator),
        "completion_mask": (torch.arange(5) < torch.tensor([5, 3, 4, 0])[:, None]).long(),
        "tool_mask": torch.tensor([[1, 0, 1, 1, 1]] + [[1] * 5] * 3),
    }


def test_prompts_read_from_a_batch_are_those_of_our_encoder():
    model, processor = tiny_vl()
    policy = Policy(model, processor.tokenizer, processor)
    output = batch(processor)
    names = trl_batch.prompt_ids(output)
    assert names[0] == names[1] != names[2] == names[3]
    prompts, group = trl_batch.read_prompts(output, names, policy.body.kinds, policy.encoder.positions)
    assert group == [0, 0, 1, 1]
    for i, (prompt, text) in enumerate(
        zip(prompts, ("how many squares", "is the circle red or is it blue"), strict=True)
    ):
        content = [{"type": "image"}, {"type": "text", "text": text}]
        media = (Media("image", data=tiny_png(64 + 56 * i, i)),)
        own = policy.encode(Sample(str(i), ({"role": "user", "content": content},), media))
        for field in ("tokens", "positions", "visual"):
            assert torch.equal(getattr(prompt, field), getattr(own, field)), field
        assert prompt.next_position == own.next_position
        assert torch.equal(prompt.media["pixel_values"], own.media["pixel_values"])


def test_scores_of_a_borrowed_model_and_giving_it_back():
    model, processor = tiny_vl()
    model.set_attn_implementation("eager")
    model.train()
    model.model.visual.eval()
    before = [(m.training, getattr(getattr(m, "config", None), "_attn_implementation", "")) for m in model.modules()]
    pipeline = Pipeline(["grpo", "pgpo"])
    plan = plan_scores(pipeline.needs(), on_policy=True)
    scorer = Scorer(
        model,
        processor.tokenizer,
        processor,
        plan,
        views={},
        seed=0,
        temperature=0.7,
        layout="padded",
        score_tokens=999,
    )
    output = batch(processor)
    names = trl_batch.prompt_ids(output)
    policy = scorer.policy
    prompts, group = trl_batch.read_prompts(output, names, policy.body.kinds, policy.encoder.positions)
    rollouts = trl_batch.read_rollouts(output, group, [7])
    found = scorer(prompts, rollouts, 0)
    now = [(m.training, getattr(getattr(m, "config", None), "_attn_implementation", "")) for m in model.modules()]
    assert now == before
    other, _ = tiny_vl()
    own = Policy(other, processor.tokenizer, processor).score(prompts, rollouts, plan.passes, temperature=0.7)
    assert torch.allclose(found.old_logprobs, own[CLEAN]["logprobs"], atol=1e-4)
    assert torch.allclose(found.signals["blind_logprobs"], own[BLIND]["logprobs"], atol=1e-4)
    assert (found.signals["blind_logprobs"] - found.old_logprobs).abs().max() > 1e-3
    assert not found.mask[0, 1]
    assert found.valid[0, 1]
    assert not found.valid[3].any()


def test_a_response_without_a_score_stands_alone():
    output = {
        "completion_ids": torch.ones(4, 2, dtype=torch.int64),
        "completion_mask": torch.ones(4, 2),
    }
    rollouts = trl_batch.read_rollouts(output, [0] * 4, [1])
    rewards = torch.tensor([1.0, torch.nan, 0.0, 0.5])
    whole = trl_batch.regroup(rollouts, rewards, {}, ["a", "a", "b", "b"], [1, 1, 0, 0], 2)
    assert whole.group.tolist() == [0, 2, 1, 1]
    assert whole.mask.any(1).tolist() == [True, False, True, True]
    assert [s.id for s in whole.samples] == ["a", "b", "a"]
    assert [len(s.media) for s in whole.samples] == [1, 0, 1]


def test_images_without_patch_grids_are_refused():
    output = {"prompt_ids": torch.ones(1, 2), "num_images": [1], "pixel_values": torch.ones(1, 3, 4, 4)}
    with pytest.raises(ValueError, match="grids of patches"):
        trl_batch.row_media(output)


@pytest.mark.parametrize(
    ("credit", "scores", "loss_mask", "said"),
    [
        (["hapo"], True, True, "every mini-batch"),
        (["grpo", "pgpo"], False, True, "blind_logprobs"),
        (["nsr"], True, False, "out of the loss"),
        (["spae"], True, True, "strategy 'spae_probes'"),
        (["grpo", "opd"], True, True, "hint"),
    ],
)
def test_methods_without_a_place_are_named(credit, scores, loss_mask, said):
    with pytest.raises(ValueError, match=said):
        refuse(Pipeline(credit), "the other trainer", scores=scores, loss_mask=loss_mask)


def test_methods_with_a_place_are_let_through():
    for credit in (["grpo", "pgpo", "vppo"], ["tempo"], ["erpo"]):
        refuse(Pipeline(credit), "the other trainer", scores=True, loss_mask=True)
