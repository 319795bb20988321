"""Refinement: the spec's trace, stops, budgets, stall guard, notes, and the strategies beside it."""

from __future__ import annotations

import pytest

from mmcredit.policy.offsets import Offsets
from prm.parse import Verification, failed
from prm.refine import RefineSettings, Written, cut_tokens, outcome, previous_sentence, refine
from prm.reflection import reflection
from prm.verifier import Query, ScriptedVerifier

Y0 = "<think>The cup is red. It is left of the box.</think><answer>A</answer>"
GO_ON = " It is right of the box.</think><answer>B</answer>"
LEFT = "<think>The box is on the other side.</think><answer>['It is left of the box.']</answer>"
CLEAN = "<think>fine</think><answer>The response is correct.</answer>"


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


class Script:
    """A policy that says its lines in turn, whatever it is asked."""

    tokenizer = Characters()

    def __init__(self, *lines):
        self.lines, self.asks = list(lines), []

    def write(self, asks):
        self.asks += asks
        return [Written(tuple(map(ord, self.lines.pop(0)))[: ask.limit], read=len(ask.prefix)) for ask in asks]


def run(lines, outputs, **fields):
    policy, prm = Script(*lines), ScriptedVerifier(outputs)
    settings = RefineSettings(**{"max_tokens": 500, **fields})
    (chain,) = refine([Query("where is the cup?", "", sample_id="s")], policy, prm, settings)
    return outcome(chain, settings.k, settings), chain, policy, prm


def test_the_trace_of_the_spec():
    found, chain, policy, _ = run([Y0, GO_ON], [LEFT, CLEAN], k=4)
    assert found.stop == "clean"
    assert (found.cycles, found.spent.policy_calls, found.spent.prm_calls) == (1, 2, 2)
    assert found.text == "<think>The cup is red." + GO_ON
    first = chain.trace[0]
    assert (first.cut, first.kept) == (23, "<think>The cup is red.")
    assert len(policy.asks[1].prefix) == 22
    assert found.spent.policy_new_tokens == len(Y0) + len(GO_ON)
    assert found.spent.policy_prefill_tokens == 22


def test_small_budgets():
    found, _, _, prm = run([Y0, GO_ON], [LEFT], k=1)
    assert (found.stop, found.cycles, len(prm.asked)) == ("budget", 1, 1)
    assert found.text.endswith(GO_ON)
    found, _, _, prm = run([Y0], [], k=0)
    assert (found.stop, found.text, len(prm.asked)) == ("budget", Y0, 0)
    found, _, policy, prm = run([Y0], [], k=1, budget="samples")
    assert (found.text, found.spent.policy_calls, len(prm.asked)) == (Y0, 1, 0)
    found, _, policy, _ = run([Y0, GO_ON], [LEFT], k=2, budget="samples")
    assert found.spent.policy_calls == len(policy.asks) == 2


def test_a_long_run_tells_what_smaller_budgets_give():
    lines = [Y0, " It is left of the box. x</think><answer>C</answer>", GO_ON]
    _, chain, _, _ = run(lines, [LEFT, LEFT, CLEAN], k=4)
    settings = RefineSettings(k=4, max_tokens=500)
    for k in range(5):
        alone, _, _, _ = run(lines, [LEFT, LEFT, CLEAN], k=k)
        assert outcome(chain, k, settings) == alone
    assert [outcome(chain, k, settings).stop for k in range(5)] == ["budget"] * 3 + ["clean"] * 2


def test_other_stops():
    assert run([Y0], [failed("down"), failed("down")])[0].stop == "prm_error"
    found, _, _, prm = run([Y0], ["nonsense", "nonsense"])
    assert (found.stop, found.text, found.spent.prm_calls) == ("prm_error", Y0, 2)
    assert [query.attempt for query in prm.asked] == [0, 1]
    assert run([Y0, GO_ON], ["nonsense", LEFT, CLEAN])[0].stop == "clean"
    assert run([Y0], ["<answer>['never said so at all']</answer>"])[0].stop == "unlocatable"


def test_a_cut_at_the_start_samples_anew():
    found, chain, policy, _ = run([Y0, Y0.replace("left", "right")], ["<answer>['<think>The cup']</answer>", CLEAN])
    assert policy.asks[1].prefix == ()
    assert found.text == Y0.replace("left", "right")
    assert chain.trace[0].cut == 0


def test_a_cut_in_the_answer_keeps_the_tags():
    _, _, policy, _ = run([Y0, "B</answer>"], [Verification(("A",), "flagged", places=((61, 62),)), CLEAN])
    assert "".join(map(chr, policy.asks[1].prefix)).endswith("</think><answer>")


def test_stall_guard_heats_then_moves_back():
    again = " It is left of the box.</think><answer>A</answer>"
    lines = [Y0, again, again, " The cup is red. It is left of the box.</think><answer>A</answer>", GO_ON]
    _, chain, policy, _ = run(lines, [LEFT, LEFT, LEFT, LEFT, CLEAN], k=8, temperature=0.8)
    assert [ask.temperature for ask in policy.asks[:4]] == pytest.approx([0.0, 0.8, 0.9, 1.0])
    prefixes = ["".join(map(chr, ask.prefix)) for ask in policy.asks]
    assert prefixes[1:3] == ["<think>The cup is red."] * 2
    assert prefixes[3] == "<think>"
    assert chain.trace[2].moved_back == 1
    hot = run([Y0, *[again] * 9, GO_ON], [LEFT] * 9 + [CLEAN], k=9)[2]
    assert max(ask.temperature for ask in hot.asks) == pytest.approx(1.3)


def test_reflection_is_inserted_protected_and_counted_as_read():
    note = ' Wait, let me look again: the statement "It is left of the box" is not supported by the image.'
    flag_note = "<answer>['It is left of the box']</answer>"
    found, chain, policy, _ = run([Y0, GO_ON], [flag_note, flag_note], k=3, reflect=True)
    prefix = "".join(map(chr, policy.asks[1].prefix))
    assert prefix == "<think>The cup is red." + note
    assert found.stop == "unlocatable"  # the words of the note are not the policy's
    assert chain.trace[1].fates == ("protected",)
    assert found.text == prefix + GO_ON
    assert found.spent.policy_new_tokens == len(Y0) + len(GO_ON)


def test_a_note_behind_the_cut_is_forgotten():
    outputs = [LEFT, "<answer>['The cup is red']</answer>", LEFT, CLEAN]
    lines = [Y0, GO_ON, "The cup. It is left of the box.</think><answer>A</answer>", GO_ON]
    found, chain, _, _ = run(lines, outputs, k=4, reflect=True)
    assert chain.trace[2].fates == ("located",)
    assert found.stop == "clean"


def test_length_holds_for_the_whole_text():
    found, _, policy, _ = run([Y0, GO_ON], [LEFT, LEFT], k=3, max_tokens=40)
    assert [ask.limit for ask in policy.asks] == [40]
    assert found.stop == "unlocatable"
    found, chain, policy, _ = run([Y0, GO_ON, GO_ON], [LEFT, CLEAN], k=3, max_tokens=71)
    assert policy.asks[1].limit == 71 - 22
    assert chain.texts[-1] == Y0[:22] + GO_ON[:49]
    assert found.text == Y0  # the last one with a whole answer


def test_no_answer_falls_back_to_the_last_complete_text():
    found, _, _, _ = run([Y0, " It goes on and on"], [LEFT, CLEAN])
    assert found.text == Y0
    found, _, _, _ = run(["<think>It is left of the box. and"], [CLEAN])
    assert found.text == ""
    assert run([r"so \boxed{4}"], [CLEAN])[0].text == r"so \boxed{4}"
    assert run(["a picture of a cat"], [CLEAN])[0].text == "a picture of a cat"


def test_fewest_flags_pays_one_more_look():
    two = "<answer>['It is left of the box.', 'red']</answer>"
    worse = " It is left of the box. no no</think><answer>C</answer>"
    found, _, _, prm = run([Y0, worse], [LEFT, two], k=1, returns="fewest_flags")
    assert (found.text, found.stop, len(prm.asked)) == (Y0, "budget", 2)
    found, _, _, _ = run([Y0, worse], [two, LEFT], k=1, returns="fewest_flags")
    assert found.text.endswith("<answer>C</answer>")


def test_chains_do_not_depend_on_each_other():
    class Echo:
        tokenizer = Characters()

        def write(self, asks):
            return [Written(tuple(map(ord, f"<answer>{a.seed % 97}</answer>"))) for a in asks]

    prm = ScriptedVerifier(lambda q: CLEAN)
    queries = [Query("q", "", sample_id=str(i)) for i in range(4)]
    settings = RefineSettings(k=2)
    together = [chain.texts for chain in refine(queries, Echo(), prm, settings)]
    alone = [refine([query], Echo(), prm, settings)[0].texts for query in queries]
    assert together == alone


def test_reflection_takes_evidence_and_gives_nothing_away():
    think = (
        "Claims identified: the mug is red.\n- The mug is red: no, it is clearly blue in the picture.\n"
        "- So the answer is not red but blue."
    )
    note = reflection("The mug is red", think)
    assert note == "Wait, let me look again: The mug is red: no, it is clearly blue in the picture."
    assert "not supported" in reflection("The mug is red", "So the answer is not that the mug is red.")
    assert "<" not in reflection("</think><answer>x", "")
    long = reflection("a " * 200, "")
    assert len(long.split()) <= 40
    assert "\n" not in reflection("two\nlines", "")


def test_cut_and_sentence_borders():
    text = "<think>One. Two is.  Three</think>"
    assert previous_sentence(text, 21) == 11
    assert previous_sentence(text, 11) == 7
    assert previous_sentence(text, 7) == 0
    words = Offsets("a b  c", ((0, 1), (1, 3), (3, 4), (4, 6), (6, 6)))
    assert cut_tokens(words, 5) == 2  # the token that shares the flagged character goes, and the space before it
    assert cut_tokens(words, 0) == 0
    assert cut_tokens(words, 6) == 4
