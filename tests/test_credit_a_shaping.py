"""ERPO, UCAS, SPAE: worked numbers, identities, edge cases."""

import math

import pytest
import torch
from b0 import b0, padded, rollouts_of

from mmcredit import assign_credit

ENTROPY = [[0.05, 0.20, 0.40, 1.60, 0.10], [0.30, 0.80, 0.02]]
ERPO_OLD = [[-0.02, -0.15, -0.30, -1.20, -0.05], [-0.20, -0.70, -0.01]]
ERPO_REF = [[-0.03, -0.10, -0.50, -1.00, -0.05], [-0.25, -0.40, -0.02]]
CERTAINTY = [[8, 9, 10, 9], [6, 7], [10, 12, 11], [5, 6, 7, 6]]
LOGIT = [[20, 25, 30, 22], [15, 18], [35, 33, 28], [12, 16, 14, 20]]


def erpo_rollouts(rewards=(1.0, 0.0)):
    signals = {"entropy": padded(ENTROPY), "ref_logprobs": padded(ERPO_REF)}
    return rollouts_of(rewards, [5, 3], old_logprobs=padded(ERPO_OLD), signals=signals)


def ucas_rollouts(rewards=(1.0, 1.0, 0.0, 0.0)):
    signals = {
        "self_certainty": padded([[float(v) for v in r] for r in CERTAINTY]),
        "sampled_logit": padded([[float(v) for v in r] for r in LOGIT]),
    }
    return rollouts_of(rewards, [4, 2, 3, 4], signals=signals)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [[0.015605, 0.058752, 0.405526, 0.424512, 0.028700], [-0.164233, -0.352878, -0.013462]]),
        ({"mode": "sum"}, [[0.707827, 0.703660, 0.818213, 0.424518, 0.711590], [-0.724402, -0.370539, -0.709483]]),
    ],
)
def test_erpo_worked_example(fields, expected):
    credit = assign_credit(erpo_rollouts(), [{"erpo": {"k": 2, **fields}}])
    assert torch.allclose(credit.advantages, padded(expected), atol=1e-5)


def test_erpo_gate_normalised_to_mean_one():
    outcome = {"k": 2, "eta": 0.0}
    gated = assign_credit(erpo_rollouts(), [{"erpo": {"mode": "gated_mean1", **outcome}}]).advantages
    grpo = assign_credit(erpo_rollouts(), ["grpo"]).advantages
    assert torch.allclose(gated.sum(1), grpo.sum(1), atol=1e-5)
    full = assign_credit(erpo_rollouts(), [{"erpo": {"mode": "gated_mean1", "k": 2}}]).advantages
    psi = padded([[0.003607, -0.017227, 0.555538, -1.412940, 0.022424], [-0.086483, 1.682832, -0.011885]])
    assert torch.allclose(full - gated, 0.2 * psi, atol=1e-5)


def test_erpo_constant_groups():
    constant = erpo_rollouts((1.0, 1.0))
    assert bool((assign_credit(constant, [{"erpo": {"k": 2}}]).advantages == 0).all())
    anchored = assign_credit(constant, [{"erpo": {"k": 2, "constant_groups": "anchor"}}]).advantages
    expected = [[0.000721, -0.003445, 0.111108, -0.282588, 0.004485], [0.017297, -0.336566, 0.002377]]
    assert torch.allclose(anchored, padded(expected), atol=1e-5)
    wrong = assign_credit(erpo_rollouts((0.0, 0.0)), [{"erpo": {"k": 2, "constant_groups": "anchor"}}]).advantages
    assert torch.allclose(wrong, -anchored)
    alone = erpo_rollouts().replace(group=torch.tensor([0, 1]))
    for kind in ("zero", "anchor"):
        assert bool((assign_credit(alone, [{"erpo": {"constant_groups": kind}}]).advantages == 0).all())


def test_erpo_is_grpo_without_gate_and_progress():
    rollouts = erpo_rollouts()
    erpo = assign_credit(rollouts, [{"erpo": {"mode": "sum", "eta": 0.0}}]).advantages
    assert torch.equal(erpo, assign_credit(rollouts, ["grpo"]).advantages)


def test_erpo_at_the_start_of_a_run_has_no_progress_signal():
    rollouts = erpo_rollouts()
    start = rollouts.with_signals({"ref_logprobs": rollouts.old_logprobs + 1e-6 * torch.randn(2, 5)})
    with_progress = assign_credit(start, ["erpo"]).advantages
    without = assign_credit(start, [{"erpo": {"eta": 0.0}}]).advantages
    assert torch.allclose(with_progress, without, atol=5e-3)  # rounding of 1e-6 nats is not z-scored into a signal
    flat = rollouts.with_signals({"entropy": torch.ones(2, 5)})
    half = assign_credit(flat, [{"erpo": {"eta": 0.0}}]).advantages
    assert torch.allclose(half, 0.5 * assign_credit(rollouts, ["grpo"]).advantages, atol=1e-6)


def test_erpo_buckets():
    from mmcredit.components import build

    rollouts = erpo_rollouts()
    entropy = torch.where(rollouts.mask, rollouts.signal("entropy"), torch.nan)
    position = build("credit", {"erpo": {"k": 2}})._buckets(rollouts.mask, entropy)
    assert position[rollouts.mask].tolist() == [0, 0, 0, 1, 1, 0, 0, 1]
    shares = build("credit", {"erpo": {"k": 4, "bucket": "cum_entropy"}})._buckets(rollouts.mask, entropy)
    # running entropy over the response's total: .02 .11 .28 .96 1 | .27 .98 1, cut into quarters
    assert shares[rollouts.mask].tolist() == [0, 0, 1, 3, 3, 1, 3, 3]
    silent = build("credit", {"erpo": {"bucket": "cum_entropy"}})._buckets(rollouts.mask, torch.zeros(2, 5))
    assert bool((silent == 0).all())


def test_ucas_worked_example():
    expected = padded(
        [
            [0.670969, 0.660100, 0.649230, 0.666621],
            [1.193609, 1.187088],
            [-1.129059, -1.124712, -1.113842],
            [-0.795780, -0.804476, -0.800128, -0.813172],
        ]
    )
    assert torch.allclose(assign_credit(ucas_rollouts(), ["ucas"]).advantages, expected, atol=1e-5)


def test_ucas_with_mean_confidence():
    z = torch.tensor([0.376685, -0.699558, 1.237680, -0.914807])
    outcome = torch.tensor([0.866025, 0.866025, -0.866025, -0.866025])
    weight = torch.where(outcome > 0, torch.exp(-0.25 * z), torch.exp(0.35 * z))
    rollouts = ucas_rollouts()
    credit = assign_credit(rollouts, [{"ucas": {"agg": "mean", "lambda": 0.0}}])
    assert torch.allclose(credit.advantages, (outcome * weight)[:, None] * rollouts.mask, atol=1e-5)


def test_ucas_in_dr_grpo_mode():
    """As released (Z not divided by its deviation) a short success weighs 29 times; standardised it does not."""
    rollouts = ucas_rollouts()
    released = assign_credit(rollouts, [{"ucas": {"std": False, "standardise": False}}]).advantages
    expected = padded([[0.029116, 0.018246, 0.007377, 0.024768], [14.605619, 14.599098]], 4)
    assert torch.allclose(released[:2], expected, atol=1e-5)
    ours = assign_credit(rollouts, [{"ucas": {"std": False, "lam": 0.0}}]).advantages
    z = torch.tensor([0.918400, -1.305094, 0.628379, -0.241684])
    weight = torch.where(torch.arange(4) < 2, torch.exp(-0.25 * z), torch.exp(0.35 * z))
    outcome = torch.tensor([0.5, 0.5, -0.5, -0.5])
    assert torch.allclose(ours, (outcome * weight)[:, None] * rollouts.mask, atol=1e-5)
    unweighted = [{"ucas": {"std": False, "b_pos": 0.0, "b_neg": 0.0, "lam": 0.0}}]
    assert torch.equal(assign_credit(rollouts, unweighted).advantages, assign_credit(rollouts, ["dr_grpo"]).advantages)
    certain = rollouts.with_signals({"self_certainty": 1e4 * rollouts.signal("self_certainty")})
    far = assign_credit(certain, [{"ucas": {"std": False, "standardise": False}}]).advantages
    assert bool(torch.isfinite(far).all())


def test_ucas_constant_groups_and_groups_of_one():
    signals = {"self_certainty": padded([[3.0, 4.0], [5.0]]), "sampled_logit": padded([[20.0, 30.0], [10.0]])}
    constant = rollouts_of([1.0, 1.0], [2, 1], signals=signals)
    expected = padded([[-0.025, -0.05], [0.0]])
    assert torch.allclose(assign_credit(constant, ["ucas"]).advantages, expected, atol=1e-5)
    silent = assign_credit(constant, [{"ucas": {"zero_constant_groups": True}}]).advantages
    assert bool((silent == 0).all())
    alone = constant.replace(group=torch.tensor([0, 1]), rewards=torch.tensor([0.0, 1.0]))
    assert bool((assign_credit(alone, ["ucas"]).advantages == 0).all())


def test_ucas_is_grpo_with_everything_off_and_never_flips_a_success():
    rollouts = ucas_rollouts()
    off = assign_credit(rollouts, [{"ucas": {"b_pos": 0.0, "b_neg": 0.0, "lam": 0.0}}]).advantages
    assert torch.equal(off, assign_credit(rollouts, ["grpo"]).advantages)
    harsh = assign_credit(rollouts, [{"ucas": {"lam": 50.0}}]).advantages
    assert bool((harsh[:2] >= 0).all())
    flat = rollouts.with_signals({"sampled_logit": torch.full((4, 4), 7.0)})
    plain = assign_credit(flat, [{"ucas": {"lam": 0.0}}]).advantages
    shifted = assign_credit(flat, [{"ucas": {"lam": 0.1}}]).advantages
    assert torch.allclose((plain - shifted)[rollouts.mask], torch.tensor(0.05), atol=1e-6)  # l = 0.5 everywhere


SPAE_ACCURACY = [[0.10, 0.50, 0.97, 0.98], [0.20, 0.40, 0.05, math.nan]]
SPAE_CONFIDENCE = [[0.30, 0.50, 0.96, 0.98], [0.30, 0.60, 0.90, math.nan]]
SPAE_STEPS = [[0, 0, 0, 1, 1, 2, 2, 3, 3, -1], [0, 0, 1, 1, 1, 2, 2, -1, -1, -1]]
SPAE_FINAL = [
    [0.626327, 0.926487, 1.475247, 0.402768, 0.731433],
    [-0.938605, -0.880115, -1.434182, -0.833499],
]


def spae_rollouts(rewards=(1.0, 0.0), steps=SPAE_STEPS, lengths=(10, 8)):
    signals = {
        "step_id": torch.tensor(steps),
        "step_accuracy": torch.tensor(SPAE_ACCURACY),
        "step_confidence": torch.tensor(SPAE_CONFIDENCE),
    }
    return rollouts_of(rewards, list(lengths), signals=signals)


def test_spae_worked_example():
    advantages = assign_credit(spae_rollouts(), ["spae"]).advantages
    for row, length in ((0, 10), (1, 8)):
        expected = [SPAE_FINAL[row][SPAE_STEPS[row][t]] for t in range(length)]  # -1 is the summary, the last entry
        assert torch.allclose(advantages[row, :length], torch.tensor(expected), atol=1e-5)
        assert bool((advantages[row, length:] == 0).all())


def test_spae_unused_probe_columns_may_hold_anything():
    rollouts = spae_rollouts()
    filled = rollouts.with_signals(
        {name: torch.nan_to_num(rollouts.signal(name), nan=1.0) for name in ("step_accuracy", "step_confidence")}
    )
    assert torch.equal(assign_credit(filled, ["spae"]).advantages, assign_credit(rollouts, ["spae"]).advantages)


def test_spae_fragment_after_the_last_boundary_has_the_damping_of_all_probes():
    steps = [list(row) for row in SPAE_STEPS]
    steps[0][9] = 4  # K: not probed
    rollouts = spae_rollouts(steps=steps)
    fragment = assign_credit(rollouts, [{"spae": {"xi": 0.0}}]).advantages[0]
    whole = assign_credit(spae_rollouts(), [{"spae": {"xi": 0.0}}]).advantages[0]
    # Two saturated steps before it: f = 1 - .5 (1 - e^-2) against 1, before standardising
    values = torch.tensor([0.5] * 7 + [0.5 * 0.683940] * 2 + [0.5 * 0.567668] + [-0.5] * 8)
    expected = (values - values.mean()) / values.std()
    assert torch.allclose(fragment, expected[:10], atol=1e-5)
    assert whole[9] > fragment[9]


def test_spae_failed_probe_inside_a_response_is_counted_and_gives_no_gain():
    rollouts = spae_rollouts()
    accuracy = rollouts.signal("step_accuracy").clone()
    accuracy[0, 1] = math.nan
    credit = assign_credit(rollouts.with_signals({"step_accuracy": accuracy}), [{"spae": {"alpha": 0.0}}])
    assert credit.trace[0].notes["unprobed_steps"] == 1.0
    assert credit.trace[0].notes["steps"] == 6.0
    summary, unprobed = credit.advantages[0, 9], credit.advantages[0, 3]
    assert torch.equal(summary, unprobed)


def test_spae_without_steps_is_reinforce_pp_baseline():
    steps = [[-1] * 10, [-1] * 10]
    rollouts = spae_rollouts(steps=steps)
    expected = assign_credit(rollouts, ["reinforce_pp_baseline"]).advantages
    assert torch.allclose(assign_credit(rollouts, ["spae"]).advantages, expected, atol=1e-5)
    off = assign_credit(spae_rollouts(), [{"spae": {"alpha": 0.0, "xi": 0.0}}]).advantages
    assert torch.allclose(off, expected, atol=1e-5)


def test_spae_constant_groups_leave_no_trace():
    rollouts = spae_rollouts()
    other = spae_rollouts((1.0, 1.0))
    both = {k: torch.cat([rollouts.signal(k), other.signal(k)]) for k in rollouts.signals}
    joined = rollouts_of([1, 0, 1, 1], [10, 8, 10, 8], group=[0, 0, 1, 1], signals=both)
    advantages = assign_credit(joined, ["spae"]).advantages
    assert torch.equal(advantages[:2], assign_credit(rollouts, ["spae"]).advantages)
    assert bool((advantages[2:] == 0).all())
    kept = assign_credit(joined, [{"spae": {"zero_constant_groups": False}}]).advantages
    assert bool((kept[2:][joined.mask[2:]] != 0).all())
    alone = joined.replace(group=torch.tensor([0, 0, 1, 2]))
    one = assign_credit(alone, [{"spae": {"zero_constant_groups": False}}]).advantages
    assert bool((one[2:] == 0).all())


def test_spae_equal_gains_are_zero():
    signals = {
        "step_id": torch.tensor([[0, 1, 2], [0, 1, 2]]),
        "step_accuracy": torch.full((2, 3), 0.3),
        "step_confidence": torch.full((2, 3), 0.7),
    }
    rollouts = rollouts_of([1.0, 0.0], [3, 3], signals=signals)
    credit = assign_credit(rollouts, [{"spae": {"xi": 100.0}}])
    assert torch.allclose(credit.advantages, assign_credit(rollouts, ["reinforce_pp_baseline"]).advantages, atol=1e-5)


def test_bad_signals_are_named():
    rollouts = spae_rollouts()
    bad = rollouts.signal("step_id").clone()
    bad[0, 0] = 7
    with pytest.raises(ValueError, match=r"step_id.*-1\.\.4, got -1\.\.7"):
        assign_credit(rollouts.with_signals({"step_id": bad}), ["spae"])
    with pytest.raises(ValueError, match="step_accuracy"):
        assign_credit(rollouts.with_signals({"step_accuracy": torch.zeros(2, 3)}), ["spae"])
    with pytest.raises(ValueError, match="int64"):
        assign_credit(rollouts.with_signals({"step_id": torch.zeros(2, 10)}), ["spae"])
    for method in ("erpo", "ucas", "spae", "spo_chain", "spo_tree"):
        with pytest.raises(ValueError, match="is missing"):
            assign_credit(b0(), [method])
    nan = ucas_rollouts().with_signals({"self_certainty": torch.full((4, 4), torch.nan)})
    with pytest.raises(ValueError, match="self_certainty"):
        assign_credit(nan, ["ucas"])
