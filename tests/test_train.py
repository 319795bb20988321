"""Whole small runs: what goes wrong is named and counted, and nothing depends on how a batch is cut."""

import errno
import json

import pytest
import torch
from PIL import Image
from runs import metrics, parse

from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.train import checkpoint
from mmcredit.train.loop import Trainer
from mmcredit.train.update import Updater


def events(run_dir, kind):
    rows = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_a_run_writes_everything_down(tmp_path):
    outcome = Trainer(
        parse(
            tmp_path,
            data__evaluate={"easy_vqa": {"split": "test", "limit": 6}},
            log__signals=["entropy", "blind_logprobs"],
            credit=["grpo", {"pgpo": {}}],
            checkpoint__final=True,
        )
    ).run()
    run_dir = tmp_path / "run"
    rows = metrics(run_dir)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(row["policy/grad_norm"] > 0 and row["mismatch/kl"] < 1e-6 for row in rows)
    assert outcome.gain.n == 6
    for name in ("config.yaml", "versions.json", "cost.json", "evaluations.jsonl", "samples/step-000000.parquet"):
        assert (run_dir / name).is_file()
    assert (run_dir / "model" / "model.safetensors").is_file()
    cost = json.loads((run_dir / "cost.json").read_text())
    assert cost["passes"]["blind"]["tower_calls"] == 0
    assert cost["passes"]["blind"]["forwards"] >= 3
    assert {"rollout", "rewards", "score", "credit", "update", "evaluate", "save"} <= cost["stages"].keys()
    assert {"grpo", "pgpo"} == cost["methods"].keys()
    messages = [e["message"] for e in events(run_dir, "note")]
    assert any(m.startswith("parity: KL(sampler || trainer)") for m in messages)
    assert any(m.startswith("image probe: hiding the image moves") for m in messages)


def test_a_second_run_does_not_overwrite_the_first(tmp_path):
    Trainer(parse(tmp_path, run__steps=1)).run()
    with pytest.raises(ValueError, match="holds a run already; go on with --resume"):
        Trainer(parse(tmp_path, run__steps=1))


def test_bad_samples_are_counted_and_replaced(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "good.png")
    (folder / "corrupt.png").write_bytes((folder / "good.png").read_bytes()[:60])
    names = ["good.png", "corrupt.png", "missing.png", "../good.png", "good.png", "good.png"]
    rows = [{"prompt": "what is it", "images": [name], "answer": "red"} for name in names]
    rows.append({"prompt": "a literal <|image_pad|> here", "answer": "red"})
    rows.append({"prompt": "far too long " * 100, "answer": "red"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = parse(
        tmp_path,
        data__train={"jsonl": {"path": str(folder / "train.jsonl")}},
        data__media={"root": str(folder)},
        data__max_prompt_tokens=80,
    )
    trainer = Trainer(config)
    trainer.run()
    dropped = trainer.stream.dropped
    assert dropped.total >= 5
    assert len(dropped.counts) >= 4, dropped
    said = " ".join(e["message"] for e in events(tmp_path / "run", "drop"))
    for part in ("corrupt.png", "missing.png", "../good.png", "<|image_pad|>", "data.max_prompt_tokens=80"):
        assert part in said
    assert metrics(tmp_path / "run")[-1]["data/dropped"] == dropped.total


def test_a_source_without_a_usable_sample_stops_the_run(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a <|image_pad|>", "answer": "x"}\n')
    trainer = Trainer(parse(tmp_path, data__train={"jsonl": {"path": str(tmp_path / "train.jsonl")}}))
    with pytest.raises(RuntimeError, match=r"none of the 1 training samples is usable; the last refusal: .*image_pad"):
        trainer.run()


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"train\.jsonl"):
        Trainer(parse(tmp_path, data__train={"jsonl": {"path": str(tmp_path / "train.jsonl")}}))


def test_equal_rewards_change_nothing_and_raise_an_alarm(tmp_path):
    trainer = Trainer(parse(tmp_path, rewards=[{"exact_answer": {}}]))
    before = {name: p.clone() for name, p in trainer.parts.policy.state_dict().items()}
    trainer.run()
    assert all(torch.equal(before[name], p) for name, p in trainer.parts.policy.state_dict().items())
    said = [e["message"] for e in events(tmp_path / "run", "alarm")]
    assert any("100% of the groups have no signal" in m for m in said)
    assert metrics(tmp_path / "run")[0]["policy/active_responses"] == 0


def test_a_gradient_that_is_not_finite_is_skipped_counted_and_in_the_end_fatal(tmp_path):
    trainer = Trainer(parse(tmp_path, run__steps=5, train__max_skipped_updates=3))
    backward = trainer.parts.trainer.backward

    def poisoned(loss):
        backward(loss)
        if trainer.step >= 1:
            trainer.parts.trainer.parameters[0].grad[0] = torch.nan

    trainer.parts.trainer.backward = poisoned
    with pytest.raises(RuntimeError, match="3 optimizer steps in a row had a gradient norm of nan"):
        trainer.run()
    assert all(bool(torch.isfinite(p).all()) for p in trainer.parts.policy.state_dict().values())
    assert metrics(tmp_path / "run")[1]["policy/skipped_updates"] == 1
    assert any("an update was skipped" in e["message"] for e in events(tmp_path / "run", "alarm"))


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    trainer = Trainer(parse(tmp_path, run__steps=3, checkpoint__every=1))
    save_tree, calls = checkpoint.save_tree, []

    def full(value, path, shared=None):
        calls.append(path)
        if trainer.step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_tree(value, path)

    monkeypatch.setattr(checkpoint, "save_tree", full)
    assert trainer.run().steps == 3
    errors = [e for e in events(tmp_path / "run", "checkpoint") if e["level"] == "error"]
    assert len(errors) == 1
    assert "the disk is full" in errors[0]["message"]
    assert [p.name for p in trainer.checkpoints.all()] == ["step-000001", "step-000003"]


def test_a_sampler_that_disagrees_stops_the_run(tmp_path):
    trainer = Trainer(parse(tmp_path))
    generate = trainer.parts.engine.generate

    def shifted(requests, sampling, progress=None):
        responses = generate(requests, sampling, progress)
        for response in responses:
            response.logprobs[:] = [value - 1.0 for value in response.logprobs]
        return responses

    trainer.parts.engine.generate = shifted
    with pytest.raises(RuntimeError, match=r"sampler and trainer disagree: KL 0\.7.* rollout\.engine"):
        trainer.run()


def test_a_model_that_does_not_see_the_image_stops_the_run(tmp_path):
    with pytest.raises(
        RuntimeError, match="hiding the image moves the log-probs by .* the model does not see the image"
    ):
        Trainer(parse(tmp_path, check={"min_image_sensitivity": 100.0})).run()


def gradients(trainer, batch, layout, budget, rows):
    """Gradients of one update without its optimizer step."""
    parts = trainer.parts
    parts.policy._layout = layout
    rollouts = batch.rollouts.select(rows)
    scores = parts.policy.score(batch.prompts, rollouts, [Pass(CLEAN, frozenset({"logprobs"}))], temperature=1.0)
    rollouts = rollouts.replace(old_logprobs=scores[CLEAN]["logprobs"] + 0.1 * torch.sin(rollouts.tokens.float()))
    credit = parts.pipeline(rollouts)
    update = Updater(
        parts.policy, parts.trainer, parts.pipeline, parts.objective,
        mini_batches=1, epochs=1, token_budget=budget, temperature=1.0, seed=0,
    )  # fmt: skip
    found = {}

    def keep():
        found.update({n: p.grad.clone() for n, p in parts.policy.trainable_parameters().items() if p.grad is not None})
        for parameter in parts.policy.trainable_parameters().values():
            parameter.grad = None
        return type(parts.trainer).step(parts.trainer)

    parts.trainer.step, step = keep, parts.trainer.step
    metrics, _ = update(batch.prompts, rollouts, credit, 0, 0.0)
    parts.trainer.step = step
    return credit.advantages, metrics, found


def test_nothing_depends_on_layout_order_or_micro_batch(tmp_path):
    trainer = Trainer(parse(tmp_path, rollout__prompts=3, objective__regularizers=[{"entropy": {"coef": 0.1}}]))
    batch = trainer.stage.run(0)
    order = torch.arange(len(batch.rollouts))
    advantages, numbers, expected = gradients(trainer, batch, "shared", 16384, order)
    shuffled = torch.randperm(len(order), generator=torch.Generator().manual_seed(1))
    for layout, budget, rows in (
        ("padded", 16384, order),
        ("shared", 60, order),
        ("padded", 100, order),
        ("shared", 200, shuffled),
    ):
        other_advantages, other_numbers, found = gradients(trainer, batch, layout, budget, rows)
        assert torch.allclose(other_advantages, advantages[rows], atol=1e-6)
        assert other_numbers["policy/loss"] == pytest.approx(numbers["policy/loss"], abs=1e-6)
        for name, gradient in expected.items():
            scale = gradient.abs().max().clamp(min=1e-3)
            assert float((found[name] - gradient).abs().max() / scale) < 1e-4, (layout, budget, name)
            assert float((found[name] - gradient).abs().max()) < 1e-6 * max(1.0, float(scale)) * 10
