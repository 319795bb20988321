"""Two real training steps of every vision family, from a saved folder; models that are refused, by check and train."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from families import TILED, tiny_family
from runs import metrics, parse
from tiny import save

from mmcredit.policy.policy import Policy
from mmcredit.policy.vision import UnsupportedModel
from mmcredit.train.loop import train
from mmcredit.train.preflight.look import look


def run_config(tmp_path: Any, family: str, **changes: Any) -> Any:
    folder = tmp_path / family
    save(*tiny_family(family), folder)
    small = {"rollout__prompts": 2, "rollout__group": 3, "rollout__sampling": {"max_new_tokens": 6}}
    return parse(tmp_path, model__path=str(folder), run__steps=2, **small, **changes)


@pytest.mark.parametrize("family", TILED)
def test_two_training_steps(tmp_path, family: str) -> None:
    train(run_config(tmp_path, family, credit=["grpo", "pgpo"]))
    rows = metrics(tmp_path / "run")
    assert len(rows) == 2
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    said = " ".join(str(e.get("message", e)) for e in events)
    assert "parity: KL(sampler || trainer)" in said
    assert "image probe: hiding the image moves" in said
    assert "padded" not in said  # the shared layout is in use
    assert all(row["policy/grad_norm"] > 0 for row in rows)


def test_what_a_pass_gets_wrong_is_refused_by_check_and_train(tmp_path, monkeypatch) -> None:
    """Logits that a model scales behind its head, as others do: no pass knows of it."""
    config = run_config(tmp_path, "llava")
    kind = type(Policy.load(config.model).body.model)
    forward = kind.forward

    def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.1
        return out

    monkeypatch.setattr(kind, "forward", scaled)
    sentence = r"LlavaForConditionalGeneration cannot be trained: on sample \S+ log-probs of a pass are \S+ nats from"
    with pytest.raises(UnsupportedModel, match=sentence):
        train(config)
    found = look(config, Policy.load(config.model), 4)
    assert not found.ok
    assert any("cannot be trained" in error for error in found.errors)


def test_a_video_is_refused_with_the_reason(tmp_path) -> None:
    from mmcredit.data.sample import Media, Sample

    policy = Policy.load(run_config(tmp_path, "internvl").model)
    content = [{"type": "video"}, {"type": "text", "text": "what moves"}]
    sample = Sample("v", ({"role": "user", "content": content},), (Media("video", data=b"x"),))
    with pytest.raises(UnsupportedModel, match="sample v has a video; InternVLModel is trained on images only"):
        policy.encode(sample)


def test_freezing_the_vision_side_freezes_the_projector_and_remembers_features(tmp_path) -> None:
    for family in ("llava_onevision", "idefics3"):
        policy = Policy.load(run_config(tmp_path, family, model__freeze_vision=True).model)
        assert policy.body.vision is not None
        assert policy.body.vision.frozen
        names = set(policy.trainable_parameters())
        assert all(n.startswith(("lm_head", "model.language_model", "model.text_model")) for n in names)
        next(iter(policy.body.vision.parts.values())).requires_grad_(True)
        assert not policy.body.vision.frozen


def test_adapters_go_to_the_decoder_alone(tmp_path) -> None:
    policy = Policy.load(run_config(tmp_path, "smolvlm", model__lora={"rank": 2}).model)
    names = list(policy.trainable_parameters())
    assert names
    assert all(".text_model." in n for n in names)
    assert torch.equal(policy.trainable_parameters()[names[0]], dict(policy.model.named_parameters())[names[0]])
