"""Divergence of checkpoints and cross-sampling: worked numbers, real tiny models, the commands."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from policy_cases import make_policy, rollouts_for, samples
from runs import model_folder, settings
from tiny import tiny_text

from mmcredit.cli import main
from mmcredit.diagnose import sparsity
from mmcredit.diagnose.cross_sampling import CrossEngine, Rule, budget_curve
from mmcredit.diagnose.divergence import OVERLAP_K, TokenDivergence, token_divergence, top_tokens, worst_places
from mmcredit.diagnose.models import check_pair
from mmcredit.evaluate.accuracy import Evaluation
from mmcredit.intervals import proportion
from mmcredit.policy import divergences
from mmcredit.policy.passes import CLEAN
from mmcredit.policy.policy import Policy
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.engines.hf import HF

BASE, TRAINED = torch.tensor([[0.6, 0.25, 0.1, 0.05]]), torch.tensor([[0.2, 0.65, 0.1, 0.05]])


def compared(name: str, p: torch.Tensor, q: torch.Tensor) -> float:
    comparison = divergences.parse(CLEAN, name)
    assert comparison is not None
    return float(comparison(p.log().clamp(min=divergences.HIDDEN), q.log().clamp(min=divergences.HIDDEN)))


def test_worked_numbers():
    """The example of the notes: P base, Q trained."""
    assert compared("js_to:reference", BASE, TRAINED) == pytest.approx(0.09836203, abs=1e-6)
    assert compared("js_to:reference:0.7", BASE, TRAINED) == pytest.approx(0.11572004, abs=1e-6)
    assert compared("js_to:reference", BASE, BASE) == pytest.approx(0.0, abs=1e-6)
    left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert compared("js_to:reference", left, right) == pytest.approx(math.log(2), abs=1e-6)
    assert compared("kl_to:reference", BASE, TRAINED) == pytest.approx(0.42028951, abs=1e-6)
    assert [compared(f"topk_overlap_to:reference:{k}", TRAINED, BASE) for k in (1, 2, 3)] == [0, 1, 1]
    assert compared("top1_rank_to:reference", TRAINED, BASE) == 2
    assert compared("top1_prob_to:reference", TRAINED, BASE) == pytest.approx(0.25)


def shifted(family: str, spread: float = 0.05, seed: int = 9) -> Policy:
    """The tiny model with other weights."""
    policy = make_policy(family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    policy.weights_changed()
    return policy


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl"])
def test_divergence_of_two_models_against_whole_distributions(family):
    base, trained = make_policy(family), shifted(family)
    prompts = [trained.encode(s) for s in samples(family)]
    rollouts = rollouts_for(trained, len(prompts), [[7, 3], [4, 4], [5, 1], [6, 2]][: len(prompts)])
    found = token_divergence(trained, base, prompts, rollouts)
    assert len(found) == int(rollouts.mask.sum())
    assert trained.reference is None
    # The same from logits of plain forwards.
    i, at = 0, 0
    prompt = prompts[int(rollouts.group[i])]
    ids = rollouts.tokens[i][rollouts.mask[i]]
    logs = []
    for policy in (base, trained):
        inputs = {"input_ids": torch.cat([prompt.tokens, ids])[None]}
        if prompt.media:
            extended = torch.cat([prompt.visual, torch.zeros(len(ids), dtype=torch.bool)])[None].int()
            inputs |= {**prompt.media, "mm_token_type_ids": extended}
        with torch.no_grad():
            logits = policy.model(**inputs).logits[0, len(prompt) - 1 : -1].float()
        suppressed = torch.tensor(policy.suppressed_ids, dtype=torch.int64)
        logs.append(logits.index_fill(1, suppressed, -1e30).log_softmax(1))
    n = len(ids)
    p, q = logs
    assert torch.allclose(found["kl_base_trained"][at : at + n], (p.exp() * (p - q)).sum(1), atol=1e-4)
    assert torch.allclose(found["kl_trained_base"][at : at + n], (q.exp() * (q - p)).sum(1), atol=1e-4)
    assert torch.allclose(found["tv"][at : at + n], (p.exp() - q.exp()).abs().sum(1) / 2, atol=1e-4)
    ratio = (q - p).gather(1, ids[:, None])[:, 0]
    assert torch.allclose(found["log_ratio"][at : at + n], ratio, atol=1e-4)
    assert torch.allclose(found["entropy_base"][at : at + n], -(p.exp() * p).sum(1), atol=1e-4)
    best = q.argmax(1, keepdim=True)
    assert found["top1_rank"][at : at + n].tolist() == ((p > p.gather(1, best)).sum(1) + 1).tolist()
    for name in ("js", "js_full"):
        assert bool(((found[name] >= 0) & (found[name] <= math.log(2) + 1e-6)).all())
    assert len(worst_places(found, trained.tokenizer, 5)) == 5
    held = top_tokens(found, trained.tokenizer, 10_000)
    assert sum(row["share"] for row in held) == pytest.approx(1.0)
    assert sum(row["places"] for row in held) == len(found)


def test_the_same_model_twice_does_not_diverge():
    base, trained = make_policy("qwen3"), make_policy("qwen3")
    prompts = [trained.encode(s) for s in samples("qwen3")]
    found = token_divergence(trained, base, prompts, rollouts_for(trained, 3, [[5], [5], [5]]))
    assert float(found["js"].max()) < 1e-6
    assert bool((found["top1_rank"] == 1).all())
    assert sparsity.summarise(found)["reranking"]["places"] == 0


def made(js: list[float], response: list[int], **columns: list[float]) -> TokenDivergence:
    n = len(js)
    names = ("js_full", "kl_base_trained", "kl_trained_base", "tv", "log_ratio", "entropy_base", "entropy_trained")
    given = {"js": js, **{name: [0.1] * n for name in names}, "top1_rank": [1.0] * n, "top1_prob": [0.5] * n}
    given |= {f"overlap_{k}": [1.0] * n for k in OVERLAP_K} | columns
    index = torch.arange(n)
    return TokenDivergence(
        torch.tensor(response), index, index / n, index, {name: torch.tensor(v) for name, v in given.items()}
    )


def test_statistics_on_made_up_values():
    js = [0.0] * 6 + [0.1, 0.2, 0.3, 0.4]
    found = made(js, [0] * 5 + [1] * 5, entropy_base=[float(i) for i in range(10)])
    values = found["js"]
    assert sparsity.share_holding(values, 0.4) == 0.1
    assert sparsity.share_holding(values, 0.7) == 0.2
    assert sparsity.share_holding(values, 0.71) == pytest.approx(0.3)
    assert sparsity.share_holding(values, 1.0) == 0.4
    assert sparsity.share_holding(torch.zeros(3), 0.5) == 0
    assert sparsity.share_holding(torch.ones(4), 0.5) == 0.5
    share = sparsity.share_above(values, found.response, 0.15)
    assert share.value == pytest.approx(0.3)
    assert share.low == 0.0  # all hits are in one of two responses: a resample may hold none of them
    assert share.high == pytest.approx(0.6)
    points = dict(sparsity.curve(values, 10))
    assert points[0.1] == pytest.approx(0.4)
    assert points[0.4] == pytest.approx(1.0)
    assert points[1.0] == pytest.approx(1.0)
    summary = sparsity.summarise(found, bins=2)
    assert [row["mean"] for row in summary["by_position"]] == pytest.approx([0.0, 0.2])
    assert summary["reranking"]["places"] == 3
    # Ranks of js: six ties at 3.5, then 7..10; of the entropy 1..10.
    assert summary["rank_correlation"]["entropy_base"] == pytest.approx(0.887625, abs=1e-6)
    assert math.isnan(summary["rank_correlation"]["entropy_trained"])
    assert sparsity.jaccard(values > 0.05, values > 0.25) == 0.5
    assert sparsity.jaccard(values > 1, values > 1) == 1.0


def test_reranking_looks_at_shifted_places_only():
    found = made(
        [0.0, 0.2, 0.3], [0, 0, 0], top1_rank=[9.0, 1.0, 3.0], top1_prob=[0.0, 0.4, 0.005], overlap_2=[0, 1, 0.5]
    )
    moved = sparsity.reranking(found)
    assert moved["top1_in_base_top"] == {"1": 0.5, "2": 0.5, "3": 1.0, "5": 1.0, "10": 1.0}
    assert moved["top1_below_0.01"] == 0.5
    assert moved["overlap"]["2"] == 0.75


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match="no tokens"):
        sparsity.summarise(made([], []))


def sampled(family: str):
    base, other = make_policy(family), shifted(family)
    prompts = [base.encode(s) for s in samples(family)]
    requests = [Request(p, [10 * i + j for j in range(5)], tag=i) for i, p in enumerate(prompts)]
    return base, other, requests, Sampling(max_new_tokens=24)


@pytest.mark.parametrize("family", ["qwen3", "qwen2_5_vl", "qwen3_vl"])
def test_cross_sampling_between_its_two_ends(family):
    base, other, requests, sampling = sampled(family)
    own = HF().open(base).generate(requests, sampling)
    others = HF().open(other).generate(requests, sampling)
    assert own != others

    def cross(**rule) -> CrossEngine:
        engine = CrossEngine(base, other, HF(), Rule(**rule))
        engine.generate(requests, sampling)
        return engine

    def responses(**rule):
        return [c.response for c in cross(**rule).crossed]

    assert responses(budget=0) == own
    assert responses(threshold=math.log(2)) == own
    assert responses(threshold=-1.0) == others
    assert responses(threshold=0.0, top_p=1.0) == others
    for budget in (1, 3):
        crossed = cross(budget=budget, threshold=0.02).crossed
        assert max(len(c.effective) for c in crossed) == budget
        for mine, got in zip(own, crossed, strict=True):
            assert got.switches >= len(got.effective)
            if not got.effective:
                assert got.response == mine
                continue
            first = got.effective[0]
            assert got.response.tokens[:first] == mine.tokens[:first]
            assert got.response.tokens[first] != mine.tokens[first : first + 1]
            assert got.response.tokens[first] != mine.tokens[first]


def test_small_waves_and_leaving_rows_change_nothing():
    base, other, requests, sampling = sampled("qwen3")
    sampling = sampling.model_copy(update={"stop": ("e", "a")})  # responses end early and at different times
    wide = CrossEngine(base, other, HF(), Rule(threshold=0.05, budget=4))
    narrow = CrossEngine(base, other, HF(max_concurrent=3, prefill_tokens=8), Rule(threshold=0.05, budget=4))
    for engine in (wide, narrow):
        engine.generate(requests, sampling)
    assert len({len(c.response.tokens) for c in wide.crossed}) > 3
    for a, b in zip(wide.crossed, narrow.crossed, strict=True):
        assert (a.response.tokens, a.switches, a.effective, a.compared) == (
            b.response.tokens, b.switches, b.effective, b.compared,
        )  # fmt: skip
        assert all(p < len(a.response.tokens) for p in a.effective)


def test_identical_models_never_intervene_effectively():
    base, _, requests, sampling = sampled("qwen3")
    engine = CrossEngine(base, make_policy("qwen3"), HF(), Rule(threshold=-1.0))
    engine.generate(requests, sampling)
    assert all(c.effective == () and c.switches == len(c.response.tokens) for c in engine.crossed)


def test_random_switches_come_at_their_rate_and_follow_the_seed():
    base, other, requests, sampling = sampled("qwen3")
    found = []
    for _ in range(2):
        engine = CrossEngine(base, other, HF(), Rule(switch="random", rate=0.25))
        engine.generate(requests, sampling)
        found.append(engine.crossed)
    assert found[0] == found[1]
    tokens = sum(len(c.response.tokens) for c in found[0])
    assert 0.15 < sum(c.switches for c in found[0]) / tokens < 0.35


def test_budget_curve_reuses_what_a_larger_budget_cannot_change():
    base, other, requests, sampling = sampled("qwen3")
    asked = []

    def judge(engine: CrossEngine) -> Evaluation:
        asked.append(engine.rule)
        responses = engine.generate(requests, sampling)
        right = [float(len(r.tokens) % 2) for r in responses]
        return Evaluation(proportion(int(sum(right)), len(right)), {}, right, [""] * len(right), 1.0, 0.0)

    points = list(budget_curve(base, other, HF(), [2, 24, 1000, math.inf], judge, threshold=0.05))
    assert [(p.budget, p.switch) for p in points] == [
        (0, "divergence"),
        *((b, s) for b in (2, 24, 1000, math.inf) for s in ("divergence", "random")),
    ]
    assert points[0].gain.value == 0
    assert points[0].switches == 0
    assert max(rule.budget for rule in asked) <= 1000
    assert points[-1].crossed == points[-3].crossed
    assert points[-2].effective >= points[1].effective


def test_rules_that_make_no_sense_are_refused():
    for rule in ({"budget": -1}, {"budget": math.nan}, {"top_p": 0}, {"rate": 1.5}, {"threshold": math.nan}):
        with pytest.raises(ValueError, match="budget|top_p|rate|threshold"):
            Rule(**rule)


def test_models_with_other_tokenizers_are_refused():
    first = make_policy("qwen3")
    model, tokenizer = tiny_text("qwen3")
    tokenizer.add_tokens(["<mine>"])
    with pytest.raises(ValueError, match="'<mine>' is None and"):
        check_pair(first, Policy(model, tokenizer))


def test_padded_output_layers_are_cut_to_the_common_ids():
    first, second = make_policy("qwen3"), make_policy("qwen3")
    width = first.body.vocabulary
    second.model.resize_token_embeddings(width + 8)
    second = Policy(second.model, second.tokenizer)
    assert second.body.vocabulary == width + 8
    prompts = [first.encode(s) for s in samples("qwen3")]
    requests = [Request(p, [i], tag=i) for i, p in enumerate(prompts)]
    engine = CrossEngine(first, second, HF(), Rule(threshold=-1.0))
    tokens = [r.tokens for r in engine.generate(requests, Sampling(max_new_tokens=8))]
    assert second.body.vocabulary == width
    assert tokens == [r.tokens for r in HF().open(first).generate(requests, Sampling(max_new_tokens=8))]
    found = token_divergence(first, second, prompts, rollouts_for(first, 3, [[4], [4], [4]]))
    assert float(found["js_full"].max()) < 1e-6


@pytest.fixture
def config(tmp_path):
    """A config whose run left a model with other weights than the base."""
    values = settings(tmp_path, data__evaluate={"easy_vqa": {"split": "test", "limit": 4}})
    trained = shifted("qwen2_5_vl")
    trained.processor = make_policy("qwen2_5_vl").processor
    trained.save(tmp_path / "run" / "model")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    return str(path)


def read(tmp_path, name: str):
    return json.loads((tmp_path / "run" / "diagnose" / name).read_text())


def test_command_divergence(tmp_path, config, capsys):
    early = str(model_folder(tmp_path))
    assert main(["diagnose", "divergence", config, "--samples", "2", "--earlier", early]) == 0
    assert "JS > 0.1" in capsys.readouterr().out
    result = read(tmp_path, "divergence.json")
    table = pq.read_table(tmp_path / "run" / "diagnose" / "divergence.parquet").to_pydict()
    assert result["responses"] == 8
    assert len(table["js"]) == result["tokens"]
    assert len(set(table["sample_id"])) == 4
    assert result["mean"]["js"] == pytest.approx(sum(table["js"]) / result["tokens"], rel=1e-4)
    assert result["checkpoints"][0]["above"] == 0.0  # the base itself
    assert result["dropped"] == {}


def test_command_cross_sampling(tmp_path, config, capsys):
    arguments = ["--budgets", "1,all", "--samples", "2", "--threshold", "0.01", "-o", str(tmp_path / "out")]
    assert main(["diagnose", "cross-sampling", config, *arguments]) == 0
    assert "forward" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "cross_sampling.json").read_text())
    assert [(r["direction"], r["budget"], r["switch"]) for r in result["curve"]] == [
        (d, b, s)
        for d in ("forward", "backward")
        for b, s in (
            ("0", "divergence"),
            ("1", "divergence"),
            ("1", "random"),
            ("all", "divergence"),
            ("all", "random"),
        )
    ]
    rows = pq.read_table(tmp_path / "out" / "cross_sampling.parquet").to_pylist()
    assert len(rows) == 10 * 4 * 2
    assert all(len(r["effective"]) <= 1 for r in rows if r["budget"] == "1")
    assert any(r["effective"] for r in rows)


def test_command_drift_on_new_and_on_recorded_samples(tmp_path, config, capsys):
    assert main(["diagnose", "drift", config, "--questions", "3"]) == 0
    result = read(tmp_path, "drift.json")
    assert result["responses"] == 3
    assert result["classes"]["partial_utf8"] > 0
    assert result["boundary"] is not None
    regions = pq.read_table(tmp_path / "run" / "diagnose" / "drift.parquet").to_pydict()["regions"]
    assert sum(len(r) for r in regions) == sum(result["classes"].values())
    assert main(["diagnose", "drift", config, "--run", str(tmp_path / "run")]) == 2
    assert "holds no sampled responses" in capsys.readouterr().err


def test_command_says_what_is_wrong(tmp_path, config, capsys):
    for arguments, message in (
        (["divergence", config, "--trained", str(tmp_path / "none")], "no such folder"),
        (["divergence", config, "run.dir=elsewhere"], "name one with --trained"),
        (["divergence", config, "--top-p", "0"], "--top-p must lie in"),
        (["divergence", config, "--samples", "0"], "--samples must be at least 1"),
        (["cross-sampling", config, "--budgets", "1,-2"], "--budgets must be whole numbers"),
        (["drift", config, "--temperature", "-1"], "--temperature must be at least 0"),
    ):
        assert main(["diagnose", *arguments]) == 2
        assert message in capsys.readouterr().err
