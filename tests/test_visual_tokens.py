"""Pooled visual tokens: worked numbers, the plain model at all tokens, one model in every pass, saving, refusals."""

from __future__ import annotations

import json

import pytest
import runs
import torch
from policy_cases import RAGGED, assert_close, both, gradients, rollouts_for, samples
from tiny import save, tiny_text, tiny_vl

from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.policy.adapters import CONFIG
from mmcredit.policy.config import LoRAConfig, ModelConfig, VisualTokens
from mmcredit.policy.load import prepare
from mmcredit.policy.passes import BLIND, CLEAN, REFERENCE, Pass
from mmcredit.policy.policy import Policy
from mmcredit.policy.views import furnish_views
from mmcredit.policy.visual_tokens import FILE, Pooler, attach, cells, kept, lookup, pooled_grid, pooler_of, resized
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.train.loop import Trainer
from mmcredit.views.images import CorruptedView, MaskedView

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
LOGPROBS = Pass(CLEAN, frozenset({"logprobs"}))


def make(family: str = "qwen2_5_vl", tokens: int | None = None, spread: float = 0.3, **options) -> Policy:
    """A tiny policy; with `tokens` pooled by two blocks whose weights are not those of a start (`spread`)."""
    model, processor = tiny_vl(family)
    asked = None if tokens is None else VisualTokens(tokens=tokens, blocks=2, heads=2)
    config = ModelConfig(path="in memory", visual_tokens=asked, **options)
    attach(model, asked, [], 0, False)
    if spread and (pooler := pooler_of(model.model)) is not None:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in pooler.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return Policy(prepare(model, config), processor.tokenizer, processor, config)


def case(policy: Policy, family: str):
    prompts = [policy.encode(s) for s in samples(family)]
    return prompts, rollouts_for(policy, len(prompts), RAGGED)


def test_worked_numbers() -> None:
    lots = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0]])
    few = torch.tensor([[1, 0.5], [0, 1]])
    scores = (few @ lots.T / 2**0.5)[None, None]
    torch.testing.assert_close(
        scores[0, 0, 0], torch.tensor([0.707107, 0.353553, 1.060660, 1.414214]), atol=1e-6, rtol=0
    )
    z = few + lookup(scores, lots[None, None])[0, 0]
    torch.testing.assert_close(z, torch.tensor([[2.257241, 0.912521], [0.830238, 1.669762]]), atol=2e-6, rtol=0)
    wanted = {
        "resoftmax": [[2.785990, 1.162591], [1.418907, 2.357384], [2.668572, 2.224899], [3.978161, 1.060615]],
        "transpose": [[1.575011, 0.452746], [0.585535, 1.683484], [1.901685, 1.811292], [3.025247, 0.634760]],
    }
    for reuse, rows in wanted.items():
        found = lots + lookup(scores, z[None, None], reuse)[0, 0]
        torch.testing.assert_close(found, torch.tensor(rows), atol=3e-6, rtol=0)


def test_grids_and_cells() -> None:
    assert [pooled_grid(4, 4, n) for n in (1, 4, 8, 15, 16, 99)] == [(1, 1), (2, 2), (2, 4), (3, 4), (4, 4), (4, 4)]
    assert pooled_grid(2, 8, 4) == (1, 4)
    assert pooled_grid(8, 2, 4) == (4, 1)
    assert cells(4, 4, (2, 2)).tolist() == [5, 7, 13, 15]
    assert cells(3, 3, (1, 1)).tolist() == [4]
    assert cells(2, 3, (2, 3)).tolist() == list(range(6))
    grid = torch.arange(16.0).view(1, 4, 4, 1)
    assert resized(grid, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]  # the mean of four
    # Two frames of 4 x 4 patches in a video behind an image of 2 x 2: text stays, and of each frame one token.
    types = torch.tensor([0, 1, 0, 2, 2, 2, 2, 0, 2, 2, 2, 2, 0])
    media = {"image_grid_thw": torch.tensor([[1, 2, 2]]), "video_grid_thw": torch.tensor([[2, 4, 4]])}
    assert kept(types, media, 2, 1).tolist() == [0, 1, 2, 6, 7, 11, 12]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tokens_and_new_weights_are_the_plain_model_to_the_bit(family: str) -> None:
    plain, pooled = make(family), make(family, tokens=10_000, spread=0)
    passes = [LOGPROBS, Pass(BLIND, frozenset({"logprobs"}))]
    found = []
    for policy in (plain, pooled):
        prompts, rollouts = case(policy, family)
        found.append((prompts, both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0))))  # noqa: B023
    for mine, theirs in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(mine.tokens, theirs.tokens)
        assert torch.equal(mine.positions, theirs.positions)
        assert theirs.visual_share == 1.0
    for mine, theirs in zip(found[0][1], found[1][1], strict=True):
        for one in passes:
            assert torch.equal(mine[one.view]["logprobs"], theirs[one.view]["logprobs"])


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_sampler_and_views_agree_on_pooled_prompts(family: str) -> None:
    policy = make(family, tokens=2)
    furnish_views(policy, {"masked": MaskedView(), "corrupted": CorruptedView(severity=(3, 3))}, 0)
    prompts, rollouts = case(policy, family)
    whole = [make(family).encode(s) for s in samples(family)]
    assert [int(p.visual.sum()) for p in prompts] == [2, 0, 2, 4]
    for mine, theirs in zip(prompts, whole, strict=True):
        assert mine.next_position == theirs.next_position
        assert mine.visual_whole == int(theirs.visual.sum())
        places = {tuple(column) for column in theirs.positions.T.tolist()}
        assert all(tuple(column) in places for column in mine.positions.T.tolist())
    from mmcredit.policy.passes import View

    names = [CLEAN, BLIND, View("masked"), View("corrupted")]
    passes = [Pass(view, frozenset({"logprobs"})) for view in names]
    shared, padded = both(policy, lambda: policy.score(prompts, rollouts, passes, temperature=1.0))
    for view in names:
        torch.testing.assert_close(shared[view]["logprobs"], padded[view]["logprobs"], atol=2e-5, rtol=0)
    with_media = [i for i, group in enumerate(rollouts.group.tolist()) if prompts[group].media_keys]
    for view in names[1:]:
        assert (shared[CLEAN]["logprobs"] - shared[view]["logprobs"])[with_media].abs().max() > 1e-3
    one, other = both(policy, lambda: gradients(policy, prompts, rollouts, [LOGPROBS]))
    assert_close(one, other, 1e-3)
    assert {n for n in one if "visual_pooler" in n} == {
        n for n in policy.trainable_parameters() if "visual_pooler" in n
    }
    asked = [Request(p, (i, i + 9), tag=i) for i, p in enumerate(prompts)]
    said = build("engine", "hf").open(policy).generate(asked, Sampling(max_new_tokens=6))
    from mmcredit.rollout.collate import collate

    sampled = collate(prompts, asked, said, policy.tokenizer.pad_token_id, samples(family))
    scored = policy.score(prompts, sampled, [LOGPROBS], temperature=1.0)[CLEAN]["logprobs"]
    torch.testing.assert_close(scored[sampled.mask], sampled.sampler_logprobs[sampled.mask], atol=2e-5, rtol=0)


def test_what_is_trained() -> None:
    policy = make(tokens=2, freeze_vision=True)
    assert any("visual_pooler" in name for name in policy.trainable_parameters())
    assert not any("visual.blocks" in name for name in policy.trainable_parameters())
    assert not policy.body.vision.frozen
    prompts, rollouts = case(policy, "qwen2_5_vl")
    policy.keep_reference()
    before = policy.score(prompts, rollouts, [LOGPROBS, Pass(REFERENCE, LOGPROBS.outputs)], temperature=1.0)
    torch.testing.assert_close(before[CLEAN]["logprobs"], before[REFERENCE]["logprobs"])
    with torch.no_grad():
        pooler_of(policy.body.base).blocks[0].out.weight.add_(0.5)
    policy.weights_changed()
    after = policy.score(prompts, rollouts, [LOGPROBS, Pass(REFERENCE, LOGPROBS.outputs)], temperature=1.0)
    assert torch.equal(before[REFERENCE]["logprobs"], after[REFERENCE]["logprobs"])
    assert (after[CLEAN]["logprobs"] - before[CLEAN]["logprobs"]).abs().max() > 1e-3
    model, _ = tiny_vl()
    asked = VisualTokens(tokens=2, train=False)
    attach(model, asked, [], 0, False)
    prepare(model, ModelConfig(path="in memory", visual_tokens=asked))
    assert not any(p.requires_grad for p in pooler_of(model.model).parameters())
    torch.manual_seed(1)
    kinds = [Pooler(64, VisualTokens(tokens=2, blocks=n, heads=2)) for n in (0, 1, 2)]
    assert [len(list(k.parameters())) for k in kinds] == [0, 24, 24 + 34]


def test_a_run_trains_counts_saves_and_loads_them(tmp_path) -> None:
    config = runs.parse(
        tmp_path, model__visual_tokens={"tokens": 2, "heads": 2}, checkpoint__final=True, run__steps=2,
        rewards=[{"function": {"path": f"{tmp_path}/vowels.py:vowels"}}, {"keep_ratio": {"weight": 0.1}}],
    )  # fmt: skip
    trainer = Trainer(config)
    trainer.run()
    run = tmp_path / "run"
    cost = json.loads((run / "cost.json").read_text())["stages"]["rollout"]
    rows = runs.metrics(run)
    assert 0 < cost["visual_tokens_kept"] < cost["visual_tokens"]
    assert rows[-1]["prompt/visual_share"] == pytest.approx(cost["visual_tokens_kept"] / cost["visual_tokens"])
    assert rows[-1]["reward/part/keep_ratio"] == pytest.approx(-rows[-1]["prompt/visual_share"])
    trained = trainer.parts.policy
    assert float(pooler_of(trained.body.base).blocks[0].out.weight.detach().abs().max()) > 0
    folder = run / "model"
    assert (folder / FILE).is_file()
    prompts = [trained.encode(s) for s in samples("qwen2_5_vl")]
    rollouts = rollouts_for(trained, len(prompts), RAGGED)
    wanted = trained.score(prompts, rollouts, [LOGPROBS], temperature=1.0)[CLEAN]["logprobs"]
    for asked in (None, VisualTokens(tokens=2, heads=2)):
        again = Policy.load(ModelConfig(path=str(folder), visual_tokens=asked))
        assert [p.tokens.tolist() for p in map(again.encode, samples("qwen2_5_vl"))] == [
            p.tokens.tolist() for p in prompts
        ]
        assert torch.equal(again.score(prompts, rollouts, [LOGPROBS], temperature=1.0)[CLEAN]["logprobs"], wanted)
        again.check_family(prompts)
    other = Policy.load(ModelConfig(path=str(folder), visual_tokens=VisualTokens(tokens=1, heads=2)))
    assert int(other.encode(samples("qwen2_5_vl")[0]).visual.sum()) == 1
    with pytest.raises(ValueError, match=r"visual_tokens\.heads is 4, but .* was trained with 2"):
        Policy.load(ModelConfig(path=str(folder), visual_tokens=VisualTokens(tokens=2)))
    from transformers import Qwen2_5_VLForConditionalGeneration

    _, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["unexpected_keys"]
    with pytest.raises(ValueError, match="pools its visual tokens"):
        build("engine", "vllm").open(again)
    adapted = Policy.load(ModelConfig(path=str(folder), lora=LoRAConfig(rank=2)))
    adapted.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / CONFIG).is_file()
    assert not any("visual_pooler" in name for name in adapted.trainable_parameters())
    back = Policy.load(ModelConfig(path=str(tmp_path / "adapter")))
    torch.testing.assert_close(
        back.score(prompts, rollouts, [LOGPROBS], temperature=1.0)[CLEAN]["logprobs"], wanted, atol=1e-5, rtol=0
    )


def test_refusals(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model\.visual_tokens pools features .* set rollout\.engine to hf"):
        runs.parse(tmp_path, model__visual_tokens={"tokens": 2}, rollout__engine="vllm")
    folder = runs.model_folder(tmp_path)
    with pytest.raises(ValueError, match="set blocks: 0"):
        Policy.load(ModelConfig(path=str(folder), visual_tokens=VisualTokens(tokens=2), lora=LoRAConfig(rank=2)))
    flat = VisualTokens(tokens=2, blocks=0)
    Policy.load(ModelConfig(path=str(folder), visual_tokens=flat, lora=LoRAConfig(rank=2))).save(tmp_path / "flat")
    assert int(Policy.load(ModelConfig(path=str(tmp_path / "flat"))).encode(samples("qwen2_5_vl")[0]).visual.sum()) == 2
    with pytest.raises(ValueError, match="does not divide the width"):
        Policy.load(ModelConfig(path=str(folder), visual_tokens=VisualTokens(tokens=2, heads=5)))
    text = save(*tiny_text(), tmp_path / "text")
    with pytest.raises(ValueError, match="Qwen-VL families"):
        Policy.load(ModelConfig(path=str(text), visual_tokens=flat))
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        VisualTokens(tokens=0)


def test_the_reward_pays_for_what_was_seen() -> None:
    reward = build("reward", "keep_ratio")
    assert reward([RewardItem("a", "b", visual_share=0.25), RewardItem("a", "b")]) == [-0.25, None]
