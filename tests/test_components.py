"""Names, fields and contracts are checked when a config is read."""

import subprocess
import sys
import textwrap

import pytest

from mmcredit import assign_credit, components
from mmcredit.components import build, register
from mmcredit.credit import CreditMethod, Pipeline


def test_nearest_name_is_suggested():
    with pytest.raises(ValueError, match=r"unknown credit 'grop'; did you mean 'grpo'\?"):
        build("credit", "grop")


def test_unknown_field_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"credit 'grpo': unknown key 'ddoff'; did you mean 'ddof'\?"):
        build("credit", {"grpo": {"ddoff": 1}})


def test_wrong_type_shows_the_value():
    with pytest.raises(ValueError, match=r"credit 'grpo': eps: .*got 'small'"):
        build("credit", {"grpo": {"eps": "small"}})


def test_malformed_entry():
    with pytest.raises(ValueError, match="a credit is written as a name or as"):
        build("credit", {"grpo": {}, "dr_grpo": {}})


def test_order_of_a_pipeline_is_checked():
    with pytest.raises(ValueError, match="list of methods is empty"):
        Pipeline([])
    with pytest.raises(ValueError, match="starts from rewards and would undo"):
        Pipeline(["grpo", "dr_grpo"])
    with pytest.raises(ValueError, match="a list of credit entries is wanted"):
        assign_credit(None, "grpo")


def test_a_component_needs_a_docstring_and_a_free_name():
    with pytest.raises(ValueError, match="has no docstring"):
        register("credit", "silent")(type("Silent", (CreditMethod,), {"__doc__": ""}))
    with pytest.raises(ValueError, match="registered twice"):
        register("credit", "grpo")(type("Other", (CreditMethod,), {"__doc__": "Another GRPO."}))


def test_every_page_can_be_printed():
    for kind in components.HOMES:
        for name in components.names(kind):
            page = components.page(components.lookup(kind, name))
            assert page.startswith(f"{name} ({kind}, ")
            assert len(page.splitlines()) > 2


def test_two_methods_that_fix_the_ratio_differently_are_refused(tmp_path):
    plugin = tmp_path / "fixers.py"
    plugin.write_text(
        textwrap.dedent(
            '''
            from mmcredit.components import register
            from mmcredit.credit import CreditMethod


            @register("credit", "fixes_token")
            class A(CreditMethod):
                """Fixes the ratio to token."""

                fixes_ratio = "token"

                def __call__(self, credit, rollouts, step):
                    return credit


            @register("credit", "fixes_sequence")
            class B(CreditMethod):
                """Fixes the ratio to sequence."""

                fixes_ratio = "sequence"

                def __call__(self, credit, rollouts, step):
                    return credit
            '''
        )
    )
    components.load_plugin(plugin)
    with pytest.raises(ValueError, match="two methods fix the ratio and disagree: fixes_token wants token"):
        Pipeline(["grpo", "fixes_token", "fixes_sequence"])
    assert Pipeline(["grpo", "fixes_sequence"]).ratio == "sequence"


def test_an_installed_package_adds_a_method_through_its_entry_point(tmp_path):
    """No file of mmcredit is touched: a package on the path with an entry point is enough."""
    package = tmp_path / "halver"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(
        textwrap.dedent(
            '''
            """A credit method of somebody else."""

            from mmcredit.components import register
            from mmcredit.credit import CreditMethod


            @register("credit", "halve")
            class Halve(CreditMethod):
                """Half of every advantage."""

                factor: float = 0.5

                def __call__(self, credit, rollouts, step):
                    return credit.scale(rollouts.mask * self.factor)
            '''
        )
    )
    info = tmp_path / "halver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmcredit.components]\nhalver = halver.method\n")
    program = """
        import torch
        from mmcredit import Rollouts, assign_credit
        mask = torch.ones(2, 2, dtype=torch.bool)
        rollouts = Rollouts(torch.ones(2, 2, dtype=torch.int64), mask, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
        plain = assign_credit(rollouts, ["dr_grpo"]).advantages
        half = assign_credit(rollouts, ["dr_grpo", "halve"])
        assert torch.equal(half.advantages, plain * 0.5)
        assert [t.name for t in half.trace] == ["dr_grpo", "halve"]
        assert bool((half.trace[1].weights == 0.5).all())
        print("ok")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.stdout.strip() == "ok", result.stderr


def test_a_broken_plugin_is_named(tmp_path):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmcredit.components]\nbroken = no_such_module\n")
    result = subprocess.run(
        [sys.executable, "-m", "mmcredit.cli", "methods", "grpo"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert result.returncode == 1
    assert "plug-in 'broken' (no_such_module) cannot be imported" in result.stderr
