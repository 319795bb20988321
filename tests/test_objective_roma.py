"""ROMA: the worked numbers, its switches, its identities and its gradients."""

import pytest
import torch

from mmcredit import Objective, Rollouts
from mmcredit.components import build
from mmcredit.objective.base import RegularizerInputs
from mmcredit.rollouts import Credit

LC = [[-0.20, -0.50, -1.00], [-0.40, -0.30, -0.10]]
LV = [
    [[-0.20, -1.50, -1.10], [-0.90, -0.30, -0.10]],
    [[-0.70, -0.60, -2.00], [-0.40, -0.80, -0.10]],
]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def example(**changes):
    """Two responses of three tokens, the last token of the second padding; rewards 1 and 0, advantages +1 and -1."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    fields = {
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "mask": mask,
        "group": torch.zeros(2, dtype=torch.int64),
        "rewards": double([1.0, 0.0]),
        "old_logprobs": double(LC),
    } | changes
    rollouts = Rollouts(**fields)
    advantages = torch.where(fields["mask"], double([1.0, -1.0])[:, None], 0.0)
    return rollouts, Credit(advantages=advantages, loss_mask=rollouts.mask)


def roma(**fields):
    return build("regularizer", {"roma": {"warmup_frac": 0.0} | fields})


def term(regularizer, lc=None, lv=None, view=0, rollouts=None, credit=None, **passes):
    """The term of the example, every response's auxiliary view being `view`."""
    if rollouts is None:
        rollouts, credit = example()
    lc = double(LC) if lc is None else lc
    lv = double(LV) if lv is None else lv
    weights = rollouts.mask.double() / rollouts.mask.sum()
    prepared = regularizer.prepare(rollouts, credit, weights)
    prepared["aux_view"] = torch.full((len(rollouts),), view)
    return regularizer(RegularizerInputs(lc, rollouts, credit, {"view_logprobs": lv, **passes}, weights, prepared))


def value(found):
    return float(found.loss.detach())


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        ({}, 0.280763),
        ({"view_max": "sample"}, 0.159749),
        ({"view_max": "batch"}, 0.159749),
        ({"view_max": "mean"}, 0.141994),
        ({"estimator": "k2"}, (0.125 + 0.5 + 0.5) / 3),
    ],
    ids=str,
)
def test_worst_case_divergence(kl, expected):
    assert value(term(roma(kl={"coef": 1.0} | kl, aux=0.0))) == pytest.approx(expected, abs=1e-6)


def test_logsumexp_lies_between_mean_and_maximum():
    def at(temperature):
        return value(term(roma(kl={"coef": 1.0, "view_max": "logsumexp", "temperature": temperature}, aux=0.0)))

    assert at(1e-3) == pytest.approx(0.280763, abs=1e-3)
    assert at(1e3) == pytest.approx(0.141994, abs=1e-4)
    assert 0.141994 < at(0.5) < 0.280763


@pytest.mark.parametrize(
    ("aux", "expected"),
    [
        ({}, 0.933333),
        ({"form": "ratio_clean"}, -0.757572),
        ({"form": "ratio_clean", "mask": "all"}, -0.094543),
    ],
    ids=str,
)
def test_auxiliary_policy_gradient(aux, expected):
    assert value(term(roma(kl=0.0, aux={"coef": 1.0} | aux))) == pytest.approx(expected, abs=1e-6)


def test_ratio_under_the_view_has_the_gradient_of_logprob_at_first():
    """rho = 1 while the policy is the old one; then it is clipped."""
    rollouts, credit = example(signals={"view_logprobs": double(LV)})
    lv = double(LV).requires_grad_()
    found = term(roma(kl=0.0, aux={"coef": 1.0, "form": "ratio_view"}), lv=lv, rollouts=rollouts, credit=credit)
    (gradient,) = torch.autograd.grad(found.loss, lv)
    plain = double(LV).requires_grad_()
    (wanted,) = torch.autograd.grad(term(roma(kl=0.0, aux=1.0), lv=plain).loss, plain)
    torch.testing.assert_close(gradient, wanted)
    assert value(found) == pytest.approx(-1.0)
    moved = double(LV) + 0.5
    found = term(roma(kl=0.0, aux={"coef": 1.0, "form": "ratio_view"}), lv=moved, rollouts=rollouts, credit=credit)
    assert value(found) == pytest.approx(-1.28)  # 1 + clip_high


@pytest.mark.parametrize(
    ("aux", "total"), [({"coef": 0.1, "form": "ratio_clean"}, -0.272950), ({"coef": 0.1}, -0.103859)], ids=str
)
def test_total_loss_of_an_objective(aux, total):
    """The public call: prepared on the rows handed in. View 0 is drawn for a single response where K is 1; here both
    views are offered and the draw of the first response is fixed by its generator."""
    rollouts, credit = example()
    objective = Objective(clip={"low": 0.2, "high": 0.28}, regularizers=[{"roma": {"kl": 0.01, "aux": aux}}])
    weights = objective.weights(rollouts, credit)
    prepared = objective.prepare(rollouts, credit, weights)
    prepared[0]["aux_view"] = torch.tensor([0, 0])
    passes = {"view_logprobs": double(LV)}
    out = objective(double(LC), rollouts, credit, passes, weights, prepared=prepared)
    assert out.metrics["policy_loss"] == pytest.approx(-0.2)
    assert float(out.loss) == pytest.approx(total, abs=1e-6)


def test_gradient_of_the_divergence_goes_into_the_worst_view_of_each_token():
    lv, lc = double(LV).requires_grad_(), double(LC).requires_grad_()
    found = term(roma(kl=1.0, aux=0.0), lc=lc, lv=lv)
    found.loss.backward()
    full = (double(LV) - double(LC)).exp() - 1  # of D in every view
    torch.testing.assert_close(full[0, 0], double([0.0, -0.632121, -0.095163]), atol=1e-6, rtol=0)
    expected = torch.zeros_like(full)
    for token, view in enumerate([1, 0, 1]):  # worst views of response 1
        expected[view, 0, token] = full[view, 0, token] / 3
    torch.testing.assert_close(lv.grad, expected)
    assert lc.grad is None  # stop-gradient on the clean side


@pytest.mark.parametrize("grad", ["clean", "both"])
def test_other_sides_of_the_divergence(grad):
    lv, lc = double(LV).requires_grad_(), double(LC).requires_grad_()
    term(roma(kl={"coef": 1.0, "grad": grad}, aux=0.0), lc=lc, lv=lv).loss.backward()
    d = (double(LV).detach() - double(LC))[[1, 0, 1], 0, [0, 1, 2]]
    torch.testing.assert_close(lc.grad[0], (1 - d.exp()) / 3)
    assert bool(lv.grad.any()) == (grad == "both")


@pytest.mark.parametrize("form", ["logprob", "ratio_view", "ratio_clean"])
@pytest.mark.parametrize("view_max", ["token", "sample", "mean", "logsumexp"])
def test_gradients_by_finite_differences(form, view_max):
    generator = torch.Generator().manual_seed(0)
    lc = -torch.rand(2, 3, generator=generator, dtype=torch.float64) - 0.1
    lv = -torch.rand(2, 2, 3, generator=generator, dtype=torch.float64) - 0.1
    rollouts, credit = example(old_logprobs=lc + 0.01, signals={"view_logprobs": lv + 0.05})
    regularizer = roma(
        kl={"coef": 0.7, "view_max": view_max, "grad": "both"},
        aux={"coef": 0.3, "form": form, "view": "random", "mask": "success"},
    )

    def loss(lc, lv):
        return term(regularizer, lc=lc, lv=lv, rollouts=rollouts, credit=credit).loss

    assert torch.autograd.gradcheck(loss, (lc.requires_grad_(), lv.requires_grad_()), eps=1e-6, atol=1e-7)


def test_estimator_facts():
    """Section 8.2 of the source notes: what the sampled estimate and its gradient mean."""
    p, q1, q2 = double([0.7, 0.2, 0.1]), double([0.5, 0.3, 0.2]), double([0.6, 0.1, 0.3])
    rollouts = Rollouts(
        tokens=torch.zeros(3, 1, dtype=torch.int64),
        mask=torch.ones(3, 1, dtype=torch.bool),
        group=torch.zeros(3, dtype=torch.int64),
        rewards=torch.ones(3, dtype=torch.float64),
    )
    credit = Credit(advantages=torch.ones(3, 1, dtype=torch.float64), loss_mask=rollouts.mask)

    def divergences(lc, lv, grad="view"):
        """[K, outcomes], outcome i being response i."""
        regularizer = roma(views=lv.shape[0], kl={"coef": 1.0, "grad": grad}, aux=0.0)
        prepared = regularizer.prepare(rollouts, credit, torch.ones(3, 1, dtype=torch.float64))
        inputs = RegularizerInputs(lc[:, None], rollouts, credit, {"view_logprobs": lv[..., None]}, None, prepared)
        return regularizer._divergence(inputs)[..., 0]

    d = divergences(p.log(), torch.stack([q1, q2]).log())
    torch.testing.assert_close(d[:, 0], double([0.050758, 0.011294]), atol=1e-6, rtol=0)
    torch.testing.assert_close((d * p).sum(1), double([0.085123, 0.136674]), atol=1e-6, rtol=0)
    assert float((d.max(0).values * p).sum()) == pytest.approx(0.164299, abs=1e-6)
    logits = q1.log().requires_grad_()
    (divergences(p.log(), logits.log_softmax(0)[None]) * p).sum().backward()
    torch.testing.assert_close(logits.grad, double([-0.2, 0.1, 0.1]))
    logits = p.log().requires_grad_()
    (divergences(logits.log_softmax(0), q1.log()[None], "clean") * p).sum().backward()
    torch.testing.assert_close(logits.grad, double([0.2, -0.1, -0.1]))


def test_edge_cases():
    rollouts, credit = example()
    lv = double(LV).requires_grad_()
    wrong = rollouts.replace(rewards=double([0.0, 0.0]))
    found = term(roma(), lv=lv, rollouts=wrong, credit=credit)
    found.loss.backward()
    assert value(found) == 0
    assert not lv.grad.any()

    right = rollouts.replace(rewards=double([1.0, 1.0]))
    flat = credit.replace(advantages=torch.zeros_like(credit.advantages))
    assert value(term(roma(kl=0.0, aux=1.0), rollouts=right, credit=flat)) == 0
    assert value(term(roma(kl=1.0, aux=0.0), rollouts=right, credit=flat)) > 0
    assert value(term(roma(kl={"coef": 1.0, "on_zero_adv": False}, aux=0.0), rollouts=right, credit=flat)) == 0

    same = double(LC).expand(2, 2, 3).clone().requires_grad_()
    found = term(roma(kl=1.0, aux=0.0), lv=same)
    found.loss.backward()
    assert value(found) == 0
    assert not same.grad.any()

    far = torch.stack([double(LC) - 20, double(LC)]).requires_grad_()  # nearly impossible under a view
    found = term(roma(kl=1.0, aux=0.0), lv=far)
    found.loss.backward()
    assert value(found) == pytest.approx(10.0)
    assert not far.grad.any()
    assert value(term(roma(kl={"coef": 1.0, "clamp": None}, aux=0.0), lv=far.detach())) == pytest.approx(19.0)

    # Whatever stands in padding, in failures and in unused views.
    dirty = double(LV)
    dirty[:, 1] = torch.nan
    lc = double(LC)
    lc[1, 2] = torch.inf
    assert value(term(roma(kl=1.0, aux=0.0), lc=lc, lv=dirty)) == pytest.approx(0.280763, abs=1e-6)


def test_success_is_read_from_a_part_of_the_reward():
    rollouts, credit = example(
        rewards=double([0.1, 1.0]),
        reward_parts={"format": double([1.0, 1.0]), "math": double([0.0, 1.0]), "length": double([0.0, torch.nan])},
    )

    def chosen(**success):
        prepared = roma(success=success).prepare(rollouts, credit, rollouts.mask.double())
        return prepared["right"].tolist()

    assert chosen() == [True, True]  # the first part
    assert chosen(key="math") == [False, True]
    assert chosen(key="length", threshold=-1.0) == [True, False]  # NaN is no success
    named = rollouts.replace(reward_parts={**rollouts.reward_parts, "accuracy": double([1.0, 0.0])})
    assert roma().prepare(named, credit, named.mask.double())["right"].tolist() == [True, False]
    with pytest.raises(ValueError, match=r"success.key is 'maths', but the reward has the parts \['format'"):
        chosen(key="maths")


def test_prompts_without_media_count_nowhere():
    class Bare:
        media = ()

    class Seen:
        media = ("image",)

    rollouts, credit = example(group=torch.tensor([0, 1]), rewards=double([1.0, 1.0]), samples=(Seen(), Bare()))
    found = term(roma(kl=1.0, aux=0.0), rollouts=rollouts, credit=credit)
    assert value(found) == pytest.approx(0.280763, abs=1e-6)
    prepared = roma().prepare(rollouts, credit, rollouts.mask.double())
    assert prepared["rows"].tolist() == [True, False]


def test_parts_of_a_mini_batch_add_up():
    """Denominators are those of the whole: two micro-batches give the loss of one."""
    rollouts, credit = example(rewards=double([1.0, 1.0]))
    objective = Objective(regularizers=[{"roma": {"kl": {"coef": 0.5, "view_max": "batch"}, "aux": 0.3}}])
    weights = objective.weights(rollouts, credit)
    prepared = objective.prepare(rollouts, credit, weights)
    passes = {"view_logprobs": double(LV)}
    regularizer = objective.regularizers[0]
    inputs = RegularizerInputs(double(LC), rollouts, credit, passes, weights, prepared[0])
    prepared[0] |= regularizer.look(inputs)
    whole = objective(double(LC), rollouts, credit, passes, weights, prepared=prepared)
    parts = []
    for rows in ([0], [1]):
        own = [{name: tensor[rows] for name, tensor in prepared[0].items()}]
        given = {"view_logprobs": double(LV)[:, rows]}
        out = objective(
            double(LC)[rows], rollouts.select(rows), credit.select(rows), given, weights[rows], prepared=own
        )
        parts.append(float(out.loss))
    assert sum(parts) == pytest.approx(float(whole.loss), abs=1e-9)


def test_off_is_off():
    rollouts, credit = example()
    lc = double(LC).requires_grad_()
    plain = Objective()(lc, rollouts, credit)
    for fields in ({"kl": 0, "aux": 0}, {"views": 0}):
        objective = Objective(regularizers=[{"roma": fields}])
        assert not objective.needs().passes
        assert not objective.needs().views
        out = objective(lc, rollouts, credit)
        assert torch.equal(out.loss.detach(), plain.loss.detach())
        assert torch.equal(*(torch.autograd.grad(o.loss, lc, retain_graph=True)[0] for o in (out, plain)))
        assert not objective.prepare(rollouts, credit, rollouts.mask.double())[0]["rows"].any()


def test_warm_up():
    regularizer = build("regularizer", {"roma": {"kl": 1.0, "aux": 0.0, "warmup_frac": 0.1}})
    rollouts, credit = example()

    def total(progress):
        return float(regularizer.prepare(rollouts, credit, rollouts.mask.double(), progress=progress)["kl"].sum())

    assert [total(p) for p in (0.0, 0.05, 0.1, 1.0, None)] == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kl": {"estimator": "k1"}}, "kl.estimator"),
        ({"kl": {"estimator": "full", "grad": "both"}}, "set kl.grad view \(got 'both'\)"),
        ({"aux": {"mask": "all"}}, "unbounded below"),
        ({"operators": []}, "name at least one operator"),
        ({"operators": "jpeg"}, r"write \['jpeg'\]"),
        ({"operators": ["jpeeg"]}, "did you mean 'jpeg'"),
        ({"severity": [0, 3]}, "severity is a whole number from 1"),
        ({"severity": [3, 1]}, r"severity is \[least, greatest\]"),
        ({"kl": {"maximum": "token"}}, "unknown key"),
    ],
    ids=str,
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        build("regularizer", {"roma": fields})


def test_a_wrong_number_of_views_is_an_error():
    with pytest.raises(ValueError, match=r"must have shape \[3, 2, 3\] \(\[views, B, T\]\), got \[2, 2, 3\]"):
        term(roma(views=3))
