"""The two values refuse what would go wrong later."""

import pytest
import torch

from mmcredit import Credit, Rollouts


def make(**changes):
    fields = {
        "tokens": torch.ones(2, 3, dtype=torch.int64),
        "mask": torch.tensor([[True, True, False], [True, False, False]]),
        "group": torch.tensor([0, 0]),
        "rewards": torch.zeros(2),
    }
    return Rollouts(**{**fields, **changes})


def test_defaults():
    rollouts = make()
    assert bool((rollouts.valid == rollouts.mask).all())
    assert rollouts.lengths.tolist() == [2, 1]
    assert len(rollouts) == 2
    assert rollouts.truncated.tolist() == [False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, r"mask must have shape \[2, 3\], got \[2, 2\]"),
        ({"mask": torch.ones(2, 3)}, r"mask must be torch.bool, got torch.float32"),
        ({"rewards": torch.zeros(3)}, r"rewards must have shape \[2\], got \[3\]"),
        ({"tokens": torch.ones(2, dtype=torch.int64)}, r"tokens must have shape \[B, T\], got \[2\]"),
        ({"tokens": [[1, 2, 3]]}, r"tokens must have shape \[B, T\], got list"),
        ({"old_logprobs": torch.zeros(2, 3, requires_grad=True)}, "old_logprobs carries a gradient"),
        ({"valid": torch.zeros(2, 3, dtype=torch.bool)}, "mask must imply valid, but response 0"),
        ({"signals": {"entropy": torch.zeros(3, 3)}}, r"signals\['entropy'\] must have 2 responses on axis 0"),
        ({"reward_parts": {"a": torch.zeros(1)}}, r"reward_parts\['a'\] must have shape \[2\]"),
        ({"samples": ("one",), "group": torch.tensor([0, 1])}, r"group must index samples: got numbers 0..1 for 1"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_missing_signal_is_named():
    with pytest.raises(ValueError, match=r"signal 'entropy' is missing \(present: head_input\)"):
        make(signals={"head_input": torch.zeros(2, 3, 4)}).signal("entropy")


def test_select_keeps_rows_together():
    rollouts = make(
        rewards=torch.tensor([1.0, 2.0]),
        signals={"entropy": torch.arange(6.0).view(2, 3), "view_logprobs": torch.arange(12.0).view(2, 2, 3)},
        reward_parts={"a": torch.tensor([3.0, 4.0])},
    )
    picked = rollouts.select([1])
    assert picked.rewards.tolist() == [2.0]
    assert picked.signals["entropy"].tolist() == [[3.0, 4.0, 5.0]]
    assert picked.signals["view_logprobs"].tolist() == [[[3.0, 4.0, 5.0]], [[9.0, 10.0, 11.0]]]
    assert picked.reward_parts["a"].tolist() == [4.0]


def test_credit_refuses_non_finite_and_scales_safely():
    mask = torch.tensor([[True, True, False]])
    with pytest.raises(ValueError, match="advantages must be finite, got nan at response 0, token 1"):
        Credit(torch.tensor([[0.0, torch.nan, 0.0]]), mask)
    scaled = Credit(torch.tensor([[1.0, 2.0, 0.0]]), mask).scale(torch.tensor([[3.0, 0.5, torch.inf]]))
    assert scaled.advantages.tolist() == [[3.0, 1.0, 0.0]]
