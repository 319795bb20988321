"""`mmcredit dpo`: pairs from rows and from runs, the lesson, the commands, bad input."""

import json
import shutil

import pytest
import torch
from tiny import save, tiny_png, tiny_text, tiny_vl

from mmcredit import cli
from mmcredit.components import build
from mmcredit.config import OptimizerBlock
from mmcredit.data.dropped import Dropped, UnusableSample
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Media, Sample
from mmcredit.frozen import freeze
from mmcredit.policy.policy import Policy
from mmcredit.preference.base import weighted_dpo
from mmcredit.preference.config import FromRunBlock
from mmcredit.preference.from_run import from_run, split
from mmcredit.preference.known import Scoring, rewritten
from mmcredit.preference.lesson import DPOLesson, Pairs
from mmcredit.preference.pairs import answer_of, as_rollouts, encode_pair, from_rows, load_rows
from mmcredit.rollouts import Rollouts
from mmcredit.world import ALONE

ROWS = [
    {"prompt": "what is 2 + 3", "chosen": "5", "rejected": "there are 6"},
    {"prompt": [{"role": "user", "content": "how many"}], "chosen": [{"role": "assistant", "content": "7 red"}],
     "rejected": [{"role": "assistant", "content": "8 blue squares"}]},
    {"prompt": "is it red", "chosen": "yes", "rejected": "no"},
]  # fmt: skip
BAD = [
    {"prompt": "same", "chosen": "a", "rejected": "a"},
    {"prompt": "none", "chosen": " ", "rejected": "a"},
    {"prompt": "one side", "chosen": "a"},
    {"prompt": "odd", "chosen": "a", "rejected": 3},
    {"prompt": "ends", "chosen": "a <|im_end|>", "rejected": "b"},
]


def text_policy():
    return Policy(*tiny_text())


def write(folder, rows, name="pairs.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def read(folder, rows, policy, name="pairs.jsonl"):
    dropped = Dropped()
    samples = load_rows({"jsonl": {"path": write(folder, rows, name)}}, MediaLimits())
    return from_rows(samples, policy, dropped, None, None), dropped


def test_rows_in_trl_columns_become_pairs_and_the_others_are_counted(tmp_path):
    policy = text_policy()
    pairs, dropped = read(tmp_path, [*ROWS, *BAD], policy)
    assert [pair.number for pair in pairs] == [0, 1, 2]
    end = policy.eos_token_ids[0]
    assert [policy.decode(pair.chosen) for pair in pairs] == ["5", "7 red", "yes"]
    assert all(pair.rejected[-1] == end for pair in pairs)
    assert dropped.counts == {
        "equal answers": 1, "chosen empty": 1, "rejected missing": 1, "rejected malformed": 1,
        "reserved token in the target": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="none of the 2 rows is a usable pair"):
        read(tmp_path, BAD[:2], policy, "bad.jsonl")
    rollouts = as_rollouts(pairs, 0)
    assert rollouts.group.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_chat_in_chosen_brings_its_prompt(tmp_path):
    policy = text_policy()
    ask = {"role": "user", "content": "what is there"}
    say = lambda text: {"role": "assistant", "content": text}  # noqa: E731
    rows = [
        {"chosen": [ask, say("a square")], "rejected": [ask, say("a circle")]},
        {"chosen": [ask, say("a")], "rejected": [{"role": "user", "content": "other"}, say("b")]},
    ]
    pairs, dropped = read(tmp_path, rows, policy)
    assert [policy.decode(p.chosen) for p in pairs] == ["a square"]
    assert pairs[0].sample.messages == (ask,)
    assert dropped.counts == {"prompts differ": 1}
    with pytest.raises(UnusableSample, match="text or messages"):
        answer_of([], Sample("s", (ask,)), "chosen")


def engine_of(policy):
    block = OptimizerBlock(learning_rate=1e-3, max_grad_norm=None)
    return build("train_engine", "local").open(policy, block, 1, ALONE)


def gradients(policy):
    found = {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}
    for parameter in policy.trainable_parameters().values():
        parameter.grad = None
    return found


def lesson_of(policy, pairs, loss, budget=10**6):
    scoring = Scoring(pairs, policy, lambda path: text_policy())
    known = scoring.known(None)
    values = loss.values(pairs, known, scoring)
    return DPOLesson(
        policy, loss, Pairs(pairs, known, values), Pairs(pairs, known, values), seed=0, token_budget=budget
    )


def summed(policy, sample, ids):
    """log p of an answer by transformers alone."""
    prompt = policy.encode(sample).tokens
    row = torch.cat([prompt, torch.tensor(ids)])[None]
    with torch.enable_grad():
        logits = policy.model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_a_step_is_dpo_of_transformers_own_log_probs(tmp_path):
    policy = text_policy()
    pairs, _ = read(tmp_path, ROWS, policy)
    loss = build("preference", {"dpo": {"beta": 0.5}})
    lesson = lesson_of(policy, pairs, loss)
    with torch.no_grad():  # away from the reference
        for i, parameter in enumerate(policy.trainable_parameters().values()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    drawn = [(pair, lesson.encode(pair)) for pair in pairs]
    engine = engine_of(policy)
    metrics = lesson.step(drawn, engine)
    packed = gradients(policy)
    lesson.token_budget = 1  # one pair at a time
    assert lesson.step(drawn, engine)["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    apart = gradients(policy)
    wanted = []
    for pair, (ref_w, ref_l) in zip(pairs, lesson.train.known.ref_logprobs, strict=True):
        w, r = summed(policy, pair.sample, pair.chosen), summed(policy, pair.sample, pair.rejected)
        wanted.append(weighted_dpo(w, ref_w, None, r, ref_l, None, 0.5))
    whole = torch.stack(wanted).mean()
    whole.backward()
    assert metrics["loss"] == pytest.approx(whole.item(), abs=1e-5)
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-6)
    assert metrics["lesson/margin"] == pytest.approx(metrics["rewards/chosen"] - metrics["rewards/rejected"], abs=1e-6)


def test_before_training_the_policy_is_the_reference(tmp_path):
    policy = text_policy()
    pairs, _ = read(tmp_path, ROWS, policy)
    told = []
    lesson = lesson_of(policy, pairs, build("preference", "dpo"))
    found = lesson.held_out(told.append)
    assert found["accuracy"].interval().value == 0.5
    assert found["margin"].interval().value == 0
    assert sum(told) == len(pairs)


LOSSES = [
    {"tgdpo": {"signal": "entropy", "scale": -0.1}},
    {"tgdpo": {"signal": "hallucinated", "scale": -1.0}},
    {"t_reg": {}},
    {"t_reg": {"variant": "P", "zero_first": True}},
    {"tab_po": {}},
    {"tab_po": {"signal": "entropy", "strength": 0.5}},
]


@pytest.mark.parametrize("entry", LOSSES, ids=str)
def test_every_source_of_token_values_reaches_the_loss(tmp_path, entry):
    policy = text_policy()
    rows = [{**row, "chosen_spans": [], "rejected_spans": [[0, 2]]} for row in ROWS]
    pairs, _ = read(tmp_path, rows, policy)
    lesson = lesson_of(policy, pairs, build("preference", entry))
    metrics = lesson.step([(pair, lesson.encode(pair)) for pair in pairs], engine_of(policy))
    own, plain = gradients(policy), lesson_of(policy, pairs, build("preference", {"dpo": {"beta": lesson.loss.beta}}))
    plain.step([(pair, plain.encode(pair)) for pair in pairs], engine_of(policy))
    assert metrics["loss"] > 0
    assert any(not torch.equal(own[name], other) for name, other in gradients(policy).items())


def test_reward_models_imply_token_rewards_and_share_the_vocabulary(tmp_path):
    policy = text_policy()
    pairs, _ = read(tmp_path, ROWS, policy)
    loss = build("preference", {"tgdpo": {"reward_model": "other", "beta_reward": 2.0}})
    other = Policy(*tiny_text(seed=5))
    scoring = Scoring(pairs, policy, lambda path: other)
    values = loss.values(pairs, scoring.known(None), scoring)
    expected = 2.0 * (
        summed(other, pairs[0].sample, pairs[0].chosen) - summed(policy, pairs[0].sample, pairs[0].chosen)
    )
    torch.testing.assert_close(values[0][0], expected.detach(), atol=1e-4, rtol=1e-4)
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="same vocabulary"):
        scoring.logprobs_of("other")
    with pytest.raises(ValueError, match="chosen_spans"):
        scoring.signal("hallucinated")
    with pytest.raises(ValueError, match="no number of a pass"):
        scoring.signal("unit_id")


def test_images_stay_in_pairs_and_in_rewritten_prompts():
    model, processor = tiny_vl(max_pixels=56 * 56)
    policy = Policy(model, processor.tokenizer, processor)
    content = [{"type": "image"}, {"type": "text", "text": "what is there"}]
    sample = Sample(
        "i", ({"role": "user", "content": content},), (Media("image", data=tiny_png(56)),),
        meta={"chosen": "a red square", "rejected": "a blue circle"},
    )  # fmt: skip
    pair = encode_pair(sample, policy, None, None)
    asked = rewritten(sample, "do it again")
    assert asked.messages[0]["content"][0] == {"type": "image"}
    lesson = lesson_of(policy, [pair], build("preference", "t_reg"))
    assert lesson.step([(pair, lesson.encode(pair))], engine_of(policy))["loss"] > 0
    with pytest.raises(UnusableSample, match="max_tokens=5"):
        encode_pair(sample, policy, None, 5)


def frozen_run(folder, policy, signals=True):
    """Two groups of four: one with right and wrong answers, one all wrong."""
    words = ["5", "six", "5 red", "5", "no", "no", "no", "no"]
    ids = [[*policy.tokenizer(w)["input_ids"], policy.eos_token_ids[0]] for w in words]
    width = max(map(len, ids))
    tokens = torch.zeros(8, width, dtype=torch.int64)
    mask = torch.zeros(8, width, dtype=torch.bool)
    for i, own in enumerate(ids):
        tokens[i, : len(own)], mask[i, : len(own)] = torch.tensor(own), True
    right = torch.tensor([1.0, 0, 1, 1, 0, 0, 0, 0])
    flagged = torch.zeros(8, width)
    flagged[2, 0] = flagged[4, 0] = 1
    samples = tuple(Sample(f"q{i}", ({"role": "user", "content": f"what is {i}"},)) for i in range(2))
    truncated = torch.tensor([True, *[False] * 7])
    rollouts = Rollouts(
        tokens, mask, torch.arange(8) // 4, right, reward_parts={"number": right}, truncated=truncated,
        signals={"hallucinated": flagged} if signals else {}, samples=samples,
    )  # fmt: skip
    config = {"data": {"media": MediaLimits().model_dump(mode="json")}, "evaluate": {"reward": None}}
    freeze(folder / "rollouts", rollouts, 0, 1, config, policy.tokenizer)
    return folder


def test_pairs_of_a_run_by_reward_and_by_verifier(tmp_path):
    policy = text_policy()
    run = frozen_run(tmp_path / "run", policy)
    dropped = Dropped()
    pairs = from_run(FromRunBlock(run=run, per_group=9), policy, 0, dropped)
    texts = {(policy.decode(p.chosen), policy.decode(p.rejected)) for p in pairs}
    assert texts == {("5 red", "six"), ("5", "six")}
    assert len(pairs) == 2  # the cut answer is never chosen
    assert dropped.counts == {"nothing to choose in the group": 1}
    assert pairs[0].given["hallucinated"][0].shape == (len(pairs[0].chosen),)
    again = from_run(FromRunBlock(run=run, per_group=9), policy, 0, Dropped())
    assert [p.chosen for p in again] == [p.chosen for p in pairs]
    dropped = Dropped()
    pairs = from_run(FromRunBlock(run=run, by="verifier", per_group=1), policy, 0, dropped)
    assert {policy.decode(p.rejected) for p in pairs} == {"5 red"}
    assert dropped.counts == {"equal answers": 1}
    train, held_out = split(pairs * 3, 0.5, seed=1)
    assert len(train) in (0, 3)
    assert len(train) + len(held_out) == 3
    with pytest.raises(ValueError, match="no reward part 'x'"):
        from_run(FromRunBlock(run=run, part="x"), policy, 0, Dropped())
    with pytest.raises(ValueError, match="give no pair"):
        from_run(FromRunBlock(run=run, threshold=2.0), policy, 0, Dropped())
    with pytest.raises(ValueError, match="verifier"):
        from_run(FromRunBlock(run=frozen_run(tmp_path / "b", policy, False), by="verifier"), policy, 0, Dropped())
    policy.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="same vocabulary"):
        from_run(FromRunBlock(run=run), policy, 0, Dropped())


def test_the_command_trains_resumes_and_takes_runs(tmp_path, capsys):
    policy = text_policy()
    model = save(*tiny_text(), tmp_path / "model")
    rows = [{"prompt": f"what is {i}", "chosen": "red square", "rejected": "blue"} for i in range(12)]
    path = write(tmp_path, [*rows, BAD[0]])
    config = tmp_path / "dpo.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\nmodel: {{path: {model}}}\n"
        f"data: {{train: {{jsonl: {{path: {path}}}}}, evaluate: {{jsonl: {{path: {path}}}}}}}\n"
        "train: {batch: 4, epochs: 2, learning_rate: 1e-3}\ncheckpoint: {every: 3, keep: 9}\n"
        "log: {tensorboard: false}\n"
    )
    assert cli.main(["dpo", str(config), "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main(["dpo", str(config)]) == 0
    said = capsys.readouterr().out
    assert "equal answers: 2" in said
    assert "accuracy change (paired)" in said
    lines = [json.loads(line) for line in (tmp_path / "run/held_out.jsonl").read_text().splitlines()]
    last = {row["name"]: row["value"] for row in lines if row["step"] == 6}
    assert last["accuracy"] == 1.0
    assert last["loss"] < 0.6
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run/checkpoints/step-000006")
    assert cli.main(["dpo", str(config), "--resume"]) == 0
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
    run = frozen_run(tmp_path / "rl", policy)
    words = ["data.evaluate=null", "data.from_run.held_out=0", "data.from_run.per_group=9", "loss={tab_po: {}}"]
    assert cli.main(["dpo", str(config), "--from-run", str(run), f"run.dir={tmp_path / 'b'}", *words]) == 0
    assert "2 pairs" in capsys.readouterr().out
    for more, told in (
        (["data.train=null"], "exactly one"),
        (["loss=dp"], "did you mean 'dpo'"),
        (["loss={tgdpo: {}}"], "exactly one"),
        (["data.train.jsonl.path=/none"], "none"),
    ):
        assert cli.main(["dpo", str(config), *more]) == 2
        assert told in capsys.readouterr().err
