"""Vision credit: pgpo and vppo, with the numbers of their papers' notes."""

import math

import pytest
import torch
from ragged import mask_of, pad, rollouts

from mmcredit import Credit, Objective, assign_credit
from mmcredit.components import build
from mmcredit.credit import Step
from mmcredit.data.sample import Media, Sample

SEEN = [[-0.10, -0.50, -1.20, -0.05, -2.00, -0.30], [-0.20, -0.70, -0.10, -1.50]]
BLIND = [[-0.10, -2.50, -1.60, -0.15, -1.00, -4.30], [-0.20, -0.90, -1.10, -1.50]]
WEIGHTS = [[0, 1.594079, 0.131142, 0.009313, 1.044627, 3.220839], [0, 0.188176, 3.811824, 0]]


def pgpo_batch(seen=SEEN, blind=BLIND, **fields):
    batch = rollouts([len(row) for row in seen], [1.0] + [0.0] * (len(seen) - 1), **fields)
    width = batch.mask.shape[1]
    batch = batch.replace(old_logprobs=pad(seen, 5.0, width))  # junk in the padding
    return batch.with_signals({"blind_logprobs": pad(blind, -7.0, width)})


def weights_of(batch, notes=None, **fields):
    credit = Credit(batch.mask.float(), batch.mask)
    return build("credit", {"pgpo": fields})(credit, batch, Step(notes={} if notes is None else notes)).advantages


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, WEIGHTS[0]),
        ({"beta": 1.0}, [0, 1.715133, 0.168630, 0.011975, 1.343240, 2.761022]),
        ({"tau": 0.6}, [0, 1.174254, 0.105190, 0.007470, 0.837903, 3.875184]),
        ({"tau": 1.0}, [0, 1.647037, 0.147542, 0.010477, 1.175262, 3.019682]),
        ({"tau": 1e-9}, [0, 1.397961, 0.733940, 0.673243, 1.189045, 2.005810]),
        (
            {"threshold": "quantile", "floor": 0.1, "mass": "none"},
            [0.1, 2.044166, 1.0, 0.1, 1.715648, 3.0],
        ),
    ],
)
def test_pgpo_weights(fields, expected):
    weights = weights_of(pgpo_batch(SEEN[:1], BLIND[:1]), **fields)
    assert torch.allclose(weights, torch.tensor([expected], dtype=torch.float32), atol=1e-5)


def test_pgpo_batch_loss_and_gradient():
    batch = pgpo_batch()
    assert torch.allclose(weights_of(batch), pad(WEIGHTS), atol=1e-5)
    signs = Credit(torch.tensor([[1.0], [-1.0]]) * batch.mask, batch.mask)
    shaped = build("credit", "pgpo")(signs, batch, Step())
    objective = Objective(clip={"low": 0.2, "high": 0.28, "dual": 3.0}, aggregate="token_mean")
    for credit in (signs, shaped):
        assert objective(batch.old_logprobs, batch, credit).loss.item() == pytest.approx(-0.2, abs=1e-6)
    moved = pad([[0.1, 0, 0.3, 0, -0.3, 0], [0, 0.2, -0.4, 0]])
    expected = {
        -0.248667: (shaped, [[0, -0.159408, 0, -0.000931, -0.077388, -0.322084], [0, 0.022984, 0, 0]]),
        -0.210459: (signs, [[-0.110517, -0.1, 0, -0.1, -0.074082, -0.1], [0.1, 0.122140, 0, 0.1]]),
    }
    for value, (credit, gradient) in expected.items():
        logprobs = (batch.old_logprobs + moved).requires_grad_(True)
        loss = objective(logprobs, batch, credit).loss
        loss.backward()
        assert loss.item() == pytest.approx(value, abs=1e-5)
        assert torch.allclose(logprobs.grad, pad(gradient), atol=1e-5)


def kl_batch(rows, **fields):
    """`visual_kl` rows, for the estimator that takes S as it is."""
    return rollouts([len(row) for row in rows], [1.0] * len(rows), signals={"visual_kl": rows}, **fields)


@pytest.mark.parametrize("rows", [[[0.0, 0.0, 0.0]], [[0.2, 0.2, 0.2]], [[0.5]], [[0.0, 1.0], []]])
def test_pgpo_constant_dependency_changes_nothing(rows):
    batch = kl_batch(rows)
    weights = weights_of(batch, tvd_estimator="full")
    flat = [[1.0] * len(row) for row in rows]
    if rows == [[0.0, 1.0], []]:
        flat = [[0.0, 2.0], []]
    assert torch.allclose(weights, pad(flat), atol=1e-6)
    assert torch.equal(weights_of(kl_batch([[0.2, 0.2]]), tvd_estimator="full", min_range=0.0), torch.ones(1, 2))


def test_pgpo_noise_is_not_amplified_with_min_range():
    batch = kl_batch([[0.0, 1e-4]])
    assert torch.allclose(weights_of(batch, tvd_estimator="full", min_range=0.0), torch.tensor([[0.0, 2.0]]), atol=1e-4)
    assert weights_of(batch, tvd_estimator="full", min_range=1e-3).tolist() == [[1, 1]]


def test_pgpo_full_vocabulary():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.98, 0.01, 0.01], [0.2, 0.5, 0.3]])
    q = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.6, 0.2, 0.2]])
    kl = (p * (p / q).log()).sum(1)
    assert torch.allclose(kl, torch.tensor([0.200777, 0, 0.595108, 0.360062]), atol=1e-5)
    weights = weights_of(kl_batch([kl.tolist()]), tvd_estimator="full")
    assert torch.allclose(weights, torch.tensor([[0.670780, 0, 2.054220, 1.275000]]), atol=1e-5)


def dependency(estimator, seen, blind, **fields):
    batch = pgpo_batch([seen], [blind])
    method = build("credit", {"pgpo": {"tvd_estimator": estimator, **fields}})
    return method._dependency(batch, batch.mask)[0]


def test_pgpo_estimators():
    seen, blind = SEEN[0], BLIND[0]
    k3 = dependency("k3", seen, blind)
    assert torch.allclose(k3, torch.tensor([0, 1.135335, 0.070320, 0.004837, 0.718282, 3.018316]), atol=1e-5)
    gap = torch.tensor(blind) - torch.tensor(seen)
    assert torch.allclose(dependency("k1abs", seen, blind), gap.abs())
    assert torch.allclose(dependency("k2", seen, blind), gap**2 / 2)
    assert dependency("k3", [-30.0, -0.1], [-0.1, -50.0]).tolist() == pytest.approx([10.0, 10.0])
    assert dependency("k3", [-0.1], [-50.0], s_max=100.0).tolist() == pytest.approx([19.0], abs=1e-4)
    assert dependency("k3", [-0.1], [-math.inf], s_max=100.0).tolist() == pytest.approx([19.0], abs=1e-4)
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.4, 0.3])
    per_outcome = dependency("k3", p.log().tolist(), q.log().tolist())
    assert torch.allclose(per_outcome, torch.tensor([0.275869, 0.306853, 0.901388]), atol=1e-5)
    assert (p * per_outcome).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-6)


def test_pgpo_mass():
    batch = pgpo_batch()
    weights = weights_of(batch)
    assert torch.allclose(weights.sum(1), torch.tensor([6.0, 4.0]))
    pooled = weights_of(batch, mass="per_batch")
    assert pooled.sum().item() == pytest.approx(10, abs=1e-5)
    assert pooled.sum(1)[0].item() != pytest.approx(6, abs=0.1)
    raw = weights_of(batch, mass="none")
    assert raw[0].sum().item() == pytest.approx(5.588606, abs=1e-5)
    assert torch.allclose(pooled / raw.clamp(min=1e-9) * (raw > 0), 10 / raw.sum() * (raw > 0), atol=1e-5)
    order = pad(BLIND) - pad(SEEN)
    k3 = torch.expm1(order) - order
    for row, length in enumerate((6, 4)):  # monotone in S
        ranked = weights[row, :length][k3[row, :length].argsort()]
        assert bool((ranked.diff() >= 0).all())


def test_pgpo_sign_and_floor():
    batch = pgpo_batch()
    signs = Credit(torch.tensor([[1.0], [-1.0]]) * batch.mask, batch.mask)
    credit = build("credit", {"pgpo": {"sign": "positive_only"}})(signs, batch, Step())
    assert torch.allclose(credit.advantages[0], torch.tensor(WEIGHTS[0]), atol=1e-5)
    assert torch.equal(credit.advantages[1], signs.advantages[1])
    floored = weights_of(batch, floor=0.5)
    assert bool((floored[batch.mask] > 0).all())
    assert torch.allclose(floored.sum(1), torch.tensor([6.0, 4.0]))


def test_pgpo_off_is_grpo_bit_for_bit():
    batch = pgpo_batch()
    grpo = assign_credit(batch, ["grpo"]).advantages
    assert torch.equal(assign_credit(batch, ["grpo", {"pgpo": {"tau": 0.0, "beta": 0.0}}]).advantages, grpo)
    same = batch.with_signals({"blind_logprobs": batch.old_logprobs})
    assert torch.equal(assign_credit(same, ["grpo", "pgpo"]).advantages, grpo)


def test_pgpo_responses_without_media_are_left_alone():
    picture = Sample("a", ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=b"x"),))
    words = Sample("b", ({"role": "user", "content": "?"},))
    batch = pgpo_batch(group=[0, 1], samples=(picture, words))
    notes = {}
    weights = weights_of(batch, notes)
    assert torch.allclose(weights, pad([WEIGHTS[0], [1, 1, 1, 1]]), atol=1e-5)
    assert notes["responses_without_media"] == 1
    # A pass that skipped such rows may leave anything there.
    broken = batch.signal("blind_logprobs").clone()
    broken[1] = math.nan
    notes = {}
    assert torch.equal(weights_of(batch.with_signals({"blind_logprobs": broken}), notes), weights)
    assert notes["responses_not_finite"] == 0


def test_pgpo_responses_with_nan_are_left_alone_and_counted():
    batch = pgpo_batch()
    broken = batch.signal("blind_logprobs").clone()
    broken[1, 2] = math.nan
    notes = {}
    weights = weights_of(batch.with_signals({"blind_logprobs": broken}), notes)
    assert torch.allclose(weights, pad([WEIGHTS[0], [1, 1, 1, 1]]), atol=1e-5)
    assert notes["responses_not_finite"] == 1
    assert notes["dependency_max"] == pytest.approx(3.018316, abs=1e-5)


def test_pgpo_uses_only_tokens_in_the_loss():
    batch = pgpo_batch()
    mask = batch.mask.clone()
    mask[0, 5] = False  # a tool token: the largest dependency of its response must not count
    batch = batch.replace(mask=mask, valid=batch.valid)
    short = pgpo_batch([SEEN[0][:5]], [BLIND[0][:5]])
    assert torch.allclose(weights_of(batch)[0, :5], weights_of(short)[0], atol=1e-6)


def test_pgpo_report():
    notes = {}
    weights_of(pgpo_batch(SEEN[:1], BLIND[:1]), notes)
    assert notes["boosted_share"] == pytest.approx(2 / 6)
    assert notes["muted_share"] == pytest.approx(2 / 6)
    assert notes["weight_max"] == pytest.approx(3.220839, abs=1e-5)
    assert notes["effective_tokens"] == pytest.approx(36 / sum(w * w for w in WEIGHTS[0]), abs=1e-3)


def test_pgpo_states_its_needs():
    assert build("credit", "pgpo").needs().signals == ("blind_logprobs",)
    assert build("credit", "pgpo").needs().old_logprobs
    full = build("credit", {"pgpo": {"tvd_estimator": "full"}}).needs()
    assert full.signals == ("visual_kl",)
    assert not full.old_logprobs
    with pytest.raises(ValueError, match="'pgpo' needs old_logprobs"):
        assign_credit(pgpo_batch().replace(old_logprobs=None), ["grpo", "pgpo"])


# vppo

DEPENDENCY = [[0, 0.5, 0.1, 2, 0.3], [0.05, 0, 0.02, 0.9], [1.2, 0.4, 0, 0.6, 0.2]]


def masked_for(dependency):
    """log pi_masked - log pi_old below 0 that gives this k3."""
    d = torch.zeros_like(dependency, dtype=torch.float64) - 1
    for _ in range(60):  # Newton on e^d - d - 1 = S, from the left branch
        d = torch.where(dependency > 0, d - (torch.expm1(d) - d - dependency) / torch.expm1(d).clamp(max=-1e-12), 0.0)
    return d.float()


def vppo_batch():
    batch = rollouts([5, 4, 5], [1.0, 0.0, 0.5])
    batch = batch.replace(old_logprobs=torch.full((3, 5), -1.0))
    return batch.with_signals({"masked_logprobs": -1.0 + masked_for(pad(DEPENDENCY).double())})


def vppo_credit(batch):
    return Credit(torch.tensor([[1.0], [-1.0], [0.5]]) * batch.mask, batch.mask)


ALPHA = [1.076087, 0.9, 1.023913]
KEPT = [[0, 1, 0, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0]]


def test_vppo_worked_example():
    batch = vppo_batch()
    notes = {}
    credit = build("credit", "vppo")(vppo_credit(batch), batch, Step(notes=notes))
    shaped = torch.tensor([1.076087, -0.9, 0.511957])[:, None]
    assert torch.allclose(credit.advantages, shaped * torch.tensor(KEPT), atol=1e-5)
    assert torch.equal(credit.loss_mask, batch.mask)
    loss = Objective(aggregate="token_mean")(batch.old_logprobs, batch, credit).loss
    assert loss.item() == pytest.approx(-0.098292, abs=1e-5)
    unmasked = build("credit", {"vppo": {"keep": 1.0}})(vppo_credit(batch), batch, Step())
    assert Objective()(batch.old_logprobs, batch, unmasked).loss.item() == pytest.approx(-0.310016, abs=1e-5)
    assert notes["alpha_max"] == pytest.approx(1.076087, abs=1e-5)
    assert notes["kept_share"] == pytest.approx(6 / 14)


def test_vppo_parts_and_normalizer():
    batch = vppo_batch()
    filtered = build("credit", {"vppo": {"bmin": 1.0, "normalizer": "kept"}})(vppo_credit(batch), batch, Step())
    assert filtered.loss_mask.int().tolist() == KEPT
    assert torch.equal(filtered.advantages, vppo_credit(batch).advantages * torch.tensor(KEPT))
    off = assign_credit(batch, ["grpo", {"vppo": {"keep": 1.0, "bmin": 1.0}}])
    assert torch.equal(off.advantages, assign_credit(batch, ["grpo"]).advantages)
    entropy = batch.with_signals({"entropy": pad([[9, 0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0, 0]])})
    both = build("credit", {"vppo": {"bmin": 1.0, "entropy_keep": 0.2}})(vppo_credit(batch), entropy, Step())
    assert (both.advantages != 0).int().tolist() == [[1, 1, 0, 1, 0], [1, 1, 0, 1, 0], [1, 0, 1, 1, 0]]


def test_vppo_constant_dependency_keeps_the_advantages_of_responses():
    batch = vppo_batch()
    batch = batch.with_signals({"masked_logprobs": batch.old_logprobs})
    credit = build("credit", {"vppo": {"keep": 1.0}})(vppo_credit(batch), batch, Step())
    assert torch.equal(credit.advantages, vppo_credit(batch).advantages)


@pytest.mark.parametrize("reason", ["no media", "nan"])
def test_vppo_responses_without_a_score_enter_no_statistic(reason):
    batch = vppo_batch()
    rows = torch.tensor([0, 1, 2, 1])
    batch, credit = batch.select(rows), vppo_credit(batch).select(rows)
    masked = batch.signal("masked_logprobs").clone()
    masked[3] = math.nan
    batch = batch.with_signals({"masked_logprobs": masked})
    if reason == "no media":
        picture = Sample("a", ({"role": "user", "content": [{"type": "image"}]},), (Media("image", data=b"x"),))
        words = Sample("b", ({"role": "user", "content": "?"},))
        batch = batch.replace(group=torch.tensor([0, 0, 0, 1]), samples=(picture, words))
    notes = {}
    after = build("credit", "vppo")(credit, batch, Step(notes=notes))
    expected = torch.tensor([1.076087, -0.9, 0.511957])[:, None] * torch.tensor(KEPT)
    assert torch.allclose(after.advantages[:3], expected, atol=1e-5)
    assert torch.equal(after.advantages[3], credit.advantages[3])
    assert notes["responses_not_finite"] == (0 if reason == "no media" else 1)
    assert notes["responses_without_media"] == (1 if reason == "no media" else 0)


def test_vppo_counts_round_up():
    method = build("credit", "vppo")
    lengths = torch.arange(1, 60)
    mask = mask_of(lengths.tolist())
    assert method._count(mask, 0.4).tolist() == [-(-2 * n // 5) for n in lengths.tolist()]
    assert method._count(mask, 1.0).tolist() == lengths.tolist()
    assert method._count(mask, 0.0).tolist() == [0] * 59
