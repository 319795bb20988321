"""The verifier seam: asked beside the step, awaited for credit, and every answer that does not come is counted."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import fake_verifier
import pytest
import torch
from fake_verifier import FakeLetters
from runs import metrics, parse
from safetensors.torch import load_file

from mmcredit import Rollouts, assign_credit
from mmcredit.components import lookup, names, register
from mmcredit.data.media import MediaLimits
from mmcredit.data.sample import Sample
from mmcredit.report.gallery import pack_response
from mmcredit.report.samples import read_samples
from mmcredit.train.loop import Trainer, train
from mmcredit.train.progress import Progress
from mmcredit.verifiers.background import Verifying
from mmcredit.verifiers.base import RunContext, Span, Verdict, Verifier

LETTERS = SimpleNamespace(decode=lambda ids: "".join(chr(97 + i) for i in ids))
CONTEXT = RunContext(LETTERS, Path("unused"), 0, MediaLimits())
SAMPLES = [Sample(name, ({"role": "user", "content": "q"},)) for name in ("s0", "s1")]


def batch(rows, rewards, group, **more):
    """Right-padded rows of ids, 0 = padding as well as the letter a."""
    width = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    given = Rollouts(tokens=tokens, mask=mask, group=torch.tensor(group), rewards=torch.tensor(rewards), **more)
    return given, SAMPLES, [LETTERS.decode(row) for row in rows]


def verify(verifier, *args):
    verifying = Verifying([verifier], CONTEXT)
    try:
        verifying.begin()
        return verifying.collect(*args)
    finally:
        verifying.close()


def test_spans_become_a_signal_on_real_tokens_only():
    args = batch([[4, 1, 4], [4], [2, 2]], [1.0, 0.0, 0.5], [0, 0, 0])
    found = verify(FakeLetters(), *args)
    assert found.signals["hallucinated"].tolist() == [[True, False, True], [True, False, False], [False] * 3]
    assert [v.status for v in found.verdicts["fake_letters"]] == ["flagged", "flagged", "clean"]
    assert found.metrics["verify/flagged"] == 2
    assert found.metrics["verify/flagged_rate"] == pytest.approx(2 / 3)
    assert found.metrics["verify/unplaced/not_found"] == 2
    assert found.metrics["verify/not_found_rate"] == 2 / found.metrics["verify/spans"]
    assert found.metrics["verify/spans_per_response"] == pytest.approx(found.metrics["verify/spans"] / 3)
    assert found.metrics["verify/parse_error_rate"] == 0
    assert found.metrics["verify/share_hallucinated"] == pytest.approx(3 / 6)
    assert found.spent["responses"] == found.spent["calls"] == 3
    assert found.spent["tokens"] == 6


@register("verifier", "fake_slow_and_garbled")
class FakeSlowAndGarbled(Verifier):
    """Says something unreadable of the last response, and takes 1, 2, 3, ... seconds by its own account."""

    def open(self, context):
        return self

    def verify(self, items):
        times = [{"seconds": float(i + 1)} for i in range(len(items))]
        return [Verdict("clean", usage=t) for t in times[:-1]] + [Verdict("parse_error", usage=times[-1])]

    def close(self):
        pass


def test_rates_of_unreadable_answers_and_latency():
    args = batch([[1], [2], [3], [1, 2]], [1.0, 0.0, 0.5, 0.2], [0] * 4)
    verified = verify(FakeSlowAndGarbled(), *args)
    assert (verified.spent["answer_seconds"], "seconds" in verified.spent) == (10.0, False)
    found = verified.metrics
    assert found["verify/parse_error_rate"] == 1 / 4
    assert (found["verify/seconds_p50"], found["verify/seconds_p95"]) == (3.0, 4.0)
    assert found["verify/flagged_rate"] == found["verify/spans_per_response"] == 0
    assert "verify/not_found_rate" not in found


def test_ranges_are_of_real_tokens_and_clamped():
    """Inserted tokens (valid, not sampled) count as positions; a range may end behind the response."""
    given, _, _ = batch([[4, 1, 4]], [1.0], [0])
    given = given.replace(mask=torch.tensor([[True, False, True]]), valid=torch.ones(1, 3, dtype=torch.bool))
    signal = Verifier.signals(FakeLetters(), [Verdict("flagged", (Span("x", ((1, 9), (7, 8), (2, 2))),))], given)
    assert signal["hallucinated"].tolist() == [[False, True, True]]


def test_groups_of_equal_rewards_are_not_asked_about_unless_wanted():
    args = batch([[4], [4, 1], [4, 2], [4, 3]], [1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    found = verify(FakeLetters(), *args)
    assert [v.status for v in found.verdicts["fake_letters"]] == ["skipped", "skipped", "flagged", "flagged"]
    assert found.metrics["verify/skipped/equal rewards"] == 2
    assert found.metrics["verify/flagged_rate"] == 1  # of those that were answered
    assert not found.signals["hallucinated"][:2].any()
    assert found.spent["responses"] == 2
    everything = verify(FakeLetters(groups="all"), *args)
    assert everything.signals["hallucinated"][:, 0].all()


def test_equal_responses_are_asked_about_once_and_early_answers_are_used():
    args = batch([[4], [4], [1], [2]], [1.0, 1.0, 0.0, 0.5], [0, 0, 0, 0])
    verifying = Verifying([FakeLetters()], CONTEXT)
    verifying.begin()
    verifying.ask(*args)
    kept = args[0].select(torch.tensor([2, 0]))  # as a strategy leaves it: fewer rows, another order
    found = verifying.collect(kept, SAMPLES, ["b", "e"])
    calls = fake_verifier.MADE[-1].calls
    assert [[item.text for item in call] for call in calls] == [["e", "b", "c"]]
    assert [v.status for v in found.verdicts["fake_letters"]] == ["clean", "flagged"]
    assert found.spent["responses"] == 3  # what was paid for, used or not
    verifying.begin()
    verifying.collect(*args)
    assert len(fake_verifier.MADE[-1].calls) == 2  # nothing is remembered from step to step
    verifying.close()
    assert fake_verifier.MADE[-1].closed


@pytest.mark.parametrize(
    ("breaks", "status", "reason"), [("raise", "prm_error", "exception"), ("parse", "parse_error", "no answer block")]
)
def test_no_answer_is_a_status_a_count_and_an_alarm(breaks, status, reason):
    found = verify(FakeLetters(breaks=breaks), *batch([[4], [1]], [1.0, 0.0], [0, 0]))
    assert {v.status for v in found.verdicts["fake_letters"]} == {status}
    assert found.metrics[f"verify/{status}"] == found.metrics[f"verify/{status}/{reason}"] == 2
    assert "verify/flagged_rate" not in found.metrics
    assert not found.signals["hallucinated"].any()
    (alarm,) = found.alarms
    assert "2 of 2 responses have no verdict" in alarm
    assert ("no route" in alarm) == (breaks == "raise")


def test_a_verifier_that_hangs_costs_its_timeout():
    verifying = Verifying([FakeLetters(timeout=0.05)], CONTEXT)
    checker = fake_verifier.MADE[-1]
    checker.gate = threading.Event()
    verifying.begin()
    found = verifying.collect(*batch([[4], [1]], [1.0, 0.0], [0, 0]))
    assert {(v.status, v.reason) for v in found.verdicts["fake_letters"]} == {("prm_error", "timeout")}
    checker.gate.set()
    verifying.begin()
    later = verifying.collect(*batch([[4], [2]], [1.0, 0.0], [0, 0]))
    assert [v.status for v in later.verdicts["fake_letters"]][:1] in (["flagged"], ["prm_error"])
    verifying.close()


def test_too_few_verdicts_are_an_error_of_the_verifier():
    with pytest.raises(RuntimeError, match="fake_letters.* gave 1 verdicts for 2 responses"):
        verify(FakeLetters(breaks="short"), *batch([[4], [1]], [1.0, 0.0], [0, 0]))


def test_verdicts_say_what_is_wrong_with_them():
    with pytest.raises(ValueError, match="got 'wrong'"):
        Verdict("wrong")
    with pytest.raises(ValueError, match="spans belong to"):
        Verdict("clean", (Span("x"),))


# -- the contract -------------------------------------------------------------------------------------------------

PENALTY = {"credit": ["grpo", "fake_penalty"]}


def test_a_method_that_reads_the_signal_needs_a_verifier(tmp_path):
    with pytest.raises(
        ValueError, match="'hallucinated' is needed, which a verifier gives: add one to verifiers .*fake_letters"
    ):
        parse(tmp_path, **PENALTY)
    assert parse(tmp_path, verifiers=["fake_letters"], **PENALTY).verifiers == ["fake_letters"]


def test_two_givers_and_wrong_settings_are_config_errors(tmp_path):
    with pytest.raises(ValueError, match="'hallucinated', which is there already"):
        parse(tmp_path, verifiers=["fake_letters", {"fake_letters": {"letter": "a"}}], **PENALTY)
    with pytest.raises(ValueError, match=r"groups='all', but verifier 'fake_letters' has 'unequal'"):
        parse(tmp_path, verifiers=["fake_letters"], credit=["grpo", {"fake_penalty": {"every": True}}])
    parse(tmp_path, verifiers=[{"fake_letters": {"groups": "all"}}], credit=["grpo", {"fake_penalty": {"every": True}}])
    with pytest.raises(ValueError, match="did you mean 'fake_letters'"):
        parse(tmp_path, verifiers=["fake_leters"])


def test_groups_are_left_out_only_where_they_have_no_credit(tmp_path):
    penalty = ["reinforce_pp", "fake_penalty"]
    with pytest.raises(ValueError, match="credit behind 'reinforce_pp'; write {fake_letters: {groups: all}}"):
        parse(tmp_path, verifiers=["fake_letters"], credit=penalty)
    parse(tmp_path, verifiers=[{"fake_letters": {"groups": "all"}}], credit=penalty)
    parse(tmp_path, verifiers=["fake_letters"], credit=["reinforce_pp"])  # nothing reads the signal


def test_methods_that_promise_no_credit_for_equal_rewards_keep_it():
    torch.manual_seed(0)
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 4, 1, 2, 5, 3, 3, 4, 5, 1, 2])[:, None]
    given = Rollouts(
        tokens=torch.randint(1, 9, (12, 5)) * mask,
        mask=mask,
        group=torch.arange(3).repeat_interleave(4),
        rewards=torch.tensor([1.0] * 4 + [0.0, 1.0, 1.0, 0.0] + [0.0] * 4),
        old_logprobs=-torch.rand(12, 5),
        signals={name: torch.rand(12, 5) for name in ("entropy", "ref_logprobs")},
    )
    promised = [name for name in names("credit") if getattr(lookup("credit", name), "zero_for_equal", False)]
    assert {"grpo", "dr_grpo", "rloo"} <= set(promised)
    for name in promised:
        advantages = assign_credit(given, [name], step=3, total_steps=10).advantages
        assert not advantages[:4].any(), name
        assert not advantages[8:].any(), name
        assert advantages[4:8].any(), name
    assert assign_credit(given, ["reinforce_pp"]).advantages[:4].any()


# -- in a run -----------------------------------------------------------------------------------------------------


def test_the_verifier_works_while_the_trainer_scores(tmp_path):
    """Its answer is held back until the score pass has begun: were it waited for before, it would be a prm_error."""
    trainer = Trainer(parse(tmp_path, run__steps=1, verifiers=["fake_letters"], **PENALTY))
    checker, score = fake_verifier.MADE[-1], trainer.parts.policy.score
    checker.gate = threading.Event()

    def scoring(*args, **more):
        assert checker.called.wait(20)  # asked before
        checker.gate.set()
        return score(*args, **more)

    trainer.parts.policy.score = scoring
    trainer.run()
    (row,) = metrics(tmp_path / "run")
    assert row["verify/prm_error"] == 0
    assert row["verify/clean"] + row["verify/flagged"] > 0
    assert checker.threads.isdisjoint({threading.get_ident()})
    assert checker.closed
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())["stages"]["verify"]
    assert cost["calls"] == cost["responses"] > 0
    assert {"seconds", "busy_seconds", "tokens"} <= set(cost)


def test_verdicts_reach_credit_table_and_page(tmp_path):
    config = parse(
        tmp_path, run__steps=1, verifiers=[{"fake_letters": {"groups": "all"}}], **PENALTY, log__samples_every=1
    )
    train(config)
    rows = read_samples(tmp_path / "run" / "samples" / "step-000000.parquet")
    flagged = [row for row in rows if row["verdicts"][0]["status"] == "flagged"]
    assert flagged
    for row in rows:
        (verdict,) = row["verdicts"]
        (signal,) = [s["values"] for s in row["signals"] if s["name"] == "hallucinated"]
        marked = [i for span in verdict["spans"] for a, b in span["tokens"] for i in range(a, b)]
        assert [i for i, value in enumerate(signal) if value] == sorted(marked)
        assert len(set(row["advantages"])) <= 2
        if marked and row["advantages"][marked[0]]:
            others = {a for i, a in enumerate(row["advantages"]) if i not in marked}
            assert all(row["advantages"][marked[0]] < a for a in others)
    spans = flagged[0]["verdicts"][0]["spans"]
    assert [(s["text"], s["fate"], s["rung"]) for s in spans] == [
        ("e", "located", "exact"),
        ("elsewhere", "not_found", ""),
    ]
    assert pack_response(flagged[0])["verdicts"][0]["spans"][0]["tokens"] == [list(t) for t in spans[0]["tokens"]]


def test_a_penalty_of_nothing_is_the_run_without_a_verifier(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    common = {"checkpoint__final": True, "run__steps": 2}
    train(parse(tmp_path / "a", **common))
    train(
        parse(tmp_path / "b", **common, verifiers=["fake_letters"], credit=["grpo", {"fake_penalty": {"alpha": 0.0}}])
    )
    plain, other = (load_file(next((tmp_path / f / "run" / "model").glob("*.safetensors"))) for f in "ab")
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    common = {"checkpoint__every": 1, "run__steps": 3, "verifiers": ["fake_letters"], **PENALTY}
    train(parse(tmp_path / "a", **common))
    stopped = Trainer(parse(tmp_path / "b", **common))
    observe = stopped.stage.observe

    def interrupted(rollouts):
        if stopped.step == 2:
            raise KeyboardInterrupt
        observe(rollouts)

    stopped.stage.observe = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    train(parse(tmp_path / "b", **common), resume=True)
    assert metrics(tmp_path / "a" / "run") == metrics(tmp_path / "b" / "run")
    cost = [json.loads((tmp_path / f / "run" / "cost.json").read_text())["stages"]["verify"]["calls"] for f in "ab"]
    assert cost[0] == cost[1]


def test_groups_that_a_strategy_samples_anew_are_asked_about_as_they_come(tmp_path):
    config = parse(
        tmp_path, run__steps=2, verifiers=["fake_letters"], **PENALTY, rollout__strategies=["dynamic_sampling"]
    )
    train(config)
    items = [item for call in fake_verifier.MADE[-1].calls for item in call]
    for row in metrics(tmp_path / "run"):
        assert row["verify/clean"] + row["verify/flagged"] + row["verify/skipped"] == 16
        assert row["verify/prm_error"] == 0
    assert len(items) >= 16


def test_the_committed_table_of_an_older_run_can_still_be_read():
    row = {"member": 0, "reward": 1.0, "response": "ab", "pieces": ["ab"], "token_ids": [1], "advantages": [0.5]}
    assert "verdicts" not in pack_response(row)


def test_the_line_of_a_step_tells_the_share_of_flagged_responses():
    metrics = {"reward/mean": 0.5, "response/length_mean": 12.0, "group/zero_signal": 0.25}
    words = Progress(quiet=True).words
    assert words(metrics | {"verify/flagged_rate": 0.625}) == words(metrics) + "  flagged 62%"
    assert "flagged" not in words(metrics)
