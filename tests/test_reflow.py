"""Docstrings filled to a terminal's width: what is joined, and what keeps its lines."""

import inspect
import itertools
import os
import re
import subprocess
import sys

import pytest

from mmcredit import components
from mmcredit.reflow import reflow

PAGES = [(kind, name) for kind in components.HOMES for name in components.names(kind)]


def docstring(kind, name):
    return inspect.cleandoc(components.lookup(kind, name).__doc__ or "")


def test_a_wrapped_paragraph_is_filled_once():
    written = (
        "One sentence that its author wrapped at sixty columns since\n"
        "that is where the margin of the file is, and it goes on to a\n"
        "third line.\n"
        "\n"
        "Another paragraph."
    )
    assert reflow(written, 40) == (
        "One sentence that its author wrapped at\n"
        "sixty columns since that is where the\n"
        "margin of the file is, and it goes on to\n"
        "a third line.\n"
        "\n"
        "Another paragraph."
    )
    assert reflow(written, 200).splitlines()[0].endswith("goes on to a third line.")


def test_a_line_that_ends_early_ends_there():
    written = "A first line that goes all the way to the margin of the\ntext.\nB = A + 1\nAnd so on."
    assert reflow(written, 70).splitlines() == [
        "A first line that goes all the way to the margin of the text.",
        "B = A + 1",
        "And so on.",
    ]


def test_labels_begin_a_line():
    written = (
        "A sentence of a paragraph which reaches up to the margin\nSource: arXiv 1234.56789, section 3.\nPasses: none."
    )
    assert reflow(written, 100).splitlines()[1:] == ["Source: arXiv 1234.56789, section 3.", "Passes: none."]


@pytest.mark.parametrize(
    "kept",
    [
        "  w = 1 + eta*(2p-1)*(2u-1);  A <- A*w",
        "| a | b |",
        ">>> 1 + 1",
        "```\nx = 1\ny = 2\n```",
        "name      value     unit",
    ],
)
def test_formulas_tables_and_code_keep_their_lines(kept):
    around = "A sentence of a paragraph which goes to the margin, or near\n" + kept + "\nand another sentence."
    assert kept in reflow(around, 60)


def test_a_long_formula_goes_on_further_in():
    assert reflow("  w = I/(tau + eps) where I < tau, else 1 + beta*(I - tau)", 30).splitlines() == [
        "  w = I/(tau + eps) where I <",
        "      tau, else 1 + beta*(I -",
        "      tau)",
    ]


def test_items_are_filled_under_their_text():
    first = "A  the first item, whose text is long enough to be wrapped\n   by its author.\n"
    written = first + "B  the second.\n- third\n1. fourth"
    assert reflow(written, 30).splitlines() == [
        "A  the first item, whose text",
        "   is long enough to be",
        "   wrapped by its author.",
        "B  the second.",
        "- third",
        "1. fourth",
    ]


@pytest.mark.parametrize("width", [40, 80, 116])
def test_every_page_fits_and_loses_no_word(width):
    for kind, name in PAGES:
        written = docstring(kind, name)
        shown = reflow(written, width)
        assert shown.split() == written.split(), (kind, name)
        for line in shown.splitlines():
            assert len(line) <= width or len(line.split()) <= 2, (kind, name, line)
        assert [p.split()[0] for p in re.split(r"\n\n+", shown)] == [p.split()[0] for p in re.split(r"\n\n+", written)]


def test_no_page_is_wrapped_twice():
    """In 80 columns no line of a paragraph is followed by one whose first word would have fitted, but where the
    author ended a line or a label begins one."""
    for kind, name in PAGES:
        ends = {line.split()[-1] for line in docstring(kind, name).splitlines() if line.strip()}
        lines = reflow(docstring(kind, name), 80).splitlines()
        for line, after in itertools.pairwise(lines):
            if line.strip() and after.strip() and line[0] != " " and after[0] != " ":
                assert len(line) + 2 + len(after.split()[0]) > 80 or line.split()[-1] in ends, (kind, name, line)


def test_the_command_fills_to_the_terminal():
    """And to 80 columns where the output is piped and no width is set."""
    pages = {}
    for columns in ("80", "120", None):
        env = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | ({"COLUMNS": columns} if columns else {})
        command = [sys.executable, "-m", "mmcredit.cli", "methods", "pgpo"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=env, stdin=subprocess.DEVNULL)
        pages[columns] = result.stdout
    assert pages.pop(None) == pages["80"]
    for columns in pages:
        assert max(map(len, pages[columns].splitlines())) <= int(columns)
    assert pages["80"].split() == pages["120"].split()
    assert len(pages["80"].splitlines()) > len(pages["120"].splitlines())
    assert "  w <- w * n / sum w over its n tokens" in pages["80"]
