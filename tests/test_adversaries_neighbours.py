"""Faults of other trainers' DPO, SFT and two-model decoding, as public bug reports tell them, tried on ours.

axolotl #1616, TRL #1073: a start token before every answer. TRL #1623: pad = end, so that the end is never taught.
LLaMA-Factory #2289, #7318: packed samples see each other, or stand at other positions. TRL #2423: reference log-probs
that belong to another pair. TRL #495, #5542: a reference without the adapter that was loaded, or with dropout.
TRL #5285, #5881: cutting to a length takes the images or the answer. sglang #24051: ids pass between vocabularies.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import save, tiny_png, tiny_text, tiny_vl
from tokenizers.processors import TemplateProcessing

from mmcredit.data.dropped import Dropped
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.decoding.base import same_vocabulary
from mmcredit.policy.config import LoRAConfig, ModelConfig
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.preference.known import Scoring
from mmcredit.preference.lesson import DPOLesson, Pairs
from mmcredit.preference.losses.dpo import DPO
from mmcredit.preference.pairs import as_rollouts, encode_pair, from_rows, load_rows
from mmcredit.supervised.taught import losses, teach

LOGPROBS = Pass(CLEAN, frozenset({"logprobs"}))


def asked(text: str, name: str = "s", **more) -> Sample:
    return Sample(name, ({"role": "user", "content": text},), **more)


def pair(policy: Policy, chosen: str, rejected: str, text: str = "how many", name: str = "s", limit: int | None = None):
    return encode_pair(asked(text, name, meta={"chosen": chosen, "rejected": rejected}), policy, None, limit)


def starting(tokenizer):
    """The tokenizer adds a start token to every text, and the template writes one as well."""
    start = "<|endoftext|>"
    number = tokenizer.convert_tokens_to_ids(start)
    tokenizer.bos_token = start
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=[(start, number)])
    tokenizer.chat_template = start + tokenizer.chat_template
    assert tokenizer("a")["input_ids"][0] == number
    return number


def test_one_start_token_and_none_before_an_answer() -> None:
    model, tokenizer = tiny_text()
    number = starting(tokenizer)
    policy = Policy(model, tokenizer)
    found = pair(policy, "there are 7", "none")
    taught = teach(asked("how many"), "there are 7", policy)
    for prompt in (policy.encode(found.sample), taught.prompt):
        assert prompt.tokens.tolist().count(number) == 1
    for answer in (found.chosen, found.rejected, taught.tokens):
        assert number not in answer


def test_the_end_is_taught_where_it_is_the_padding_too() -> None:
    model, tokenizer = tiny_text()
    tokenizer.pad_token = tokenizer.eos_token
    policy = Policy(model, tokenizer)
    found = [pair(policy, "there are 7 red squares", "no"), pair(policy, "yes", "not at all", name="t")]
    rollouts = as_rollouts(found, tokenizer.pad_token_id)
    ends = [int(rollouts.tokens[i][rollouts.mask[i]][-1]) for i in range(4)]
    assert ends == [tokenizer.eos_token_id] * 4
    # One end each: what pads the shorter answers bears nothing.
    assert [(rollouts.tokens[i][rollouts.mask[i]] == tokenizer.eos_token_id).sum().item() for i in range(4)] == [1] * 4
    examples = [
        teach(asked("how many"), "yes", policy),
        teach(asked("how many", "t"), "there are 7 red squares", policy),
    ]
    sums, counts = losses(examples, policy)
    assert counts.tolist() == [len(each.tokens) for each in examples]
    alone = torch.cat([losses([each], policy)[0] for each in examples])
    torch.testing.assert_close(sums, alone, atol=1e-4, rtol=0)


def test_a_packed_neighbour_changes_nothing() -> None:
    policy = Policy(*tiny_text())
    first = teach(asked("what is 2 + 3"), "5", policy)
    others = [
        teach(asked("how many squares", "o"), text, policy) for text in ("there are 7", "no, left of the blue one")
    ]
    found = [losses([first, other], policy)[0][0] for other in others]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_every_pair_keeps_its_own_reference_whatever_the_order_and_the_company() -> None:
    policy = Policy(*tiny_text())
    pairs = from_rows(
        [asked(f"what is {i}", f"s{i}", meta={"chosen": "red " * (i + 1), "rejected": "blue"}) for i in range(9)],
        policy, Dropped(), None, None,
    )  # fmt: skip
    known = Scoring(pairs, policy, lambda path: policy).known(None)
    lesson = DPOLesson(policy, DPO(), Pairs(pairs, known, None), Pairs([], known, None), seed=3, token_budget=64)
    for _ in range(3):
        drawn = [lesson.stream.take(4)[i][0] for i in (2, 0, 3, 1)]
        prompts, rollouts = [lesson.encode(p) for p in drawn], as_rollouts(drawn, 0)
        score = policy.forward(prompts, rollouts, range(8), [LOGPROBS], temperature=1.0)[CLEAN]["logprobs"]
        loss, _ = lesson._losses(range(8), drawn, rollouts, score, lesson.train)
        torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)), atol=1e-5, rtol=0)


def test_the_reference_is_the_adapter_that_was_loaded_and_has_no_dropout(tmp_path) -> None:
    base = save(*tiny_text(), tmp_path / "base")
    first = Policy.load(ModelConfig(path=str(base), lora=LoRAConfig(rank=2)))
    with torch.no_grad():
        for parameter in first.trainable_parameters().values():
            parameter.add_(0.05)
    first.save(tmp_path / "adapter")
    policy = Policy.load(ModelConfig(path=str(tmp_path / "adapter"), lora=LoRAConfig(rank=2, dropout=0.5)))
    pairs = [pair(policy, "there are 7", "none")]
    one, two = (Scoring(pairs, policy, lambda path: policy).known(None).ref_logprobs[0][0] for _ in range(2))
    assert torch.equal(one, two)
    bare = Policy.load(ModelConfig(path=str(base)))
    without = Scoring(pairs, bare, lambda path: bare).known(None).ref_logprobs[0][0]
    again = Policy.load(ModelConfig(path=str(tmp_path / "adapter")))
    merged = Scoring(pairs, again, lambda path: again).known(None).ref_logprobs[0][0]
    torch.testing.assert_close(one, merged, atol=1e-4, rtol=0)
    assert (one - without).abs().max() > 1e-3


def test_nothing_is_cut_neither_image_nor_answer() -> None:
    model, processor = tiny_vl()
    policy = Policy(model, processor.tokenizer, processor)
    parts = [{"type": "image"}, {"type": "text", "text": "how many"}]
    rows = [
        Sample(name, ({"role": "user", "content": parts},), (Media("image", data=tiny_png(64, 0)),), None,
               {"chosen": "there are " + "7 " * count, "rejected": "no"})
        for name, count in (("short", 1), ("long", 60))
    ]  # fmt: skip
    dropped = Dropped()
    found = from_rows(rows, policy, dropped, None, 40)
    assert dropped.counts == {"too long": 1}
    assert [each.name for each in found] == ["short"]
    prompt = policy.encode(found[0].sample)
    assert int(prompt.visual.sum()) == int(prompt.media["image_grid_thw"].prod()) // 4
    assert policy.decode(found[0].chosen).strip() == "there are 7"
    with pytest.raises(ValueError, match="more than data.max_tokens=40"):
        teach(rows[1], "there are " + "7 " * 60, policy, max_tokens=40)


def test_answers_that_differ_as_text_and_not_as_ids_are_equal() -> None:
    policy = Policy(*tiny_text())  # its tokenizer composes characters (NFC)
    with pytest.raises(ValueError, match="both answers are equal"):
        pair(policy, "caf\u00e9", "cafe\u0301")


def test_a_preference_row_with_a_chat_repeats_its_prompt_once(tmp_path) -> None:
    chat = [{"role": "user", "content": "how many"}, {"role": "assistant", "content": "7"}]
    rows = [{"prompt": chat[:1], "chosen": chat, "rejected": [chat[0], {"role": "assistant", "content": "8"}]}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n")
    policy = Policy(*tiny_text())
    (found,) = from_rows(
        load_rows({"jsonl": {"path": str(tmp_path / "rows.jsonl")}}, MediaLimits()), policy, Dropped(), None, None
    )
    assert policy.decode(policy.encode(found.sample).tokens.tolist()).count("how many") == 1
    assert (policy.decode(found.chosen), policy.decode(found.rejected)) == ("7", "8")


def test_two_models_whose_ids_mean_other_tokens_never_meet() -> None:
    one, other = Policy(*tiny_text()), Policy(*tiny_text())
    state = json.loads(other.tokenizer._tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isalpha()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    other.tokenizer._tokenizer = type(other.tokenizer._tokenizer).from_str(json.dumps(state))
    assert len(one.tokenizer) == len(other.tokenizer)
    with pytest.raises(ValueError, match=r"different vocabularies \(2 tokens"):
        same_vocabulary(one, other)
