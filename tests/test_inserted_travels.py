"""What was inserted goes along: frozen batches, other ranks, joined batches, the sample table and the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from video_cases import inserted_batch, question

from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Sample
from mmcredit.frozen import freeze, thaw
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.pixels import Pixels
from mmcredit.report.gallery import build_gallery
from mmcredit.report.samples import MediaStore, SampleWriter, read_samples
from mmcredit.rollout.batch import Batch, join
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response
from mmcredit.rollouts import Credit, Inserted
from mmcredit.train.sample_table import sample_rows
from mmcredit.train.sharing import _heard, _told

CLEAN_ONLY = [Pass(CLEAN, frozenset({"logprobs"}))]


def samples() -> tuple[Sample, ...]:
    return (
        question("a"),
        question("b", b"other", "how many"),
        Sample("t", ({"role": "user", "content": "what is left"},)),
    )


def test_a_frozen_batch_scores_as_before(tmp_path: Path) -> None:
    policy, prompts, rollouts = inserted_batch("qwen2_5_vl")
    rollouts = rollouts.replace(samples=samples())
    config = {"data": {"media": MediaLimits().model_dump(mode="json")}}
    again = thaw(freeze(tmp_path, rollouts, 3, 10, config, policy.tokenizer)).rollouts
    assert again.inserted is not None
    assert [[one.at for one in own] for own in again.inserted] == [[one.at for one in own] for own in rollouts.inserted]
    assert again.inserted[0][0].piece is again.inserted[2][0].piece, "a window is stored once"
    scored = [policy.score(prompts, r, CLEAN_ONLY, temperature=1.0)[CLEAN]["logprobs"] for r in (rollouts, again)]
    assert torch.equal(*scored)


def test_responses_of_other_ranks_arrive_whole() -> None:
    _, prompts, rollouts = inserted_batch("qwen3_vl")
    responses = [
        Response(0, i, rollouts.tokens[i, :n].tolist(), [0.5] * n, "stop", {"note": 1.0}, rollouts.inserted[i])
        for i, n in enumerate(rollouts.valid.sum(1).tolist()[:4])
    ]
    heard = _heard(json.loads(json.dumps(_told(responses))))
    for one, two in zip(responses, heard, strict=True):
        assert (one.tokens, one.logprobs, one.finish, one.notes) == (two.tokens, two.logprobs, two.finish, two.notes)
        for a, b in zip(one.inserted, two.inserted, strict=True):
            assert a.at == b.at
            assert a.piece.media_keys == b.piece.media_keys
            for name, value in a.piece.media.items():
                assert torch.equal(value, b.piece.media[name]), name
            assert torch.equal(a.piece.positions, b.piece.positions)
    request = Request(prompts[0], range(4))
    pads = [collate([prompts[0]], [request], found, 0) for found in (responses, heard)]
    assert torch.equal(pads[0].mask, pads[1].mask)
    assert torch.equal(pads[0].mask, rollouts.mask[:4, : pads[0].mask.shape[1]])
    plain = [Response(0, 0, [1, 2], [0.1, 0.2], "length")]
    assert _told(plain) == {"said": [asdict(plain[0])], "inserted": None}


def test_collate_counts_from_the_prefix() -> None:
    _, prompts, rollouts = inserted_batch("qwen3_vl")
    one = rollouts.inserted[1][0]
    tokens = rollouts.tokens[1, : int(rollouts.valid[1].sum())].tolist()
    response = Response(0, 0, tokens, [0.0] * len(tokens), "stop", {}, (one,))
    assert response.sampled == 8
    found = collate([prompts[0]], [Request(prompts[0], [0], prefix=(5, 6, 7))], [response], 0)
    assert found.inserted == ((Inserted(one.at + 3, one.piece),),)
    assert int(found.mask.sum()) == 8


def test_batches_join_with_and_without() -> None:
    _, prompts, rollouts = inserted_batch("qwen3_vl")
    texts = [""] * len(rollouts)
    whole = Batch(list(samples()), prompts, rollouts.replace(samples=samples()), texts)
    plain = whole.select([3, 8])
    plain = plain.replace_rollouts(plain.rollouts.replace(inserted=None))
    joined = join([plain, whole], 0)
    assert joined.rollouts.inserted == ((), (), *rollouts.inserted)
    assert join([plain, plain], 0).rollouts.inserted is None
    assert whole.select([4]).rollouts.inserted == (rollouts.inserted[4],)


def test_the_sample_table_and_the_page_show_the_frames(tmp_path: Path) -> None:
    policy, prompts, rollouts = inserted_batch("qwen3_vl")
    texts = ["a text"] * len(rollouts)
    rows = sample_rows(
        rollouts, Credit.empty(rollouts), torch.zeros(rollouts.tokens.shape), samples(), texts, policy.tokenizer,
        MediaStore(tmp_path), MediaLimits(), 3, {}, prompts, Pixels(policy.processor),
    )  # fmt: skip
    SampleWriter(tmp_path).write(0, rows)
    table = read_samples(tmp_path / "samples" / "step-000000.parquet")
    first = table[0]
    assert [(one["at"], one["count"]) for one in first["inserted"]] == [
        (o.at, o.end - o.at) for o in rollouts.inserted[0]
    ]
    assert [len(one["media"]) for one in first["inserted"]] == [4, 4]
    assert len(first["media"]) == 4, "frames of the video in the prompt"
    assert first["inserted"][0]["media"] == table[2]["inserted"][0]["media"]
    long = next(row for row in table if row["sample_id"] == "b")
    assert len(long["inserted"][0]["media"]) == 8, "twelve frames, eight of them shown"
    assert table[3]["inserted"] == []
    assert not any(first["mask"][first["inserted"][0]["at"] :][: first["inserted"][0]["count"]])
    gallery = build_gallery(tmp_path, SampleWriter.find(tmp_path), 10_000_000)
    (group, *_) = gallery.steps[0]["groups"]
    assert [len(one["media"]) for one in group["members"][0]["inserted"]] == [4, 4]
    assert all(gallery.media[place] for one in group["members"][0]["inserted"] for place in one["media"])
    small = build_gallery(tmp_path, SampleWriter.find(tmp_path), 3000)
    assert small.bytes <= 3000


@pytest.mark.parametrize("place", [0, 5])
def test_costs_count_visual_tokens_of_pieces(place: int) -> None:
    policy, prompts, rollouts = inserted_batch("qwen3_vl")
    micro = policy.micro_batches(prompts, rollouts.select([place]), budget=10_000, layout="padded")
    assert micro[0].tokens == len(prompts[int(rollouts.group[place])]) + int(rollouts.valid[place].sum())
