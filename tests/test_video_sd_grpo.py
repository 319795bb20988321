"""SD-GRPO: the worked numbers of the spec, every switch, what must not change, other methods around and inside it."""

import dataclasses

import pytest
import torch

import video.components  # noqa: F401  (an installed package is found by its entry point)
from mmcredit import Objective, Rollouts, assign_credit
from mmcredit.components import build
from video.retrieval import STATUSES

# Spec 2.5: (|S|, |I|, |R|) of four responses to one prompt, gold window 10-20 s, gold rate 2.
SHAPES = ((3, 4, 2), (4, 4, 2), (2, 4, 6), (0, 0, 5))
IOU, FPS = [1.0, 0.6, 0.0, 0.0], [1.0, 0.6, 1.0, 0.0]
ACC, FMT = [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.6]
SAMP = [1.154598, 0.182305, -0.060768, -1.276134]
REAS = [-0.809085, 0.864884, 0.864884, -0.920683]


def parts():
    named = {"window_iou": IOU, "fps_match": FPS, "grounding_accuracy": ACC, "retrieval_format": FMT}
    named["retrieval"] = [0.5 * a + 0.5 * b for a, b in zip(IOU, FPS, strict=True)]
    named["reasoning"] = [0.6 * a + 0.1 * b for a, b in zip(ACC, FMT, strict=True)]
    return {name: torch.tensor(values) for name, values in named.items()}


def example(shapes=SHAPES, group=None, **changes):
    width = max(map(sum, shapes))
    segments = torch.zeros(len(shapes), width, dtype=torch.int64)
    valid = torch.zeros(len(shapes), width, dtype=torch.bool)
    for row, (s, i, r) in enumerate(shapes):
        segments[row, :s], segments[row, s + i : s + i + r] = 1, 2
        valid[row, : s + i + r] = True
    generator = torch.Generator().manual_seed(0)
    fields = {
        "tokens": torch.randint(5, 90, valid.shape, generator=generator),
        "mask": segments > 0,
        "valid": valid,
        "group": torch.zeros(len(shapes), dtype=torch.int64) if group is None else torch.tensor(group),
        "rewards": torch.zeros(len(shapes)),
        "segments": segments,
        "reward_parts": parts(),
    }
    return Rollouts(**{**fields, **changes})


def spread(samp, reas, rollouts):
    """[B,T]: one number per segment on its tokens."""
    samp, reas = (torch.as_tensor(x)[:, None] for x in (samp, reas))
    return samp * (rollouts.segments == 1) + reas * (rollouts.segments == 2)


def credit(rollouts, *more, **fields):
    return assign_credit(rollouts, [{"sd_grpo": fields}, *more])


def test_the_worked_example():
    rollouts = example()
    found = credit(rollouts)
    torch.testing.assert_close(found.advantages, spread(SAMP, REAS, rollouts), atol=1e-6, rtol=0)
    assert torch.equal(found.loss_mask, rollouts.mask)
    logprobs = torch.zeros(rollouts.tokens.shape, requires_grad=True)
    objective = Objective(ratio="token", clip={"low": 0.3, "high": 0.3}, aggregate="seq_mean_token_mean")
    out = objective(logprobs, rollouts, found)
    assert float(out.loss.detach()) == pytest.approx(-0.122936, abs=1e-6)
    out.loss.backward()
    assert float(logprobs.grad[~rollouts.mask].abs().max()) == 0.0
    assert bool((logprobs.grad[rollouts.mask] != 0).all())
    means = [float(row[mask].mean()) for row, mask in zip(found.advantages, rollouts.mask, strict=True)]
    assert means == pytest.approx([0.369124, 0.409831, 0.633471, -0.920683], abs=1e-6)
    pooled = Objective(ratio="token", clip={"low": 0.3, "high": 0.3}, aggregate="token_mean")
    assert float(pooled(logprobs.detach(), rollouts, found).loss) == pytest.approx(-0.198707, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "samp", "reas"), [(1.5, 1.500977, -1.213628), (0.5, 0.577299, -0.566360), (1.0, 1.154598, -0.809085)]
)
def test_the_clip_of_the_worked_example(ratio, samp, reas):
    rollouts = example(old_logprobs=torch.zeros(4, 12))
    found = credit(rollouts)
    moved = torch.full(rollouts.tokens.shape, ratio).log()
    loss = Objective(ratio="token", clip={"low": 0.3, "high": 0.3}).policy_loss(moved, rollouts, found)
    assert -loss.loss[0, 0].item() == pytest.approx(samp, abs=1e-5)
    assert -loss.loss[0, 7].item() == pytest.approx(reas, abs=1e-5)


def test_the_kl_term_stands_in_the_masked_token_mean():
    rollouts = example()
    fields = {"ratio": "token", "aggregate": "seq_mean_token_mean", "regularizers": [{"kl": {"coef": 0.02}}]}
    objective, found = Objective(**fields), credit(rollouts)
    logprobs = torch.zeros(rollouts.tokens.shape)
    for delta, k3 in ((0.1, 0.00517092), (-0.1, 0.00483742)):
        out = objective(logprobs, rollouts, found, passes={"ref_logprobs": logprobs + delta})
        assert float(out.loss) == pytest.approx(-0.122936 + 0.02 * k3, abs=1e-6)


def test_normalize_then_sum_and_the_trajectory_level():
    rollouts = example()
    weights = {
        "retrieval": {"window_iou": 0.5, "fps_match": 0.5},
        "reasoning": {"grounding_accuracy": 0.6, "retrieval_format": 0.1},
    }
    torch.testing.assert_close(
        credit(rollouts, **weights).advantages, spread(SAMP, REAS, rollouts), atol=1e-6, rtol=0
    )  # the parts by name are the same as their sums
    samp = [1.149718, 0.176930, -0.044395, -1.282252]
    reas = [-0.708491, 0.859303, 0.859303, -1.010115]
    found = credit(rollouts, **weights, normalize_then_sum=True)
    torch.testing.assert_close(found.advantages, spread(samp, reas, rollouts), atol=1e-6, rtol=0)
    whole = [0.321226, 0.668498, 0.494862, -1.484586]
    found = credit(rollouts, level="trajectory")
    torch.testing.assert_close(found.advantages, spread(whole, whole, rollouts), atol=1e-6, rtol=0)
    released = {"retrieval": {"fps_match": 0.3}, "reasoning": weights["reasoning"]}
    found = credit(rollouts, level="trajectory", normalize_then_sum=True, **released)
    whole = [-0.292372, 0.635486, 0.935489, -1.278603]
    torch.testing.assert_close(found.advantages, spread(whole, whole, rollouts), atol=1e-6, rtol=0)


def without(rollouts, **named):
    return rollouts.replace(reward_parts={**rollouts.reward_parts, **{k: torch.tensor(v) for k, v in named.items()}})


def z(values, eps=1e-4):
    values = torch.tensor(values)
    return (values - values.mean()) / (values.std() + eps)


def test_equal_answers_leave_the_gradient_on_retrieval_only():
    rollouts = without(example(), reasoning=[0.7] * 4)
    found = credit(rollouts).advantages
    assert float(found[rollouts.segments == 2].abs().max()) == 0.0
    torch.testing.assert_close(found, spread(SAMP, [0.0] * 4, rollouts), atol=1e-6, rtol=0)


def test_an_answer_never_changes_what_retrieval_earns():
    rollouts = example()
    other = credit(without(rollouts, reasoning=[0.7, 0.1, 0.0, 0.3])).advantages
    here = rollouts.segments == 1
    assert torch.equal(other[here], credit(rollouts).advantages[here])


def test_each_segment_sums_to_nothing_and_groups_are_apart():
    rollouts = example(SHAPES * 2, group=[7, 3, 3, 7, 7, 3, 7, 3], reward_parts={})
    generator = torch.Generator().manual_seed(1)
    named = {name: torch.rand(8, generator=generator) for name in ("retrieval", "reasoning")}
    found = credit(rollouts.replace(reward_parts=named)).advantages
    for group in (3, 7):
        rows = rollouts.group == group
        expected = spread(
            z(named["retrieval"][rows].tolist()), z(named["reasoning"][rows].tolist()), pick(rollouts, rows)
        )
        torch.testing.assert_close(found[rows], expected, atol=1e-6, rtol=0)
        assert abs(float(z(named["retrieval"][rows].tolist()).sum())) < 1e-5


def pick(rollouts, rows):
    return rollouts.select(rows.nonzero()[:, 0])


def test_a_group_of_one_and_a_prompt_without_a_label():
    alone = pick(example(), torch.tensor([True, False, False, False]))
    assert not bool(credit(alone).advantages.any())
    rollouts = without(example(), retrieval=[float("nan")] * 4)
    torch.testing.assert_close(credit(rollouts).advantages, spread([0.0] * 4, REAS, rollouts), atol=1e-6, rtol=0)
    whole = credit(rollouts, level="trajectory").advantages
    torch.testing.assert_close(whole, spread(REAS, REAS, rollouts), atol=1e-6, rtol=0)


def test_a_window_that_could_not_be_read_is_left_out_of_the_statistics():
    rollouts = example()
    unread = (rollouts.segments == 1) * (STATUSES.index("ok") + 1)
    unread[1, 2] = STATUSES.index("decode_error") + 1
    found = credit(rollouts.with_signals({"retrieval_call": unread})).advantages
    same = credit(without(example(), retrieval=[rollouts.reward_parts["retrieval"][0], float("nan"), 0.5, 0.0]))
    assert (found[1][rollouts.segments[1] == 1] == 0).all()
    assert torch.equal(found[1][rollouts.segments[1] == 2], same.advantages[1][rollouts.segments[1] == 2])
    assert torch.equal(found, same.advantages)


def test_a_window_that_could_not_be_decoded_is_left_out_of_the_statistics():
    rollouts = without(example(), retrieval=[1.0, float("nan"), 0.5, 0.0])
    samp = z([1.0, 0.5, 0.0]).tolist()
    expected = spread([samp[0], 0.0, samp[1], samp[2]], REAS, rollouts)
    found = credit(rollouts)
    torch.testing.assert_close(found.advantages, expected, atol=1e-6, rtol=0)
    assert found.trace[0].notes["retrieval_unknown"] == 1


def test_switches_for_a_response_without_a_call():
    rollouts = example()
    dropped = z([1.0, 0.6, 0.5]).tolist()
    found = credit(rollouts, no_retrieval="drop").advantages
    torch.testing.assert_close(found, spread([*dropped, 0.0], REAS, rollouts), atol=1e-6, rtol=0)
    thought = torch.zeros_like(rollouts.mask)
    thought[:, :3] = True
    found = credit(rollouts.with_signals({"thought": thought}), no_retrieval="thought").advantages
    expected = spread(SAMP, REAS, rollouts)
    expected[3, :3] = SAMP[3]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="signal 'thought' is missing"):
        credit(rollouts, no_retrieval="thought")


def calls(rollouts, *spans):
    """The signal `retrieval_call`: (row, first, last, status) per call."""
    signal = torch.zeros_like(rollouts.tokens)
    for row, first, last, status in spans:
        signal[row, first : last + 1] = STATUSES.index(status) + 1
    return rollouts.with_signals({"retrieval_call": signal})


def test_switch_for_malformed_calls():
    rollouts = calls(example(), (0, 1, 2, "malformed"), (1, 1, 3, "ok"), (2, 0, 1, "empty"))
    torch.testing.assert_close(
        credit(rollouts, malformed="split").advantages, spread(SAMP, REAS, rollouts), atol=1e-6, rtol=0
    )
    expected = spread(SAMP, REAS, rollouts)
    expected[0, :3] = REAS[0]
    torch.testing.assert_close(credit(rollouts, malformed="no_retrieval").advantages, expected, atol=1e-6, rtol=0)


def test_switch_for_several_calls():
    rollouts = calls(example(), (0, 1, 2, "ok"), (2, 0, 1, "ok"), (2, 7, 8, "ok"))
    torch.testing.assert_close(credit(rollouts).advantages, spread(SAMP, REAS, rollouts), atol=1e-6, rtol=0)
    expected = spread(SAMP, REAS, rollouts)
    expected[2, 6:9] = SAMP[2]
    found = credit(rollouts, several="last").advantages
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert float(found[2, 2:6].abs().max()) == 0.0  # what was inserted in between stays without credit


def test_switches_for_thought_truncation_and_mean():
    rollouts = calls(example(), (0, 1, 2, "ok"), (1, 1, 3, "ok"), (2, 0, 1, "ok"))
    expected = spread(SAMP, REAS, rollouts)
    expected[0, 0], expected[1, 0] = SAMP[0] + REAS[0], SAMP[1] + REAS[1]
    torch.testing.assert_close(credit(rollouts, thought="both").advantages, expected, atol=1e-6, rtol=0)

    cut = rollouts.replace(truncated=torch.tensor([False, True, False, False]))
    found = credit(cut, truncated="mask")
    assert not bool(found.loss_mask[1].any())
    expected = spread(SAMP, REAS, rollouts)
    expected[1] = 0
    torch.testing.assert_close(found.advantages, expected, atol=1e-6, rtol=0)
    assert torch.equal(credit(cut).loss_mask, cut.mask)

    found = credit(rollouts, mean="segment")
    loss = Objective(ratio="token", aggregate="seq_mean_token_mean")(torch.zeros(4, 12), rollouts, found).loss
    apart = sum(SAMP[i] + REAS[i] for i in range(3)) + REAS[3]  # a mean per segment, summed, over 4 responses
    assert float(loss) == pytest.approx(-apart / 4, abs=1e-6)


def test_it_composes_with_pgpo():
    rollouts = example(old_logprobs=-torch.rand(4, 12, generator=torch.Generator().manual_seed(2)))
    blind = rollouts.old_logprobs - torch.rand(4, 12, generator=torch.Generator().manual_seed(3))
    rollouts = rollouts.with_signals({"blind_logprobs": blind})
    plain = credit(rollouts).advantages
    both = credit(rollouts, {"pgpo": {}})
    weights = both.trace[1].weights
    torch.testing.assert_close(both.advantages, plain * weights * rollouts.mask)
    assert weights[rollouts.mask].std() > 0
    # PGPO conserves the mass of a response, whatever its segments earned.
    torch.testing.assert_close((weights * rollouts.mask).sum(1), rollouts.lengths.float())
    moved = rollouts.mask & (weights > 0)  # the least dependent token of a response weighs nothing
    assert torch.equal(both.advantages.sign()[moved], plain.sign()[moved])


def test_tempo_works_inside_the_segments():
    rollouts = example()
    tokens = rollouts.tokens.clone()
    tokens[:3, 0] = tokens[0, 0]  # three responses share their first token
    rollouts = rollouts.replace(tokens=tokens)
    found = credit(rollouts, by="tempo").advantages
    for segment, name in ((1, "retrieval"), (2, "reasoning")):
        alone = assign_credit(rollouts.replace(rewards=rollouts.reward_parts[name]), ["tempo"]).advantages
        here = rollouts.segments == segment
        torch.testing.assert_close(found[here], alone[here])
    plain = credit(rollouts).advantages
    assert (found[:3, 0] - plain[:3, 0]).abs().max() > 0.1  # the branch, where three went together
    assert float(found[~rollouts.mask].abs().max()) == 0.0
    grpo = credit(rollouts, by={"grpo": {"eps": 1e-4}}).advantages
    torch.testing.assert_close(grpo, plain)


@pytest.mark.parametrize("fields", [{"retrieval": {}}, {"reasoning": {"a": 0.0}}, {"by": "pgpo"}, {"by": "sd_grpo"}])
def test_fields_that_make_no_sense(fields):
    with pytest.raises(ValueError, match=r"retrieval|reasoning|by"):
        build("credit", {"sd_grpo": fields})


def test_what_is_missing_is_named():
    rollouts = example()
    with pytest.raises(ValueError, match=r"Rollouts\.segments"):
        credit(rollouts.replace(segments=None))
    with pytest.raises(ValueError, match="reads reward part 'retrieval'; there are reasoning"):
        credit(rollouts.replace(reward_parts={"reasoning": torch.zeros(4)}))


def test_what_it_needs():
    needs = build("credit", "sd_grpo").needs()
    assert (needs.segments, needs.reward_parts, needs.signals) == (True, ("retrieval", "reasoning"), ())
    assert build("credit", {"sd_grpo": {"level": "trajectory"}}).needs().segments is False
    all_ = {"thought": "both", "no_retrieval": "thought", "by": "tempo"}
    assert build("credit", {"sd_grpo": all_}).needs().signals == ("retrieval_call", "thought")


def test_padding_and_order_change_nothing():
    rollouts = example()
    found = credit(rollouts).advantages
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(credit(rollouts.select(order)).advantages, found[order])
    junk = torch.where(rollouts.valid, rollouts.tokens, 1)
    wider = {
        f.name: torch.nn.functional.pad(value, (0, 3))
        for f in dataclasses.fields(rollouts)
        if isinstance(value := getattr(rollouts.replace(tokens=junk), f.name), torch.Tensor) and value.ndim == 2
    }
    assert torch.equal(credit(rollouts.replace(**wider)).advantages[:, :12], found)
