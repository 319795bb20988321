"""The verifier's output, parsed: spec vectors, traps of the public parser, bad input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prm.parse import STATUSES, parse_verification, reference_parse

ANSWER = "<think>x</think><answer>{}</answer>"


@pytest.mark.parametrize(
    ("raw", "strings", "status"),
    [
        ("<think>x</think><answer>The response is correct.</answer>", [], "clean"),
        ("<think>x</think><answer>['a b', \"c\"]</answer>", ["a b", "c"], "flagged"),
        ("<think>he wrote <answer>B</answer></think><answer>['q']</answer>", ["q"], "flagged"),
        ("<think>x</think><answer>\n```python\n['a b', 'c']\n```\n</answer>", ["a b", "c"], "flagged"),
        ("<think>x</think><answer>```\n[\"a\"]\n```</answer>", ["a"], "flagged"),
        ("<think>x</think><answer>```json [\"a\"] ```</answer>", ["a"], "flagged"),
        ("<think>x</think><answer>['a'", [], "parse_error"),
        ("<think>x</think>['a']", [], "parse_error"),
        ("<think>only thoughts, cut off", [], "parse_error"),
        ("", [], "parse_error"),
        (ANSWER.format(""), [], "parse_error"),
        (ANSWER.format("[]"), [], "clean"),
        (ANSWER.format("the RESPONSE is correct"), [], "clean"),
        (ANSWER.format('"The response is correct."'), [], "clean"),
        (ANSWER.format("'The response is correct'."), [], "clean"),
        (ANSWER.format("I looked twice. The response is correct"), [], "parse_error"),
        (ANSWER.format("['He says: The response is correct']"), ["He says: The response is correct"], "flagged"),
        (ANSWER.format("Errors: ['a', 'b'] as shown above"), ["a", "b"], "flagged"),
        (ANSWER.format("['a', 'b'].\nNothing else."), ["a", "b"], "flagged"),
        (ANSWER.format('["a", true, null, 3]'), ["a"], "flagged"),
        (ANSWER.format("[1, 2]"), [], "parse_error"),
        (ANSWER.format("[1,2]"), [], "parse_error"),
        (ANSWER.format("[['a']]"), [], "parse_error"),
        (ANSWER.format("('a', 'b')"), [], "parse_error"),
        (ANSWER.format("{'a': 1}"), [], "parse_error"),
        (ANSWER.format("[“a red mug”, “b”]"), ["a red mug", "b"], "flagged"),
        (ANSWER.format("['The dog's tail is red', 'b']"), ["The dog's tail is red", "b"], "flagged"),
        (ANSWER.format("[\n  'a', # first\n  'b',\n]"), ["a", "b"], "flagged"),
        (ANSWER.format('[\n  "a", // first\n  "b",\n]'), ["a", "b"], "flagged"),
        (ANSWER.format(r'["say \"hi\"", "tab\tend"]'), ['say "hi"', "tab\tend"], "flagged"),
        (ANSWER.format(r'["\u00e9t\u00e9"]'), ["été"], "flagged"),
        (ANSWER.format(r"['a \d b']"), [r"a \d b"], "flagged"),
        (ANSWER.format("['the sign says [STOP]']"), ["the sign says [STOP]"], "flagged"),
        (ANSWER.format("['']"), [""], "flagged"),
        (ANSWER.format("[the cup is red]"), [], "parse_error"),
        (ANSWER.format("see [1]"), [], "parse_error"),
        (ANSWER.format("['" + "x" * 10_000 + "']"), ["x" * 10_000], "flagged"),
        (ANSWER.format("[" * 5000 + "]" * 5000), [], "parse_error"),
        # Two blocks: the last counts. One quoted in thoughts that were cut off is nobody's answer.
        ("<think>x</think><answer>['a']</answer><answer>['b']</answer>", ["b"], "flagged"),
        ("<think>x</think><answer>['a']</answer><answer>B</answer>", [], "parse_error"),
        ("<think>he wrote <answer>['q']</answer> and then", [], "parse_error"),
        ("<think>he wrote <answer>['q']</answer></think> cut", [], "parse_error"),
        ("<think>never closed <answer>['q']</answer>", ["q"], "flagged"),
        ("no tags before <answer>['q']</answer>", ["q"], "flagged"),
        # Tags inside flagged strings.
        (ANSWER.format("['<answer>dark brown</answer>']"), ["<answer>dark brown</answer>"], "flagged"),
        (ANSWER.format("['brown.</think> <answer>dark']"), ["brown.</think> <answer>dark"], "flagged"),
        (ANSWER.format("['a </think> b']"), ["a </think> b"], "flagged"),
    ],
)  # fmt: skip
def test_hardened_parser(raw, strings, status):
    found = parse_verification(raw)
    assert (list(found.strings), found.status) == (strings, status)


def test_dropped_items_are_counted_and_thoughts_kept():
    found = parse_verification("<think>claims: 2</think><answer>['a', 1, None, ['b']]</answer>")
    assert (found.strings, found.dropped, found.think) == (("a",), 3, "claims: 2")
    assert parse_verification("<answer>[1]</answer>").dropped == 1
    assert parse_verification("He looked. <answer>['a']</answer>").think == "He looked."
    assert parse_verification(None).status == "parse_error"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<think>x</think><answer>The response is correct.</answer>", []),
        ("<think>x</think><answer>['a b', \"c\"]</answer>", ["a b", "c"]),
        ("<think>he wrote <answer>B</answer></think><answer>['q']</answer>", None),
        (ANSWER.format("```python\n['a']\n```"), None),
        (ANSWER.format("the response is correct"), None),
        (ANSWER.format("['He says: The response is correct']"), []),
        (ANSWER.format("[true]"), []),
        (ANSWER.format("[1, 'a']"), [1, "a"]),
        (ANSWER.format("['a'], ['b']"), []),
        (ANSWER.format("[]"), []),
        ("<answer>['a'", []),
        ("['a']</answer>", []),
        ("</answer><answer>['a']</answer>", ["a"]),
        ("", []),
    ],
)
def test_reference_parser(raw, expected):
    assert reference_parse(raw) == expected


@given(st.lists(st.text()))
def test_a_list_that_python_writes_is_read_back(strings):
    # A string that holds a closing tag cuts its own block short in any parser of this format.
    strings = [s for s in strings if "answer>" not in s and "think>" not in s]
    found = parse_verification(ANSWER.format(repr(strings)))
    assert list(found.strings) == strings
    assert found.status == ("flagged" if strings else "clean")


PIECES = st.sampled_from([*"[]'\",\\ab\n`", "<think>", "</think>", "<answer>", "</answer>"])


@given(st.lists(PIECES).map("".join))
def test_no_output_breaks_the_parser(raw):
    found = parse_verification(raw)
    assert found.status in STATUSES
    assert (found.status == "flagged") == bool(found.strings)
    assert reference_parse(raw) is None or isinstance(reference_parse(raw), list)
