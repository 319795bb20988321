"""`mmcredit audit`: credit against true advantages, from the measures to the files, on the shipped tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmcredit import config
from mmcredit.audit import board as boards
from mmcredit.audit import gradients, output, truth, work
from mmcredit.audit.command import Options, audit
from mmcredit.audit.estimate import Advantages, Plan
from mmcredit.audit.measures import Judge, Tokens, average_precision, jackknifed
from mmcredit.audit.states import find_points
from mmcredit.cli import main
from mmcredit.objective import Objective
from mmcredit.rollouts import Credit, Rollouts

REWARD = """
def vowels(item):
    return sum(c in "aeiou14" for c in item.response) / 4
"""


def silent(name, total):
    return lambda count: None


def settings(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vowels.py").write_text(REWARD)
    function = "{function: {path: " + f"{folder}/vowels.py:vowels" + "}}"
    own = [f"rewards=[{function}]", "evaluate.reward=null", "rollout.group=3", "rollout.sampling.max_new_tokens=24"]
    return config.load("text_math", None, [*own, "run.threads=1", *overrides])


OPTIONS = Options("grpo, rloo, spo_chain, tempo", prompts=3, batch=2, regroup=2, dense=48, plan=Plan(8, 16))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    return folder, audit(settings(folder), folder / "out", OPTIONS, silent)


@pytest.fixture(scope="module")
def board(found):
    return boards.board(found[1], draws=50)


# -- parts ----------------------------------------------------------------------------------------------------------


def test_equal_prefixes_of_a_prompt_are_one_state():
    rollouts = Rollouts(
        tokens=torch.tensor([[5, 6, 7], [5, 6, 8], [5, 9, 0], [5, 6, 7]]),
        mask=torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True] * 3]),
        group=torch.tensor([0, 0, 0, 1]),
        rewards=torch.tensor([1.0, 0.0, 0.5, 1.0]),
    )
    points = find_points(rollouts, 3)
    assert [(s.prompt, s.prefix, s.left) for s in points.states] == [
        (0, (), 3), (0, (5,), 2), (0, (5, 6), 1), (1, (), 3), (1, (5,), 2), (1, (5, 6), 1)
    ]  # fmt: skip
    assert points.before.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 3, 4, 5]
    assert points.after.tolist() == [1, 2, -1, 1, 2, -1, 1, -1, 4, 5, -1]
    assert points.reward[[2, 5, 7]].tolist() == [1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="did not sample"):
        find_points(rollouts.replace(mask=rollouts.mask & (rollouts.tokens != 6), valid=rollouts.mask), 3)


def spearman(x, y):
    """By Pearson's formula on ranks, without ties."""
    return np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]


def tokens(value, prompts=20):
    n = len(value)
    truths = Advantages(value, np.stack([value, value], 1), np.full(n, 0.1), value - 0.5, value + 0.5)
    place = np.arange(n) * prompts // n
    return Tokens(place, np.arange(n) // 5, truths)


def test_the_measures_of_known_credit():
    rng = np.random.default_rng(0)
    value = rng.normal(size=1000)
    judge = Judge(tokens(value), draws=100)
    same = judge(3 * value, reference=True)
    assert same.correlation.value == pytest.approx(1)
    assert (same.within.value, same.rank.value, same.sign.value) == (pytest.approx(1), pytest.approx(1), 1.0)
    assert same.precision.value == pytest.approx(1)
    noisy = value + rng.normal(size=1000)
    mixed = judge(noisy)
    assert mixed.correlation.value == pytest.approx(np.corrcoef(noisy, value)[0, 1])
    assert mixed.correlation.low < 0.7071 < mixed.correlation.high
    assert mixed.over_grpo.high < 0
    chosen = np.abs(value) > 0.5
    assert mixed.significant.value == pytest.approx(np.corrcoef(noisy[chosen], value[chosen])[0, 1])
    assert mixed.sign.value == pytest.approx((np.sign(noisy) == np.sign(value))[chosen].mean())
    # Credit that is the same all over a response cannot tell its tokens apart.
    assert mixed.rank_significant.value == pytest.approx(spearman(noisy[chosen], value[chosen]))
    assert mixed.rank_within.value == pytest.approx(mixed.rank.value, abs=0.1)
    flat = judge(np.repeat(rng.normal(size=200), 5))
    assert flat.within.value is None
    none = judge(np.zeros(1000))
    assert none.correlation.value is None
    assert none.precision.value == pytest.approx(none.base)
    away = judge(-value)
    assert away.sign.value == 0
    assert away.correlation.value == pytest.approx(-1)


def test_average_precision_of_ties_does_not_depend_on_their_order():
    hits, ends = np.array([1.0, 0, 1, 0]), np.array([1, 3])  # two groups of two equal scores
    one = average_precision(hits, np.ones(4), ends)
    assert one == average_precision(hits[[1, 0, 3, 2]], np.ones(4), ends) == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)


def test_gradients_of_prompts_sum_to_that_of_the_batch_and_keep_their_angles(found):
    work = found[1].model
    frozen = found[1].batches[0].frozen
    prompts, rollouts = work.prompts(frozen), frozen.rollouts
    generator = torch.Generator().manual_seed(0)

    def credit():
        values = torch.randn(rollouts.tokens.shape, generator=generator) * rollouts.mask
        return Credit.empty(rollouts).replace(advantages=values, loss_mask=rollouts.mask), Objective()

    pair = {"a": credit(), "b": credit()}
    exact = gradients.Sketch(work.policy)
    exact.width, size = sum(p.numel() for p in exact.parameters), exact.sign.numel()
    exact.place, exact.sign = torch.arange(size), torch.ones(size)  # the identity in place of a sketch
    small = gradients.Sketch(work.policy)
    full = gradients.prompt_gradients(work.policy, prompts, rollouts, pair, exact, temperature=1.0)
    short = gradients.prompt_gradients(work.policy, prompts, rollouts, pair, small, temperature=1.0)
    work.policy.model.zero_grad()
    from mmcredit.replay.gradient import accumulate

    onpolicy = rollouts.replace(old_logprobs=None)
    accumulate(work.policy, prompts, onpolicy, *pair["a"], temperature=1.0, budget=10_000)
    whole = torch.cat([p.grad.flatten() for p in exact.parameters])
    work.policy.model.zero_grad()
    assert torch.allclose(full["a"].sum(0), whole, atol=1e-5 * float(whole.abs().max()))

    def angle(found):
        a, b = found["a"].sum(0), found["b"].sum(0)
        return float(a @ b / a.norm() / b.norm())

    assert angle(short) == pytest.approx(angle(full), abs=0.06)


def test_noise_and_cosine_undo_the_noise_of_their_ends():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(1, 30, 64))
    groups = mean + 0.5 * rng.normal(size=(2, 30, 64))
    expected = (0.25 * 30 * 64 / float((mean.sum(1) ** 2).sum())) ** 0.5
    assert gradients.noise(groups) == pytest.approx(expected, rel=0.25)
    assert gradients.noise(groups[:1]) is None
    halves = tuple(mean[0] + 0.5 * rng.normal(size=(30, 64)) for _ in range(2))
    plain = (halves[0] + halves[1]).sum(0) / 2
    raw = float(mean[0].sum(0) @ plain / np.linalg.norm(mean[0].sum(0)) / np.linalg.norm(plain))
    assert raw < gradients.cosines(mean[0], halves)[0] == pytest.approx(1, abs=0.1)


def test_the_interval_of_a_cosine_is_wide_enough_for_how_the_cosine_varies():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=64)
    found = []
    for _ in range(300):
        truth = direction + 2 * rng.normal(size=(40, 64))
        parts = truth + 3 * rng.normal(size=(40, 64))
        halves = tuple(truth + rng.normal(size=(40, 64)) for _ in range(2))
        values = gradients.cosines(parts, halves)
        assert len(values) == 41
        found.append(jackknifed(values))
    values = np.asarray([number.value for number in found])
    halves = np.asarray([(number.high - number.low) / 2 for number in found])
    assert 0.9 < halves.mean() / 1.96 / values.std() < 1.4  # a jackknife is on the wide side
    covered = [number.low <= values.mean() <= number.high for number in found]
    assert np.mean(covered) > 0.93  # of a percentile bootstrap, a quarter
    assert jackknifed(np.asarray([0.5, np.nan, 0.4])).low is None


# -- the whole ------------------------------------------------------------------------------------------------------


def test_enumeration_and_monte_carlo_agree(found):
    folder, result = found
    batch = result.batches[0]
    run = settings(folder)
    from mmcredit.audit.bench import Bench
    from mmcredit.components import build
    from mmcredit.prepare import make_pool

    policy = result.model.policy
    with make_pool(run) as pool:
        engine = build("engine", "hf").open(policy)
        bench = Bench(policy, engine, pool, result.model.setting.sampling, 0)
        prompts, samples = result.model.prompts(batch.frozen), batch.frozen.rollouts.samples
        exact = truth.find_truth(batch.frozen.rollouts, prompts, samples, bench, None)
    assert exact.facts["missing_mass"] < 0.05
    assert exact.advantages.error.max() == 0
    measured = batch.truth.advantages
    apart = np.abs(measured.value - exact.advantages.value)
    assert (apart <= 5 * measured.error + 0.06).all()
    inside = (measured.low <= exact.advantages.value) & (measured.high >= exact.advantages.value)
    assert inside.mean() > 0.85
    assert float(np.abs(exact.advantages.value).max()) > 0.1


def test_the_sanity_rows_stand_where_they_must(board):
    rows = {r.label: r for r in board.rows}
    assert board.rows[0].label == boards.TRUTH
    assert rows[boards.TRUTH].agreement.correlation.value == pytest.approx(1)
    dense = next(r for label, r in rows.items() if label.startswith("spo_chain before every token"))
    grpo, noise = rows["grpo"], rows[work.RANDOM]
    assert dense.agreement.correlation.value > 0.8
    assert dense.agreement.correlation.value > grpo.agreement.correlation.value > 0
    assert abs(noise.agreement.correlation.value) < 0.4
    assert grpo.agreement.within.value is None
    assert grpo.noise is not None
    assert dense.sampled > rows["spo_chain"].sampled > 0
    assert 0 < board.facts["error_mean"] < 0.2
    assert board.facts["groups_per_prompt"] == 2


def test_a_killed_audit_goes_on_and_gives_the_same(found, board, monkeypatch):
    folder, _ = found
    kept = folder / "out" / work.TRUTHS
    names = sorted(kept.iterdir())
    names[1].unlink()
    calls = []
    real = work.find_truth
    monkeypatch.setattr(work, "find_truth", lambda *a, **k: calls.append(1) or real(*a, **k))
    again = boards.board(audit(settings(folder), folder / "out", OPTIONS, silent), draws=50)
    assert len(calls) == 1
    assert again.rows[0].agreement == board.rows[0].agreement
    assert {r.label: r.agreement.correlation for r in again.rows} == {
        r.label: r.agreement.correlation for r in board.rows
    }
    with pytest.raises(ValueError, match=r"other settings: plan.most 16 -> 32; give its"):
        audit(settings(folder), folder / "out", Options("grpo", 3, 2, 2, 48, Plan(8, 32)), silent)
    with pytest.raises(ValueError, match=r"other settings: config.rollout.sampling.temperature 1.0 -> 0.5; give"):
        audit(settings(folder, "rollout.sampling.temperature=0.5"), folder / "out", OPTIONS, silent)
    names[0].write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged"):
        audit(settings(folder), folder / "out", OPTIONS, silent)


def test_a_method_that_does_not_exist_is_said_before_anything_is_sampled(tmp_path):
    with pytest.raises(ValueError, match="unknown credit 'grp'; did you mean 'grpo'"):
        audit(settings(tmp_path), tmp_path / "out", Options("grp", 3, 2, 2, 48, Plan(8, 16)), silent)
    assert not (tmp_path / "out").exists()


def test_files_and_page(found, board, tmp_path):
    paths = output.write(found[1], board, tmp_path)
    assert [p.name for p in paths] == ["audit.parquet", "tokens.parquet", "audit.json", "audit.html"]
    table = pq.read_table(tmp_path / "tokens.parquet").to_pydict()
    assert len(table["truth"]) == board.facts["tokens"]
    assert {"credit:grpo", "truth_error", "piece", "sample_id"} <= set(table)
    numbers = json.loads((tmp_path / "audit.json").read_text())
    assert numbers["rows"][0]["label"] == "truth"
    page = (tmp_path / "audit.html").read_text()
    assert "GRPO" in page
    assert "standard error" in page


def test_the_page_opens_in_a_browser(found, board, tmp_path):
    sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
    from check_report import SIZES, Browser, check_looks, complaints, find_browser

    if find_browser() is None:
        pytest.skip("no Chromium on PATH")
    output.write(found[1], board, tmp_path)
    browser = Browser(find_browser())
    try:
        browser.size(*SIZES["narrow"], dark=True)
        browser.call("Page.navigate", url=(tmp_path / "audit.html").resolve().as_uri())
        browser.wait("Page.loadEventFired")
        browser.settle()
        assert browser.run("document.documentElement.scrollWidth") <= SIZES["narrow"][0]
        names = "[...document.querySelectorAll('#board tbody th')].map(n => n.textContent)"
        before = browser.run(names)
        assert before == [row.label for row in board.rows]
        head = "[...document.querySelectorAll('#board thead th')].findIndex(h => h.textContent === 'noise')"
        browser.run(f"document.querySelectorAll('#board thead th')[{head}].firstChild.click()")
        rows = "[...document.querySelectorAll('#board tbody tr')]"
        values = browser.run(f"{rows}.map(r => parseFloat(r.cells[{head}].textContent))")
        known = [v for v in values if v is not None and v == v]
        assert known == sorted(known, reverse=True)
        assert sorted(browser.run(names)) == sorted(before)
        assert check_looks(browser) > 0
        assert not complaints(browser.seen)
    finally:
        browser.close()


def test_frozen_rollouts_of_a_run_are_audited_by_the_command(found, tmp_path, capsys):
    source = found[0] / "out"
    words = ["--methods", "rloo", "--continuations", "4", "--no-gradient", "-o", str(tmp_path / "a")]
    assert main(["audit", str(source), *words]) == 0
    assert "rloo" in capsys.readouterr().out
    assert (tmp_path / "a" / "audit.html").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("text_math", "--continuations", "many"), "such as 16,64"),
        (("text_math", "--prompts", "0"), "--prompts must be at least 1"),
        (("text_math", "--exact", "rollout.sampling.top_p=0.9"), "top_p"),
        (("nowhere",), "nowhere"),
    ],
)
def test_bad_input(words, said, tmp_path, capsys):
    small = () if words == ("nowhere",) else ("--prompts", "1") if "--prompts" not in words else ()
    assert main(["audit", *words, *small, "-o", str(tmp_path / "x")]) == 2
    assert said in capsys.readouterr().err
