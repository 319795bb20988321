"""The power-mean ratio: worked numbers of its three variants, schedules of p, stability."""

import math

import pytest
import torch
from b0 import broadcast_credit, gradient_of, rollouts_of

from mmcredit import Objective
from mmcredit.components import build

HOLDER_D = [[0.30, -0.10, 0.05, -0.40], [0.50, -0.20, 0.0, 0.0]]
HOLDER = {
    3.0: ((1.052485, 1.359963), [0.527421, 0.158856, 0.249136, 0.064586], [0.890903, 0.109097]),
    2.0: ((1.024128, 1.301653), [0.434319, 0.195152, 0.263428, 0.107102], [0.802184, 0.197816]),
    1.0: ((0.994072, 1.233726), [0.339477, 0.227558, 0.264385, 0.168579], [0.668188, 0.331812]),
    0.0: ((0.963194, 1.161834), [0.25] * 4, [0.5] * 2),
    -1.0: ((0.932609, 1.094132), [0.172723, 0.257673, 0.221781, 0.347822], [0.331812, 0.668188]),
    -2.0: ((0.903453, 1.037034), [0.111989, 0.249236, 0.184638, 0.454137], [0.197816, 0.802184]),
}


def holder_rollouts():
    return rollouts_of([1.0, 0.0], [4, 2], old_logprobs=torch.zeros(2, 4))


@pytest.mark.parametrize("p", list(HOLDER))
def test_holder_ratio_loss_and_token_weights(p):
    (rho_1, rho_2), *token_weights = HOLDER[p]
    rollouts = holder_rollouts()
    objective = Objective(ratio={"holder": {"p": p}}, aggregate="response_mean_sum")
    logprobs = torch.tensor(HOLDER_D, requires_grad=True)
    loss = objective.policy_loss(logprobs, rollouts, broadcast_credit(rollouts, [1.0, 1.0]))
    assert torch.allclose(loss.loss[:, 0], torch.tensor([-min(rho_1, 1.2), -min(rho_2, 1.2)]), atol=1e-5)
    _, gradient = gradient_of(objective, rollouts, broadcast_credit(rollouts, [-1.0, -1.0]), logprobs)
    for row, (rho, weights) in enumerate(zip((rho_1, rho_2), token_weights, strict=True)):
        assert loss.ratio[row, 0].item() == pytest.approx(rho, abs=1e-5)
        assert torch.allclose(gradient[row, : len(weights)], rho * torch.tensor(weights), atol=1e-5)


@pytest.mark.parametrize(
    ("p", "c", "d"),
    [
        (2.0, [0.976375, 1.027210], [1.047141, 1.301653]),
        (0.0, [0.935270, 0.991200], [1.006737, 1.161834]),
        (-2.0, [0.890321, 0.956452], [0.971566, 1.037034]),
    ],
)
def test_holder_token_clip(p, c, d):
    rollouts = holder_rollouts()
    objective = Objective(ratio={"holder": {"p": p, "variant": "holder_token"}})
    for advantage, expected in ((1.0, c), (-1.0, d)):
        credit = broadcast_credit(rollouts, [advantage] * 2)
        loss = objective.policy_loss(torch.tensor(HOLDER_D), rollouts, credit)
        assert torch.allclose(loss.loss[:, 0], -advantage * torch.tensor(expected), atol=1e-5)


def test_holder_with_token_log_ratios_clamped_first():
    rollouts = holder_rollouts()
    ratio = {"holder": {"p": 2.0, "variant": "sequence_w_clip"}}
    loss = Objective(ratio=ratio).policy_loss(torch.tensor(HOLDER_D), rollouts, broadcast_credit(rollouts, [-1.0] * 2))
    bound = math.log(1.2)
    for row, length in ((0, 4), (1, 2)):
        clamped = [min(bound, max(-bound, d)) for d in HOLDER_D[row][:length]]
        expected = math.sqrt(sum(math.exp(2 * d) for d in clamped) / length)
        assert loss.loss[row, 0].item() == pytest.approx(expected, abs=1e-5)


def test_holder_schedules():
    linear = build("ratio", "holder")
    steps = [0, 125, 250, 375, 500, 800]
    assert [linear.order(step / 500) for step in steps] == pytest.approx([2, 1, 0, -1, -2, -2])
    cos = build("ratio", {"holder": {"schedule": "cos"}})
    assert [cos.order(step / 500) for step in steps] == pytest.approx([2, 1.414214, 0, -1.414214, -2, -2], abs=1e-6)
    ends = {"linear": 1, "sin": 1, "quad": 1, "cubic": 1, "linear_dec": -1, "cos": -1, "quad_dec": -1, "cubic_dec": -1}
    for schedule, direction in ends.items():
        holder = build("ratio", {"holder": {"schedule": schedule, "p_min": -1.0, "p_max": 3.0}})
        orders = [holder.order(x / 10) for x in range(11)]
        assert orders == sorted(orders, reverse=direction < 0)
        assert (min(orders), max(orders)) == pytest.approx((-1.0, 3.0))
    assert build("ratio", {"holder": {"schedule": "quad_dec"}}).order(0.5) == pytest.approx(1.0)  # 2 - 4 x^2
    assert build("ratio", {"holder": {"schedule": "cubic"}}).order(0.75) == pytest.approx(0.25)  # 2 (2x-1)^3


def test_holder_fields_that_disagree_are_refused():
    with pytest.raises(ValueError, match="schedule"):
        build("ratio", {"holder": {"p": 1.0, "schedule": "cos"}})
    with pytest.raises(ValueError, match="schedule"):
        build("ratio", {"holder": {"schedule": "constant"}})
    with pytest.raises(ValueError, match="p_min"):
        build("ratio", {"holder": {"p_min": 3.0}})
    holder = build("ratio", {"holder": {"p": 1.5}})
    assert build("ratio", holder.spec()) == holder


def test_holder_ratio_rises_with_p_and_passes_smoothly_through_zero():
    rollouts = holder_rollouts()
    credit = broadcast_credit(rollouts, [1.0, 1.0])

    def rho(p):
        return (
            Objective(ratio={"holder": {"p": p}})
            .policy_loss(torch.tensor(HOLDER_D), rollouts, credit)
            .ratio[0, 0]
            .item()
        )

    orders = [-8.0, -2.0, -0.1, -1e-3, -1e-5, 0.0, 1e-5, 1e-3, 0.1, 2.0, 8.0]
    values = [rho(p) for p in orders]
    assert values == sorted(values)
    assert rho(2e-6) == pytest.approx(rho(0.0), abs=1e-6)
    assert rho(-2e-6) == pytest.approx(rho(0.0), abs=1e-6)
    far = torch.tensor([[15.0, -15.0, 0.0, 0.0], [0.0] * 4])  # exp(p d) itself would overflow float32
    loss = Objective(ratio={"holder": {"p": 8.0}}).policy_loss(far, rollouts, credit)
    assert math.isfinite(loss.ratio[0, 0].item())
