"""Targets with calls: the frames are inserted as a rollout inserts them, read and not taught."""

from dataclasses import replace

import pytest
import torch
from test_video_rollout import OK, asked, tagged

import video.components  # noqa: F401
from mmcredit.components import build
from mmcredit.data.dropped import UnusableSample
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.supervised.config import TeachBlock
from mmcredit.supervised.sft import Examples, fit_batch
from mmcredit.supervised.taught import as_rollouts, losses

FIELDS = {"retrieval": {"max_inserted_tokens": 2000, "max_frames": 4}}


def example(policy, sample, target, **fields):
    data = TeachBlock(train="sums", insert=FIELDS, target="target", max_tokens=None, **fields)
    return Examples(policy, data)(type(sample)(sample.id, sample.messages, sample.media, "red", {"target": target}))[0]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_frames_are_read_behind_the_call_and_not_taught(tmp_path, family):
    policy = tagged(family)
    sample = asked(tmp_path, "v")
    found = example(policy, sample, OK)
    plain = policy.tokenizer(OK, add_special_tokens=False)["input_ids"]
    sampled = [token for token, taught in zip(found.tokens, found.mask, strict=True) if taught]
    assert sampled == [*plain, policy.eos_token_ids[0]]
    (one,) = found.inserted
    assert found.tokens[one.at - 1] == policy.tokenizer.convert_tokens_to_ids("</fps>")
    assert list(found.tokens[one.at : one.end]) == one.piece.tokens.tolist()
    assert not any(found.mask[one.at : one.end])
    assert all(found.mask[: one.at])
    assert "pixel_values_videos" in one.piece.media
    total, count = losses([found], policy)
    assert int(count[0]) == len(sampled)
    assert bool(torch.isfinite(total).all())


def test_what_is_read_changes_what_follows_and_nothing_before(tmp_path):
    policy = tagged()
    sample = asked(tmp_path, "v")
    one = example(policy, sample, OK)
    other = example(policy, sample, OK.replace("2.00 - 4.00", "5.00 - 7.00"))
    (here,), (there,) = one.inserted, other.inserted
    # The same target, with the frames of another window: only what stands behind them may change.
    tokens = [*one.tokens[: here.at], *there.piece.tokens.tolist(), *one.tokens[here.end :]]
    assert len(tokens) == len(one.tokens)
    swapped = replace(one, tokens=tuple(tokens), inserted=(replace(here, piece=there.piece),))
    scores = [
        policy.score([e.prompt], as_rollouts([e], 0), [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)[CLEAN]
        for e in (one, swapped)
    ]
    first, second = (s["logprobs"][0] for s in scores)
    torch.testing.assert_close(first[: here.at], second[: here.at])
    assert float((first[here.end :] - second[here.end :]).abs().max()) > 1e-5


def test_a_batch_is_as_good_as_one_at_a_time(tmp_path):
    policy = tagged()
    batch = [
        example(policy, asked(tmp_path, "a"), OK),
        example(policy, asked(tmp_path, "b"), "no call"),
        example(policy, asked(tmp_path, "c"), OK.replace("4.00", "8.00")),
    ]
    together, counts = losses(batch, policy)
    apart = torch.cat([losses([each], policy)[0] for each in batch])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)
    from test_supervised import engine_of

    metrics = fit_batch(batch, policy, engine_of(policy), token_budget=100_000)
    assert metrics["loss"] == pytest.approx(float(apart.sum() / counts.sum()), rel=1e-4)
    assert metrics["sft/tokens"] == float(counts.sum())


@pytest.mark.parametrize(
    "target",
    [
        OK.replace("2.00 - 4.00", "4.00 - 2.00"),  # malformed
        OK.replace("2.00 - 4.00", "90.0 - 99.0"),  # empty
        f"{OK} {OK}",  # one call too many
    ],
)
def test_targets_whose_call_cannot_be_answered_are_left_out(tmp_path, target):
    policy = tagged()
    with pytest.raises(UnusableSample, match="sample v: nothing can be inserted behind token") as caught:
        example(policy, asked(tmp_path, "v"), target)
    assert caught.value.reason == "call not answered"


def test_what_inserts_nothing_is_refused(tmp_path):
    from mmcredit.supervised.config import SFTConfig

    fields = {"model": {"path": "x"}, "data": {"train": "sums", "insert": "overlong_filter"}}
    with pytest.raises(ValueError, match="'overlong_filter' inserts nothing into responses"):
        SFTConfig.model_validate(fields)
    assert build("strategy", FIELDS).name == "retrieval"
