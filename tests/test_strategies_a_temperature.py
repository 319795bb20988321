"""HAPO's adaptive temperature: the numbers of the spec, the logits processor, and real runs."""

from __future__ import annotations

import pytest
import torch
from runs import metrics, settings
from strategy_runs import make

from mmcredit import config
from mmcredit.components import _REGISTRY, Component, register
from mmcredit.rollout.drawing.temperature import EntropyTemperature
from mmcredit.statistics.entropy_scale import EntropyScale
from mmcredit.train.loop import Trainer

ENTROPIES = [0.05, 0.20, 0.40, 1.60, 0.10, 0.30, 0.80, 0.02]  # the worked example


def scale():
    return EntropyScale.measure(torch.tensor(ENTROPIES), rho=0.8)


def logits_with_entropy(targets, size=50):
    """[N,V] logits whose softmax has these entropies, by bisection over the temperature of one row."""
    row = torch.linspace(0, 10, size, dtype=torch.float64)
    found = []
    for target in targets:
        low, high = 1e-3, 1e3
        for _ in range(200):
            middle = (low * high) ** 0.5
            entropy = torch.special.entr((row / middle).softmax(-1)).sum()
            low, high = (middle, high) if entropy < target else (low, middle)
        found.append(row / low)
    return torch.stack(found)


def test_temperatures_of_the_worked_example():
    logits = logits_with_entropy([0.947537, 0.051697])
    processor = EntropyTemperature(scale(), tau=0.05)
    assert processor.entropy(logits).tolist() == pytest.approx([0.947537, 0.051697], abs=1e-5)
    assert processor.temperatures(logits).tolist() == pytest.approx([1.012209, 0.962872], abs=1e-5)
    released = EntropyTemperature(scale(), tau=0.05, sign="released")
    assert released.temperatures(logits).tolist() == pytest.approx([1.012209, 1.037128], abs=1e-5)
    # Beyond the ends of the last batch it does not leave the range.
    ends = processor.temperatures(logits_with_entropy([3.5, 0.0001]))
    assert ends.tolist() == pytest.approx([1.05, 0.95], abs=1e-6)


@pytest.mark.parametrize("base", [1.0, 0.7])
def test_the_processor_does_what_the_temperatures_say(base):
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) * 4
    processor = EntropyTemperature(scale(), tau=0.3, base=base, suppressed=(3, 7))
    wanted = (logits / processor.temperatures(logits)[:, None]).softmax(-1)
    assert torch.allclose((processor.rescaled(logits) / base).softmax(-1), wanted, atol=1e-6)
    rows = torch.stack([processor([1, 2], row) for row in logits])
    assert torch.allclose((rows / base).softmax(-1), wanted, atol=1e-6)
    assert torch.equal(processor.rescaled(logits).argmax(-1), logits.argmax(-1))
    # Ids that are never sampled have no part in it.
    loud = logits.clone()
    loud[:, [3, 7]] = 50.0
    assert torch.allclose(processor.temperatures(loud), processor.temperatures(logits))
    # An engine that has divided by the base already gives it as 1.
    after = EntropyTemperature(scale(), tau=0.3, base=1.0, suppressed=(3, 7))
    assert torch.allclose(after.rescaled(logits / base).softmax(-1), wanted, atol=1e-6)


def test_large_vocabularies_are_read_in_parts(monkeypatch):
    from mmcredit.rollout.drawing import temperature

    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(2))
    processor = EntropyTemperature(scale(), tau=0.3)
    whole = processor.temperatures(logits)
    monkeypatch.setattr(temperature, "CHUNK_ELEMENTS", 25)
    assert torch.equal(processor.temperatures(logits), whole)


@pytest.mark.parametrize("kind", ["text", "vlm"])
def test_a_run_learns_its_scale_from_the_last_batch(tmp_path, kind):
    strategy = {"adaptive_temperature": {"tau": 0.5}}
    trainer = make(tmp_path, kind, rollout__strategies=[strategy], credit=["hapo"], rollout__sampling__temperature=0.9)
    seen = []
    generate = trainer.parts.engine.generate

    def watched(requests, sampling, progress=None):
        hook = trainer.parts.engine.hook
        seen.append(hook)
        responses = generate(requests, sampling, progress)
        if hook is not None:
            logits = torch.randn(5, trainer.parts.policy.body.vocabulary)
            temperatures = hook(0, logits, None)
            assert temperatures.shape == (5,)
            assert 0.4499 <= float(temperatures.min()) <= float(temperatures.max()) <= 1.3501
        return responses

    trainer.parts.engine.generate = watched
    scales = []
    score = trainer._score

    def scored(batch, step):
        rollouts, clean = score(batch, step)
        scales.append(EntropyScale.measure(rollouts.signals["entropy"][rollouts.mask], 0.8))
        return rollouts, clean

    trainer._score = scored
    trainer.run()
    assert [hook is not None for hook in seen] == [False, True, True]  # the first step samples at the base temperature
    assert trainer.parts.engine.hook is None  # evaluation is not touched
    assert trainer.stage.strategies[0]._scale == scales[-1]
    rows = metrics(tmp_path / "run")
    # Log-probs are those of the base temperature: what the trainer computes, although other tokens were drawn.
    assert all(row["mismatch/kl"] < 1e-6 for row in rows)
    assert [row["rollout/adaptive_temperature/q"] for row in rows] == [s.q for s in scales]
    assert all(row["policy/grad_norm"] > 0 for row in rows)


def test_the_temperature_changes_what_is_drawn(tmp_path):
    tokens = {}
    for tau in (0.0, 0.9):
        folder = tmp_path / str(tau)
        folder.mkdir()
        trainer = make(folder, "text", rollout__strategies=[{"adaptive_temperature": {"tau": tau}}], run__steps=2)
        run = trainer.stage.run
        tokens[tau] = []
        trainer.stage.run = lambda step, run=run, out=tokens[tau]: out.append(run(step)) or out[-1]
        trainer.run()
    first, second = [(a.rollouts.tokens, b.rollouts.tokens) for a, b in zip(tokens[0.0], tokens[0.9], strict=True)]
    assert torch.equal(*first)
    assert not torch.equal(*second)


def test_a_batch_without_tokens_leaves_the_scale(tmp_path):
    strategies = ["adaptive_temperature", "overlong_filter"]
    trainer = make(tmp_path, "text", rollout__strategies=strategies, rollout__sampling={"max_new_tokens": 1})
    trainer.run()
    assert trainer.stage.strategies[0]._scale is None
    assert trainer.stage.state_dict() == {}
    assert metrics(tmp_path / "run")[0]["rollout/adaptive_temperature/batches_without_tokens"] == 1


def test_contract(tmp_path):
    class Deaf(Component):
        """An engine without a hook."""

    register("engine", "deaf")(Deaf)
    try:
        with pytest.raises(ValueError, match=r"engine 'deaf' has no hook; use rollout.engine hf"):
            config.parse(settings(tmp_path, rollout__strategies=["adaptive_temperature"], rollout__engine="deaf"))
    finally:
        del _REGISTRY["engine"]["deaf"]
    twice = ["adaptive_temperature", {"adaptive_temperature": {"tau": 0.1}}]
    with pytest.raises(ValueError, match="'adaptive_temperature' stands there more than once"):
        config.parse(settings(tmp_path, rollout__strategies=twice))
    with pytest.raises(ValueError, match="tau"):
        config.parse(settings(tmp_path, rollout__strategies=[{"adaptive_temperature": {"tau": 1.0}}]))
    assert Trainer(config.parse(settings(tmp_path, rollout__strategies=["adaptive_temperature"]))).parts.plan.signals
