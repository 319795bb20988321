"""What a person gets wrong in a method of their own: one line with the method's name, and where it happened."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
import torch

from mmcredit import Credit, Rollouts, assign_credit
from mmcredit.cli import main
from mmcredit.components import Needs, load_plugin, register
from mmcredit.credit import CreditMethod

MASK = torch.tensor([[True, True, False, True], [True, True, False, False], [True] * 4, [True] * 4])
VALID = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4, [True] * 4])


def rollouts(**more: Any) -> Rollouts:
    """Four responses of four tokens: the shape in which a weight per response would be taken for one per token."""
    signals = {"entropy": torch.rand(4, 4)}
    rewards, group = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    given = {"tokens": torch.ones(4, 4, dtype=torch.int64), "mask": MASK, "valid": VALID, "group": group}
    return Rollouts(**{**given, "rewards": rewards, "signals": signals, **more})


MISTAKES = {
    "a weight per response": (lambda c, r: c.scale(r.rewards), r"weights must have shape \[4, 4\] .* got \[4\]"),
    "weights too long": (lambda c, r: c.scale(torch.ones(4, 5)), r"weights must have shape \[4, 4\] .* got \[4, 5\]"),
    "advantages per response": (lambda c, r: c.replace(advantages=r.rewards), r"advantages must have shape \[4, 4\]"),
    "NaN": (lambda c, r: c.scale(torch.log(-torch.ones(4, 4))), "must be finite, got nan at response 0, token 0"),
    "infinite": (lambda c, r: c.scale(torch.full((4, 4), torch.inf)), "must be finite, got inf at response 0"),
    "another dtype": (lambda c, r: c.replace(advantages=c.advantages.long()), "advantages must be"),
    "another device": (
        lambda c, r: c.replace(advantages=c.advantages.to("meta")),
        "advantages is on meta, but tokens are on cpu",
    ),
    "in place": (lambda c, r: (c.advantages.mul_(2), c)[1], "changed credit.advantages in place"),
    "rewards in place": (lambda c, r: (r.rewards.sub_(1), c)[1], "changed rollouts.rewards in place"),
    "a signal in place": (lambda c, r: (r.signal("entropy").exp_(), c)[1], r"changed rollouts.signals\['entropy'\] in"),
    "a signal that nobody asked for": (lambda c, r: c.scale(r.signal("blind_logprobs")), r"list it in needs\(\)"),
    "no log-probs": (lambda c, r: c.scale(r.old_logprobs.exp()), r"test_credit_mistakes.py:\d+\): AttributeError"),
    "nothing": (lambda c, r: None, "a Credit must be returned, got NoneType"),
    "a tensor": (lambda c, r: c.advantages, "a Credit must be returned, got Tensor"),
    "padding": (
        lambda c, r: c.replace(advantages=c.advantages + (~r.valid).float()),
        r"2 tokens outside rollouts.mask are given credit, first: response 1, token 2 \(padding\)",
    ),
    "inserted": (
        lambda c, r: c.replace(advantages=c.advantages + (r.valid & ~r.mask).float()),
        r"1 tokens outside rollouts.mask are given credit, first: response 0, token 2 \(inserted",
    ),
    "inserted into the loss": (lambda c, r: c.replace(loss_mask=r.valid), r"are put into the loss, first: response 0"),
    "fewer responses": (lambda c, r: c.select([0]), r"returned advantages of shape \[1, 4\], expected \[4, 4\]"),
    "torch": (lambda c, r: c.scale(torch.ones(4, 4) @ torch.ones(3, 3)), r"mistakes.py:\d+\): RuntimeError: mat1 and"),
    "a note of several numbers": (lambda c, r: (c, float(r.rewards))[0], r"mistakes.py:\d+\): .*one element"),
}


@register("credit", "mistaken")
class Mistaken(CreditMethod):
    """Does what the test says."""

    what: str

    def needs(self) -> Needs:
        return Needs()

    def __call__(self, credit: Credit, rollouts: Rollouts, step: Any) -> Any:
        return MISTAKES[self.what][0](credit, rollouts)


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_named_in_one_line(what: str) -> None:
    with pytest.raises(ValueError, match=MISTAKES[what][1]) as error:
        assign_credit(rollouts(), ["grpo", {"mistaken": {"what": what}}])
    assert "'mistaken'" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_per_response_and_single_numbers_are_taken() -> None:
    credit = assign_credit(rollouts(), ["grpo"])
    assert torch.equal(credit.scale(torch.full((4, 1), 2.0)).advantages, 2 * credit.advantages)
    assert torch.equal(credit.scale(torch.tensor(2.0)).advantages, 2 * credit.advantages)


METHOD = '''
    from mmcredit.components import Needs, register
    from mmcredit.credit import CreditMethod


    @register("credit", "{name}")
    class Mine(CreditMethod):
        """Credit follows the entropy."""

        def needs(self):
            return Needs(signals=({signal}))

        def __call__(self, credit, rollouts, step):
            return credit.scale(rollouts.signal("entropy"))
'''


@pytest.mark.parametrize(
    ("name", "signal", "said"),
    [
        ("pgpo", '"entropy",', "credit 'pgpo' is registered twice: mmcredit.credit.pgpo and "),
        ("mine_typo", '"entrpy",', "signal 'entrpy' is needed, but nothing computes it; did you mean 'entropy'"),
        ("mine_string", '"entropy"', "Needs(signals='entropy'): a tuple of names is wanted, write ('entropy',)"),
    ],
)
def test_a_mistake_in_a_file_is_said_when_the_config_is_read(tmp_path, capsys, name, signal, said) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(textwrap.dedent(METHOD.format(name=name, signal=signal)))
    assert main(["train", "easy_vqa", "--dry-run", "--plugin", str(path), f"credit=[grpo, {name}]"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_that_cannot_be_imported_is_named(tmp_path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_package\n")
    with pytest.raises(ValueError, match=re.escape(str(path)) + r".*line 1.*no_such_package"):
        load_plugin(path)
