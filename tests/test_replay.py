"""Frozen rollouts: what is written is what is read, and what other methods make of it is what they would have made."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import parse, settings
from test_cli import mmcredit
from tiny import save, tiny_text, tiny_tokenizer

from mmcredit import Objective, Rollouts, assign_credit
from mmcredit.components import Needs
from mmcredit.data.sample import Media, Sample
from mmcredit.frozen import find, freeze, thaw
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.policy import Policy
from mmcredit.replay import files
from mmcredit.replay.compare import Options, replay
from mmcredit.replay.gradient import Gradients
from mmcredit.replay.methods import agreeing, make_methods
from mmcredit.replay.methods import parse as parse_methods
from mmcredit.replay.numbers import cosine, matrix, rank_correlation, shares
from mmcredit.replay.page import write_page
from mmcredit.train.loop import Trainer

ROOT = Path(__file__).parent.parent
METHODS = "grpo, tempo, pgpo, hapo, forking_tokens, rloo, dcpo, spae, {grpo: {ddof: 1}}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Three steps on images; the batches of steps 0 and 2 are frozen, the weights of step 2 are kept."""
    folder = tmp_path_factory.mktemp("vision")
    Trainer(parse(folder, log__rollouts_every=2, checkpoint__every=2)).run()
    return folder / "run"


@pytest.fixture(scope="module")
def found(run_dir):
    return replay(run_dir, Options(METHODS))


def row(found, label):
    return next(r for r in found.rows if r.label == label)


# -- the store ----------------------------------------------------------------------------------------------------


def batch():
    """Two prompts, one image in both, every optional field, and values that text formats like to lose."""
    generator = torch.Generator().manual_seed(0)
    floats = torch.randn(3, 4, generator=generator)
    floats[0, 0], floats[1, 1], floats[2, 2] = torch.nan, -0.0, torch.finfo(torch.float32).tiny / 8
    mask = torch.tensor([[True, True, True, False], [False, True, True, True], [False] * 4])
    image = Media("image", data=b"\x89PNG not decoded here", name="a.png")
    asked = [{"type": "image"}, {"type": "text", "text": "wie viele? ü \ud800"}]
    meta = {"level": 3, "tags": ("a", "b"), "scores": {"x": 0.1}, "raw": b"bytes"}
    samples = (
        Sample("q/1", ({"role": "user", "content": asked},), (image,), "2", meta),
        Sample("q/2", ({"role": "system", "content": "count"}, {"role": "user", "content": asked}), (image,)),
    )
    return Rollouts(
        tokens=torch.randint(0, 300, (3, 4), generator=generator),
        mask=mask,
        valid=torch.tensor([[True] * 4, [True] * 4, [False] * 4]),
        group=torch.tensor([1, 0, 0]),
        rewards=torch.tensor([1.0, 0.1, -0.3]),
        reward_parts={"answer": torch.tensor([1.0, torch.nan, 0.0])},
        truncated=torch.tensor([False, True, False]),
        sampler_logprobs=floats,
        segments=torch.arange(12).view(3, 4),
        signals={"entropy": floats.abs(), "view_logprobs": floats.expand(2, 3, 4), "step_id": torch.ones(3, 4).long()},
        samples=samples,
    )


def same_bits(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        return a.contiguous().flatten().view(torch.uint8).equal(b.contiguous().flatten().view(torch.uint8))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    return a == b


def frozen(folder, rollouts=None):
    config = {"data": {"media": {}}, "note": 0.1}
    return freeze(folder / "rollouts", rollouts or batch(), 7, 20, config, tiny_tokenizer())


def test_a_batch_comes_back_bit_for_bit(tmp_path):
    rollouts = batch()
    back = thaw(frozen(tmp_path, rollouts))
    for f in fields(Rollouts):
        if f.name != "samples":
            assert same_bits(getattr(rollouts, f.name), getattr(back.rollouts, f.name)), f.name
    first, second = back.rollouts.samples
    assert first.messages == rollouts.samples[0].messages
    assert (first.id, first.answer, first.media) == ("q/1", "2", rollouts.samples[0].media)
    assert first.meta == {"level": 3, "tags": ("a", "b"), "scores": {"x": 0.1}}
    assert back.left_out == {"raw": 1}
    assert (second.id, second.answer, second.meta) == ("q/2", None, {})
    assert (back.step, back.total_steps, back.config["note"]) == (7, 20, 0.1)
    assert len(list((tmp_path / "rollouts/step-000007/media").iterdir())) == 1  # one image, two prompts


def test_freezing_again_replaces_and_leaves_nothing_beside(tmp_path):
    frozen(tmp_path)
    frozen(tmp_path, batch().replace(rewards=torch.tensor([5.0, 6.0, 7.0])))
    assert [p.name for p in (tmp_path / "rollouts").iterdir()] == ["step-000007"]
    assert thaw(tmp_path / "rollouts/step-000007").rollouts.rewards.tolist() == [5.0, 6.0, 7.0]


def test_media_that_have_gone_leave_no_half_batch(tmp_path):
    rollouts = batch()
    gone = Media("image", path=tmp_path / "gone.png", name="gone.png")
    samples = (Sample("q/1", rollouts.samples[0].messages, (gone,)), rollouts.samples[1])
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        frozen(tmp_path, rollouts.replace(samples=samples))
    assert list((tmp_path / "rollouts").iterdir()) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / "batch.safetensors"), "the content of batch.safetensors is not what was written"),
        (lambda f: flip(f / "batch.json"), "the content of batch.json is not"),
        (lambda f: flip(next((f / "media").iterdir())), "the content of media/"),
        (lambda f: (f / "batch.json").write_text("{}"), r"batch\.json has 2 bytes, \d+ were written"),
        (lambda f: (f / "batch.safetensors").unlink(), "batch.safetensors is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is not valid JSON"),
        (lambda f: (f / "manifest.json").unlink(), r"not a frozen rollout batch \(manifest\.json is missing\)"),
        (lambda f: (f / "manifest.json").write_text('{"step": 1}'), "not a frozen rollout batch"),
        (lambda f: edit_manifest(f, version=2), "written in version 2 of the format; this mmcredit reads version 1"),
        (lambda f: edit_manifest(f, files={}), "does not list the files of a batch"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_folders_are_refused_by_name(tmp_path, damage, message):
    folder = frozen(tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        thaw(folder)
    assert "step-000007" in str(error.value)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    folder = frozen(tmp_path)
    (tmp_path / "rollouts/secret").write_text("x")
    files_ = json.loads((folder / "manifest.json").read_text())["files"]
    edit_manifest(folder, files={**files_, "media/../../secret": {"bytes": 1, "sha256": ""}})
    with pytest.raises(ValueError, match="which no frozen batch holds"):
        thaw(folder)


def test_batches_are_found_in_step_order_and_a_run_without_any_says_how(tmp_path):
    for step in (10, 2, 1_000_000):
        freeze(tmp_path / "rollouts", batch(), step, 20, {"data": {"media": {}}}, tiny_tokenizer())
    (tmp_path / "rollouts/.writing-step-000011").mkdir()  # a kill in the middle
    names = ["step-000002", "step-000010", "step-1000000"]
    assert [p.name for p in find(tmp_path)] == [p.name for p in find(tmp_path / "rollouts")] == names
    assert find(tmp_path / "rollouts/step-000010") == [tmp_path / "rollouts/step-000010"]
    with pytest.raises(ValueError, match="no frozen rollouts; train with log.rollouts_every"):
        find(tmp_path / "rollouts/.writing-step-000011")
    with pytest.raises(ValueError, match="no such folder"):
        find(tmp_path / "nothing")


def test_a_full_disk_is_an_alarm_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmcredit.frozen.save_tree", full)
    outcome = Trainer(parse(tmp_path, log__rollouts_every=1, run__steps=2)).run()
    assert outcome.steps == 2
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    alarms = [e for e in events if "were not frozen" in e["message"]]
    assert [e["step"] for e in alarms] == [0, 1]
    assert list((tmp_path / "run/rollouts").iterdir()) == []


# -- numbers --------------------------------------------------------------------------------------------------------


def test_shares_by_hand():
    grpo = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0])
    other = torch.tensor([0.5, -0.5, -2.0, 0.0, 3.0, 0.0, 0.0, 0.1])
    assert shares(other, grpo) == shares(other, grpo).__class__(nonzero=5 / 8, flips=1 / 8, silenced=2 / 8, added=1 / 8)


def test_rank_correlation_with_ties_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(3)
    for levels in (2, 5, 1000):
        a = torch.randint(0, levels, (200,), generator=generator).double()
        b = a + torch.randint(0, levels, (200,), generator=generator).double()
        expected = stats.spearmanr(a.numpy(), b.numpy()).statistic
        assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-12)


def test_agreement_is_symmetric_and_undefined_without_a_direction():
    a, b, zero = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([2.0, 4.0, -2.0]), torch.zeros(3)
    assert cosine(a, b) == pytest.approx(1.0)
    assert cosine(a, -b) == pytest.approx(-1.0)
    assert cosine(a, zero) is None
    assert rank_correlation(a, torch.ones(3)) is None
    table = matrix([a, b, zero], cosine)
    assert table[0][1] == table[1][0]
    assert table[2] == [None, None, None]


def test_gradients_keep_one_reference_and_clear_up():
    parameters = {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.nn.Parameter(torch.zeros(1))}
    gradients = Gradients(SimpleNamespace(trainable_parameters=lambda: parameters))  # type: ignore[arg-type]

    def fill(a, b):
        def set_grad():
            parameters["a"].grad = torch.tensor(a)
            parameters["b"].grad = None if b is None else torch.tensor([b])

        return set_grad

    first = gradients.compare(fill([3.0, 0.0], 4.0))
    assert (first.cosine, first.norm, first.reference_norm) == (1.0, 5.0, 5.0)
    second = gradients.compare(fill([0.0, 2.0], None))  # a parameter that got no gradient counts as 0
    assert (second.cosine, second.norm) == (0.0, 2.0)
    third = gradients.compare(fill([-6.0, 0.0], -8.0))
    assert third.cosine == pytest.approx(-1.0)
    assert gradients.compare(fill([0.0, 0.0], 0.0)).cosine is None
    assert all(p.grad is None for p in parameters.values())


# -- methods --------------------------------------------------------------------------------------------------------


OBJECTIVE = {"ratio": "token", "clip": {"low": 0.2, "high": 0.2}, "aggregate": "token_mean", "regularizers": [],
             "mismatch": None}  # fmt: skip


def test_entries_become_pipelines():
    entries = parse_methods("pgpo, {pgpo: {tau: 0.2}}, [rloo, forking_tokens], {opd: {base: reward}}, rloo, pgpo")
    methods, refused = make_methods(entries, OBJECTIVE, 16)
    spelled = {m.label: m.spelled for m in methods}
    assert spelled == {
        "grpo": "grpo",
        "pgpo": "grpo + pgpo",
        "pgpo(tau=0.2)": "grpo + pgpo",
        "rloo + forking_tokens": "rloo + forking_tokens",
        "opd(base=reward)": "opd",
        "rloo": "rloo",
    }
    assert refused == {}
    assert methods[2].pipeline.methods[1].tau == 0.2


def test_all_stands_for_every_method():
    methods, refused = make_methods(parse_methods("all"), OBJECTIVE, 16)
    assert {"grpo", "tempo", "pgpo", "spae"} <= {m.label for m in methods} | set(refused)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grpoo", "did you mean 'grpo'"),
        ("{pgpo: {tua: 1}}", "did you mean 'tau'"),
        ("3", "--methods holds 3"),
        ("[forking_tokens]", "cannot stand first"),
        ("recipe:nothing_like_it", "no config 'nothing_like_it'"),
        ("grpo, {", "cannot be read"),
    ],
)
def test_wrong_entries_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        make_methods(parse_methods(text), OBJECTIVE, 16)


def test_a_recipe_brings_its_credit_and_objective(tmp_path, monkeypatch):
    folder = tmp_path / "configs/methods"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "credit: [rloo]\nobjective: {aggregate: dr_grpo, regularizers: [{kl: {coef: 0.1}}]}\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = make_methods(["recipe:mine"], OBJECTIVE, 16)[0][1]
    assert mine.spelled == "rloo"
    assert (mine.objective.aggregate.name, mine.objective.aggregate.max_length) == ("dr_grpo", 16)
    assert mine.objective.clip.low == 0.2  # the run's
    assert mine.objective.regularizers == []
    assert mine.notes == ["left out: regularizer kl(coef=0.1)"]
    assert mine.extra_passes() == ("reference",)  # its own run would pay for it


# -- whole replays --------------------------------------------------------------------------------------------------


def test_grpo_agrees_with_itself(found):
    """Once as the reference, once as a method of its own that computes the same."""
    for label in ("grpo", "grpo(ddof=1)"):
        own = row(found, label)
        assert own.cosine == pytest.approx(1.0, abs=1e-12)
        assert own.rank == pytest.approx(1.0, abs=1e-12)
        assert own.gradient_cosine == pytest.approx(1.0, abs=1e-9)
        assert own.gradient_norm == pytest.approx(1.0, abs=1e-9)
        assert (own.shares.flips, own.shares.silenced, own.shares.added) == (0.0, 0.0, 0.0)
        assert own.shares.nonzero > 0
        assert own.passes == ()
    for i, line in enumerate(found.cosines):
        assert line[i] == pytest.approx(1.0, abs=1e-12)


def test_the_weights_of_the_step_are_used_where_they_are_kept(found):
    assert [b.frozen.step for b in found.batches] == [0, 2]
    assert found.batches[1].weights == "checkpoint step-000002"
    assert all(b.kl < 1e-9 for b in found.batches)  # the model is the one that sampled
    assert found.notes == []


def test_other_weights_are_seen_and_said(run_dir):
    one = replay(run_dir / "rollouts/step-000002", Options("grpo", model=str(run_dir.parent / "qwen2_5_vl")))
    assert one.batches[0].kl > 0.01  # two updates at 1e-3 earlier
    assert "not the one that sampled step 2" in one.notes[0]


def test_each_pass_is_run_once_for_all_methods(found):
    assert [b.passes for b in found.batches] == [("clean", "blind")] * 2
    views = found.model.policy.costs.views
    # One micro-batch a batch: the blind view is run once for each, the clean one for the scores and the gradients.
    assert views["blind"].forwards == 2
    assert row(found, "pgpo").passes == ("clean", "blind")
    assert row(found, "tempo").passes == ()
    assert row(found, "forking_tokens").passes == ("clean",)
    assert row(found, "hapo").passes == ("clean", "clean (each mini-batch)")
    assert row(found, "pgpo").pass_seconds > row(found, "forking_tokens").pass_seconds > 0


def test_a_method_that_needs_probes_is_named_and_counted(found):
    assert set(found.refused) == {"spae"}
    assert "step_id" in found.refused["spae"]


def test_credit_is_what_the_methods_give(found, run_dir):
    for index, path in enumerate(find(run_dir)):
        rollouts = thaw(path).rollouts
        record = found.batches[index]
        expected = assign_credit(rollouts, ["rloo"]).advantages
        assert torch.equal(record.credit["rloo"], expected)
    # DCPO's memory goes from batch to batch.
    state: dict = {}
    for path, record in zip(find(run_dir), found.batches, strict=True):
        batch_ = thaw(path)
        credit = assign_credit(batch_.rollouts, ["dcpo"], batch_.step, batch_.total_steps, state)
        assert torch.equal(record.credit["dcpo"], credit.advantages)


def test_gradient_cosine_is_the_one_computed_by_hand(found, run_dir):
    """Step 0: the same weights, one plain backward pass per method over all responses, flat gradients."""
    frozen_ = thaw(find(run_dir)[0])
    rollouts = frozen_.rollouts
    policy = Policy.load(found.model.setting.model)
    prompts = [policy.encode(sample) for sample in rollouts.samples]
    passes = [Pass(CLEAN, frozenset({"logprobs", "entropy"}))]
    clean = policy.score(prompts, rollouts, passes, temperature=1.0)[CLEAN]
    rollouts = rollouts.replace(old_logprobs=clean["logprobs"], signals={"entropy": clean["entropy"]})
    flat = {}
    for name, spec in {"grpo": ["grpo"], "forking_tokens": ["grpo", "forking_tokens"], "tempo": ["tempo"]}.items():
        credit = assign_credit(rollouts, spec, frozen_.step, frozen_.total_steps)
        logprobs = policy.forward(prompts, rollouts, range(len(rollouts)), passes, temperature=1.0)[CLEAN]["logprobs"]
        loss = Objective(clip={"low": 0.2, "high": 0.2})(logprobs, rollouts, credit).loss
        parameters = list(policy.trainable_parameters().values())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        flat[name] = torch.cat([g.flatten().double() for g in grads])
    directions = found.batches[0].directions
    for name in ("forking_tokens", "tempo"):
        expected = float(flat["grpo"] @ flat[name] / flat["grpo"].norm() / flat[name].norm())
        assert abs(expected) < 0.999
        assert directions[name].cosine == pytest.approx(expected, abs=1e-5)
        assert directions[name].norm == pytest.approx(float(flat[name].norm()), rel=1e-4)


def test_files_hold_the_same_numbers(found, tmp_path):
    table = files.write_parquet(found, tmp_path / files.TABLE)
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(table)
    assert len(frame) == sum(len(b.frozen.rollouts) for b in found.batches) == 32
    first = frame.iloc[0]
    assert first["step"] == 0
    keep = found.batches[0].frozen.rollouts.valid[0]
    for label in found.labels:
        assert torch.equal(torch.tensor(first[f"credit:{label}"]), found.batches[0].credit[label][0][keep].float())
    assert frame["mask"].map(sum).sum() == found.tokens
    numbers = json.loads(files.write_numbers(found, tmp_path / files.NUMBERS).read_text())
    assert [m["label"] for m in numbers["methods"]] == found.labels
    assert numbers["not_replayable"] == found.refused
    assert numbers["batches"][0]["passes"] == ["clean", "blind"]


def test_a_model_with_another_vocabulary_is_refused(run_dir, tmp_path):
    model, tokenizer = tiny_text()
    tokenizer.add_tokens(["quite_new"])
    save(model, tokenizer, tmp_path / "other")
    with pytest.raises(ValueError, match="another vocabulary"):
        replay(run_dir, Options("grpo", model=str(tmp_path / "other")))


def test_recompute_forgets_what_the_run_stored(found, run_dir, tmp_path):
    pristine = found.batches[0]
    rollouts = pristine.frozen.rollouts
    assert rollouts.old_logprobs is not None  # the checks of the first step
    wrong = rollouts.with_signals({"blind_logprobs": torch.zeros_like(rollouts.sampler_logprobs)})
    tokenizer = found.model.policy.tokenizer
    path = freeze(tmp_path, wrong, 0, pristine.frozen.total_steps, pristine.frozen.config, tokenizer)
    kept = replay(path, Options("pgpo", gradient=False)).batches[0]
    assert kept.passes == ("clean",)
    assert torch.equal(kept.credit["pgpo"], assign_credit(wrong, ["grpo", "pgpo"]).advantages)
    made = replay(path, Options("pgpo", gradient=False, recompute=True))
    assert made.batches[0].passes == ("clean", "blind")
    assert made.rows[1].gradient_cosine is None
    assert torch.allclose(made.batches[0].credit["pgpo"], pristine.credit["pgpo"], atol=1e-4)
    assert not torch.allclose(made.batches[0].credit["pgpo"], kept.credit["pgpo"], atol=1e-2)


def test_two_methods_that_want_one_signal_with_other_settings():
    methods, refused = make_methods(["vppo", "pgpo"], OBJECTIVE, 16)
    first, second = methods[1], methods[2]
    first.pipeline.needs = lambda: Needs(signals=("view_logprobs",), settings={"view_logprobs": {"views": 2}})
    second.pipeline.needs = lambda: Needs(signals=("view_logprobs",), settings={"view_logprobs": {"views": 3}})
    kept, union = agreeing(methods, refused)
    assert [m.label for m in kept] == ["grpo", "vppo"]
    assert union.settings == {"view_logprobs": {"views": 2}}
    assert "cannot share its passes" in refused["pgpo"]


def test_text_run_with_six_methods(tmp_path):
    model, tokenizer = tiny_text("qwen3")
    save(model, tokenizer, tmp_path / "text")
    lines = [{"prompt": f"{a} + {b} =", "answer": str(a + b), "id": f"{a}+{b}"} for a in range(4) for b in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = parse(
        tmp_path,
        model={"path": str(tmp_path / "text")},
        data__train={"jsonl": {"path": str(tmp_path / "train.jsonl")}},
        log__rollouts_every=1,
        run__steps=1,
        check__image_probe=False,
    )
    Trainer(config).run()
    found = replay(tmp_path / "run", Options("tempo, ucas, delta, erpo, negative_only, recipe:gspo, pgpo"))
    assert found.labels == ["grpo", "tempo", "ucas", "delta", "erpo", "negative_only", "recipe:gspo", "pgpo"]
    assert found.refused == {}
    assert row(found, "recipe:gspo").cosine == pytest.approx(1.0, abs=1e-12)
    negative = row(found, "negative_only")
    grpo = found.batches[0].credit["grpo"]
    positive = int((grpo > 0).sum()) / found.tokens
    assert negative.shares.silenced == pytest.approx(positive)
    assert row(found, "erpo").passes == ("clean", "reference")
    assert found.batches[0].passes == ("clean", "reference", "blind")


def test_the_command_prints_writes_and_refuses(run_dir, tmp_path):
    done = mmcredit("replay", str(run_dir), "--methods", "tempo,spae", "-o", str(tmp_path / "out"), "model.device=cpu")
    assert done.returncode == 0, done.stderr
    assert "not replayable: spae needs" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"replay.parquet", "replay.json", "replay.html"}
    (tmp_path / "empty").mkdir()
    none = mmcredit("replay", str(tmp_path / "empty"))
    assert none.returncode == 2
    assert "log.rollouts_every" in none.stderr


def test_the_setting_is_checked(tmp_path):
    with pytest.raises(ValueError, match="rollouts_every"):
        parse(tmp_path, log__rollouts_every=-1)
    assert "rollouts_every" not in settings(tmp_path)["log"]  # runs without it freeze nothing
    assert parse(tmp_path).log.rollouts_every == 0


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_says_what_is_left_out(found, tmp_path):
    page = write_page(found, tmp_path / "replay.html", groups_per_batch=1).read_text(encoding="utf-8")
    assert "Not replayable (1)" in page
    assert "6 of 8 groups are not on this page" in page
    assert "https://" not in page
    assert page.count("http://") == page.count("http://www.w3.org/2000/svg") == 1  # a name, not an address
    assert "default-src &#39;none&#39;" in page


sys.path.insert(0, str(ROOT / "scripts"))
from check_report import Browser, check_looks, complaints, find_browser  # noqa: E402


@pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH (Debian: apt-get install chromium)")
def test_the_page_in_a_browser(found, tmp_path):
    page = write_page(found, tmp_path / "replay.html")
    browser = Browser(find_browser())
    try:
        browser.size(1400, 1000)
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("Page.loadEventFired")
        browser.settle()
        assert browser.run("document.documentElement.dataset.ready") == "true"
        assert browser.run("report.methods") == found.labels
        assert browser.run("document.querySelectorAll('#methods tbody tr').length") == len(found.rows)
        shown = browser.run(
            "[...document.querySelectorAll('.response')].map(r => r.querySelectorAll('.credit').length)"
        )
        assert shown == [len(found.labels)] * 4  # four responses, a row per method
        images = browser.run("[...document.querySelectorAll('.prompt img')].map(i => [i.complete, i.naturalWidth])")
        assert images
        assert all(done and width for done, width in images)
        # Colours: the sign of every shown token's credit, method by method.
        wrong = browser.run(
            "(() => { let wrong = 0; document.querySelectorAll('.response').forEach((node, r) => {"
            " const member = report.groups[view.group].members[r];"
            " node.querySelectorAll('.credit').forEach((line) => {"
            "  const kind = kinds.find((k) => k.label === line.dataset.method);"
            "  line.querySelectorAll('.token').forEach((token, i) => {"
            "   const value = valueAt(kind.read(member), i);"
            "   if ((value !== 0) !== (token.style.backgroundColor !== '')) wrong += 1; }); }); }); return wrong; })()"
        )
        assert wrong == 0
        browser.hover("#group .token")
        card = browser.run("byId('card').hidden ? '' : byId('card').textContent")
        assert all(label in card for label in found.labels)
        browser.key("j")
        assert browser.run("view.group") == 1
        browser.run("byId('scale').value = 'one'; byId('scale').dispatchEvent(new Event('change'))")
        assert len(set(browser.run("[...document.querySelectorAll('.method small')].map(n => n.textContent)"))) == 1
        browser.run("document.querySelector('#shown input').click()")
        assert browser.run("document.querySelectorAll('.response .credit').length") == 4 * (len(found.labels) - 1)
        assert check_looks(browser) > 0
        assert complaints(browser.seen) == []
    finally:
        browser.close()
