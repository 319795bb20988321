"""`mmcredit sft`: what is taught, the loss, packing, resume, bad input, and the command."""

import json

import pytest
import torch
from tiny import save, tiny_png, tiny_text, tiny_vl

from mmcredit import cli
from mmcredit.components import build
from mmcredit.config import OptimizerBlock
from mmcredit.data.dropped import Dropped, UnusableSample
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.policy import Policy
from mmcredit.supervised.config import SFTConfig, load
from mmcredit.supervised.held_out import Measured
from mmcredit.supervised.loop import Fit
from mmcredit.supervised.sft import Examples, fit_batch, target_of
from mmcredit.supervised.taught import Taught, end_of_turn, losses, teach, token_weights, turns
from mmcredit.world import ALONE


def text_policy():
    model, tokenizer = tiny_text()
    return Policy(model, tokenizer)


def sample(question, id="s", **more):
    return Sample(id, ({"role": "user", "content": question},), **more)


def batch_of(policy):
    pairs = [("what is 2 + 3", "5"), ("how many squares are there", "there are 7 red squares"), ("answer", "no")]
    return [teach(sample(q, f"s{i}"), a, policy) for i, (q, a) in enumerate(pairs)]


def engine_of(policy):
    block = OptimizerBlock(learning_rate=1e-3, max_grad_norm=None)
    return build("train_engine", "local").open(policy, block, 1, ALONE)


def gradients(policy):
    found = {n: p.grad.clone() for n, p in policy.trainable_parameters().items() if p.grad is not None}
    for parameter in policy.trainable_parameters().values():
        parameter.grad = None
    return found


def own_loss(policy, each):
    """-log p of the target by transformers alone: prompt and target in one row, prompt masked."""
    ids = torch.cat([each.prompt.tokens, torch.tensor(each.tokens)])[None]
    labels = ids.clone()
    labels[:, : len(each.prompt)] = -100
    with torch.enable_grad():
        logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("average", ["tokens", "samples"])
def test_packing_is_exact_in_value_and_gradient(average):
    model, tokenizer = tiny_text()
    policy = Policy(model, tokenizer)
    batch = batch_of(policy)
    engine = engine_of(policy)
    packed = fit_batch(batch, policy, engine, token_budget=10**6, average=average)
    whole = gradients(policy)
    alone = fit_batch(batch, policy, engine, token_budget=1, average=average)
    apart = gradients(policy)
    total = sum(len(each.tokens) for each in batch)
    weights = [1 / total if average == "tokens" else 1 / len(each.tokens) / len(batch) for each in batch]
    loss = sum(own_loss(policy, each) * w for each, w in zip(batch, weights, strict=True))
    loss.backward()
    plain = gradients(policy)
    assert packed["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert alone["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert packed["sft/tokens"] == total
    for name, gradient in plain.items():
        for other in (whole, apart):
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-6)


def test_images_are_taught_too_and_prompt_tokens_bear_no_loss():
    model, processor = tiny_vl(max_pixels=56 * 56)
    policy = Policy(model, processor.tokenizer, processor)
    content = [{"type": "image"}, {"type": "text", "text": "what is there"}]
    shown = Sample("i", ({"role": "user", "content": content},), (Media("image", data=tiny_png(56)),))
    each = teach(shown, "a red square", policy)
    assert each.tokens[-1] == policy.eos_token_ids[0]
    batch = [each, teach(sample("what is 2"), "2", policy)]
    metrics = fit_batch(batch, policy, engine_of(policy), token_budget=10**6)
    found, counts = losses(batch, policy)
    assert metrics["loss"] == pytest.approx(float(found.sum() / counts.sum()), rel=1e-5)
    assert metrics["sft/tokens"] == len(each.tokens) + len(batch[1].tokens)


def test_tokens_that_are_only_read_change_nothing_but_what_follows():
    policy = text_policy()
    (each,) = [teach(sample("what is 2 + 3"), "the answer is 5", policy)]
    last = len(each.tokens) - 1
    part = Taught(each.prompt, each.tokens, tuple(i == last for i in range(len(each.tokens))))
    whole, _ = losses([Taught(each.prompt, each.tokens[:-1]), each], policy)
    only, count = losses([part], policy)
    assert int(count[0]) == 1
    assert float(only[0]) == pytest.approx(float(whole[1] - whole[0]), abs=1e-4)
    with pytest.raises(ValueError, match="says 1"):
        Taught(each.prompt, each.tokens, (True,))
    with pytest.raises(ValueError, match="none of the target"):
        Taught(each.prompt, each.tokens[:2], (False, False))
    with pytest.raises(ValueError, match="nothing to teach"):
        Taught(each.prompt, ())


def test_a_target_ends_as_turns_of_the_template_do():
    policy = text_policy()
    end, other = policy.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert end_of_turn(policy) == end
    assert other < end
    policy.eos_token_ids = (other, end)  # Qwen's generation config knows both
    assert end_of_turn(policy) == end
    assert teach(sample("q"), "a", policy).tokens[-1] == end
    policy.tokenizer.chat_template = "{{ messages[-1]['content'] }}<|endoftext|>"
    assert end_of_turn(policy) == other
    policy.tokenizer.chat_template = "{{ messages[-1]['content'] }} that was all"
    assert end_of_turn(policy) == policy.tokenizer.eos_token_id == end
    policy.eos_token_ids = ()
    with pytest.raises(ValueError, match="no end-of-sequence"):
        end_of_turn(policy)


def test_weights_are_means():
    keep = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    assert token_weights(keep, "tokens").sum() == pytest.approx(1.0)
    torch.testing.assert_close(token_weights(keep, "samples"), torch.tensor([[0.25, 0.25, 0], [0, 0, 0], [0.5, 0, 0]]))


def test_targets_come_from_columns_references_and_chats():
    policy = text_policy()
    assert target_of(sample("q", answer="5"), None) == "5"
    assert target_of(sample("q", answer="5", meta={"completion": "five"}), None) == "five"
    chat = [{"role": "assistant", "content": [{"type": "text", "text": "five"}]}]
    assert target_of(sample("q", meta={"completion": chat}), None) == "five"
    assert target_of(sample("q", answer="5", meta={"completion": "five"}), "answer") == "5"
    for odd, column in ((sample("q"), None), (sample("q", meta={"x": 3}), "x"), (sample("q", answer="1"), "y")):
        with pytest.raises(UnusableSample, match="target"):
            target_of(odd, column)
    with pytest.raises(UnusableSample, match="empty"):
        teach(sample("q"), "  ", policy)
    with pytest.raises(UnusableSample, match="reserved"):
        teach(sample("q"), "a <|im_end|>", policy)
    with pytest.raises(UnusableSample, match=r"data.max_tokens=5"):
        teach(sample("q"), "a b c", policy, max_tokens=5)


def test_every_turn_of_a_chat_is_an_example_with_its_own_media():
    say = lambda role, content: {"role": role, "content": content}  # noqa: E731
    image = [{"type": "image"}, {"type": "text", "text": "look"}]
    messages = (say("user", image), say("assistant", "one"), say("user", image))
    media = tuple(Media("image", data=tiny_png(56, seed)) for seed in (1, 2))
    found = turns(Sample("c", messages, media), "two", every=True)
    assert [(len(s.messages), len(s.media), t) for s, t in found] == [(1, 1, "one"), (3, 2, "two")]
    assert turns(Sample("c", messages, media), "two", every=False) == found[1:]


def test_held_out_ratio_and_its_paired_change():
    before, after = Measured((4.0, 2.0, 6.0), (2.0, 1.0, 2.0)), Measured((2.0, 1.5, 3.5), (2.0, 1.0, 2.0))
    assert before.interval().value == pytest.approx(12 / 5)
    change = after.change(before)
    assert change.value == pytest.approx(-1.0)
    assert change.low < -1 < change.high
    assert change.high - change.low < before.interval().high - before.interval().low
    with pytest.raises(ValueError, match="same examples"):
        after.change(Measured((1.0,), (1.0,)))


def rows(folder):
    lines = [{"prompt": f"what is {a} + {b}", "completion": str(a + b)} for a in range(5) for b in range(4)]
    (folder / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*lines, {"prompt": "left", "answer": None}]))
    return str(folder / "t.jsonl")


def config_file(folder):
    path = folder / "sft.yaml"
    model = save(*tiny_text(), folder / "model")
    path.write_text(
        f"run: {{dir: {folder / 'run'}}}\nmodel: {{path: {model}}}\n"
        f"data: {{train: {{jsonl: {{path: {rows(folder)}}}}}, evaluate: {{jsonl: {{path: {rows(folder)}}}}}}}\n"
        "train: {batch: 4, epochs: 2, learning_rate: 3e-3}\ncheckpoint: {every: 3}\nlog: {tensorboard: false}\n"
    )
    return str(path)


def test_the_command_teaches_resumes_and_counts(tmp_path, capsys, monkeypatch):
    path = config_file(tmp_path)
    assert cli.main(["sft", path, "--dry-run"]) == 0
    assert "learning_rate: 0.003" in capsys.readouterr().out
    assert cli.main(["sft", path]) == 0
    said = capsys.readouterr().out
    assert "loss change (paired)" in said
    assert "target missing: 1" in said
    held_out = [json.loads(line) for line in (tmp_path / "run/held_out.jsonl").read_text().splitlines()]
    assert [row["step"] for row in held_out] == [0, 11]
    assert held_out[1]["value"] < held_out[0]["value"] - 0.2
    assert cli.main(["sft", path]) == 2  # the folder holds a run
    one = (tmp_path / "run/model/model.safetensors").read_bytes()
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    # Killed after step 7 and gone on with: the same weights to the bit.
    run = ["sft", path, "run.dir=" + str(tmp_path / "again"), "checkpoint.keep=9"]
    step = Fit._one_step

    def dies(self):
        if self.step == 7:
            raise RuntimeError("killed")
        return step(self)

    monkeypatch.setattr(Fit, "_one_step", dies)
    assert cli.main(run) == 1
    monkeypatch.setattr(Fit, "_one_step", step)
    assert cli.main([*run, "--resume"]) == 0
    assert (tmp_path / "again/model/model.safetensors").read_bytes() == one
    again = [json.loads(line) for line in (tmp_path / "again/metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in again] == [row["loss"] for row in metrics]


def test_configs_are_checked(tmp_path, capsys):
    path = config_file(tmp_path)
    for word, told in (
        ("data.train=nothing", "unknown source"),
        ("train.bach=3", "unknown key 'train.bach'"),
        ("selection=nothing", "unknown selection"),
        ("train.batch=0", "greater than or equal to 1"),
        ("rollout.group=3", "rollout"),
    ):
        assert cli.main(["sft", path, word]) == 2
        assert told in capsys.readouterr().err
    for name in ("sft_scenes", "sft_text"):
        assert load(SFTConfig, name).train.batch == 32


def test_examples_of_held_out_rows_are_counted(tmp_path):
    policy = text_policy()
    config = load(SFTConfig, config_file(tmp_path))
    dropped = Dropped()
    samples = build("source", config.data.train).load(config.data.media)
    assert len(Examples(policy, config.data).all(samples, dropped)) == 20
    assert dropped.counts == {"target missing": 1}


@pytest.mark.parametrize("what", ["sft", "dpo"])
def test_launch_reads_the_config_of_its_command(what, capsys):
    config = {"sft": "sft_text", "dpo": "dpo_scenes"}[what]
    assert cli.main(["launch", config, "--what", what, "--processes", "2"]) == 2
    assert "train.engine is local, which is one process" in capsys.readouterr().err
    assert cli.main(["launch", config, "--what", what, "--processes", "2", "--method", "grpo"]) == 2
    assert "--method belongs to --what train" in capsys.readouterr().err
    assert cli.main(["launch", config, "--processes", "2"]) == 2  # no config of `train`
