"""PAPO: the worked numbers, its switches, and its gradients."""

import pytest
import torch

from mmcredit import Objective, Rollouts
from mmcredit.components import build
from mmcredit.objective.base import RegularizerInputs
from mmcredit.rollouts import Credit

LOGP = [[-0.1, -0.5, -1.2], [-0.4, -0.2, 0.0]]
OLD = [[-0.2, -0.5, -1.0], [-0.4, -0.6, 0.0]]
AUG = [[-0.1, -1.5, -2.2], [-0.6, -0.1, 0.0]]
WORKED = {"gamma": 0.02, "eta_ori": 0.03, "eta_aug": 0.03}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def example(**changes):
    """Two responses, the last token of the second padding; advantages +1 and -1."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    fields = {
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "mask": mask,
        "group": torch.zeros(2, dtype=torch.int64),
        "rewards": double([1.0, 0.0]),
        "old_logprobs": double(OLD),
    } | changes
    rollouts = Rollouts(**fields)
    return rollouts, Credit(advantages=torch.where(mask, double([1.0, -1.0])[:, None], 0.0), loss_mask=mask)


def term(fields, logp=None, aug=None, rollouts=None, progress=None, **passes):
    """The regularizer's term alone."""
    regularizer = build("regularizer", {"papo": {"gamma": 0, "eta_ori": 0, "eta_aug": 0} | fields})
    default, credit = example()
    rollouts = default if rollouts is None else rollouts
    logp = double(LOGP) if logp is None else logp
    passes["masked_logprobs"] = double(AUG) if aug is None else aug
    weights = rollouts.mask.double() / rollouts.mask.sum()
    prepared = regularizer.prepare(rollouts, credit, weights)
    return regularizer(RegularizerInputs(logp, rollouts, credit, passes, weights, prepared, progress)).loss


def value(fields, **rest):
    return float(term(fields, **rest).detach())


@pytest.mark.parametrize("recompute", [True, False])
def test_worked_example(recompute):
    rollouts, credit = example()
    objective = Objective(
        clip={"low": 0.2, "high": 0.28, "dual": 3.0},
        regularizers=[{"papo": WORKED | {"recompute_aug": recompute}}],
    )
    logp, aug = double(LOGP).requires_grad_(), double(AUG).requires_grad_()
    out = objective(logp, rollouts, credit, passes={"masked_logprobs": aug})
    assert out.metrics["policy_loss"] == pytest.approx(-0.086415, abs=1e-6)
    assert out.metrics["papo_perception"] == pytest.approx(0.151932, abs=1e-6)
    assert out.metrics["papo_masked_entropy"] == pytest.approx(0.9)
    assert out.metrics["papo_entropy"] == pytest.approx(0.48)
    assert float(out.loss.detach()) == pytest.approx(-0.048054, abs=1e-6)
    out.loss.backward()
    expected = double([[-0.227034, -0.208528, -0.172275], [0.193275, 0.292786, 0.0]])
    torch.testing.assert_close(logp.grad, expected, atol=1e-6, rtol=0)
    if not recompute:
        assert aug.grad is None  # as released: the masked entropy moves nothing
        return
    x = double(AUG) - double(LOGP)
    by_hand = (-0.02 * (x.exp() - 1) - 0.03) / 5
    by_hand[1, 2] = 0
    torch.testing.assert_close(aug.grad, by_hand)


def test_the_formula_as_printed():
    kp = double([[0, 0.718282, 0.718282], [0.021403, 0.004837, 0]])
    found = value({"gamma": 1.0, "orientation": "paper"})
    assert found == pytest.approx(-float(kp.sum()) / 5, abs=1e-6)


def test_switches():
    kp = double([0, 0.367879, 0.367879, 0.018731, 0.005171])
    assert value({"gamma": 1.0}) == pytest.approx(-0.151932, abs=1e-6)
    assert value({"gamma": 1.0, "kp_max": 0.2}) == pytest.approx(-float(kp.clamp(max=0.2).sum()) / 5, abs=1e-6)
    # the larger half of each response: both .367879 of the first; of the second .018731 alone (quantile between)
    assert value({"gamma": 1.0, "top_p": 0.5}) == pytest.approx(-(2 * 0.367879 + 0.018731) / 5, abs=1e-6)
    assert value({"sft": 1.0}) == pytest.approx((0.1 + 0.5 + 1.2) / 3)
    assert value({"eta_ori": 1.0}) == pytest.approx(0.48)
    entropies = {"entropy": double([[1.0, 2, 3], [4, 5, 9]]), "masked_entropy": double([[2.0, 2, 2], [2, 2, 9]])}
    assert value({"eta_ori": 1.0, "eta_aug": 0.5, "entropy": "full"}, **entropies) == pytest.approx(3 + 1)


def test_annealing_has_one_factor_for_all_three():
    fields = WORKED | {"anneal": {"start": 0.2, "end": 0.6, "ratio": 0.5}}
    full = value(WORKED)
    found = [value(fields, progress=p) / full for p in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5])
    assert value(fields) == full  # outside a run
    with pytest.raises(ValueError, match="start 0.8 after end 0.5"):
        build("regularizer", {"papo": {"anneal": {"start": 0.8, "end": 0.5}}})


@pytest.mark.parametrize(
    "fields", [{}, {"orientation": "paper"}, {"top_p": 0.6}, {"sft": 0.3}, {"entropy": "full"}], ids=str
)
def test_gradients_by_finite_differences(fields):
    generator = torch.Generator().manual_seed(0)
    rows = [-torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.05 for _ in range(4)]

    def loss(logp, aug, entropy, masked_entropy):
        more = {"entropy": entropy, "masked_entropy": masked_entropy}
        return term({"gamma": 0.5, "eta_ori": 0.3, "eta_aug": 0.2} | fields, logp, aug, **more)

    assert torch.autograd.gradcheck(loss, [r.requires_grad_() for r in rows], eps=1e-6, atol=1e-7)


def test_prompts_without_media_have_no_masked_terms():
    class Seen:
        media = ("image",)

    class Bare:
        media = ()

    rollouts, _ = example(group=torch.tensor([0, 1]), samples=(Seen(), Bare()))
    aug = double(AUG)
    aug[1] = torch.nan
    assert value({"gamma": 1.0}, rollouts=rollouts, aug=aug) == pytest.approx(-2 * 0.367879 / 5, abs=1e-6)
    assert value({"eta_aug": 1.0}, rollouts=rollouts, aug=aug) == pytest.approx((0.1 + 1.5 + 2.2) / 5)
    assert value({"eta_ori": 1.0}, rollouts=rollouts, aug=aug) == pytest.approx(0.48)
    blank, _ = example(group=torch.tensor([0, 1]), samples=(Bare(), Bare()))
    assert value({"gamma": 1.0, "top_p": 0.2}, rollouts=blank, aug=aug) == 0


def test_what_is_asked_for():
    def needs(**fields):
        return build("regularizer", {"papo": fields}).needs()

    assert needs().passes == {"masked_logprobs": True}
    assert needs(recompute_aug=False).passes == {"masked_logprobs": False}
    assert needs(entropy="full").passes == {"masked_logprobs": True, "entropy": True, "masked_entropy": True}
    off = needs(gamma=0, eta_aug=0)
    assert not off.passes
    assert not off.views
    assert needs(sft=0.1, success={"key": "math"}).reward_parts == ("math",)
    with pytest.raises(ValueError, match="set recompute_aug true"):
        needs(entropy="full", recompute_aug=False)
