"""R3's replay and reflection: the memory, the numbers of the spec, and real runs."""

from __future__ import annotations

import math

import pytest
import torch
from runs import metrics, settings
from stages import ScriptedStage
from strategy_runs import make

from mmcredit import config
from mmcredit.credit import Pipeline
from mmcredit.rollout.strategies.base import Strategy
from mmcredit.rollout.strategies.replay import Replay
from mmcredit.rollout.strategies.replay.memory import ResponseMemory
from mmcredit.rollout.strategies.replay.reflection import reflection
from mmcredit.train.checkpoint import Checkpoints


def memory_of(*outcomes, per_prompt=8, max_age=4.0, max_tokens=1000):
    """A memory that was given responses (prompt, success) in this order; the n-th has tokens [n, n]."""
    memory = ResponseMemory(per_prompt, max_age, max_tokens)
    for number, (prompt, success) in enumerate(outcomes):
        memory.count(prompt, success)
        ids, logprobs = torch.tensor([number, number]), torch.tensor([-0.5, -1.0 - number])
        outcome = {"reward": float(success), "parts": {"a": float(success)}, "truncated": False}
        memory.add(prompt, ids, logprobs, number / 2, success, **outcome)
    return memory


def numbers(memory, prompt):
    return [int(s.tokens[0]) for s in memory.kept[prompt]]


def test_first_in_first_out_but_one_of_each_outcome_stays():
    outcomes = [("q", True), *[("q", False)] * 4]
    assert numbers(memory_of(*outcomes, per_prompt=3), "q") == [0, 3, 4]
    assert numbers(memory_of(*outcomes, ("q", True), per_prompt=3), "q") == [3, 4, 5]
    assert numbers(memory_of(("q", True), ("q", False), per_prompt=1), "q") == [1]


def test_what_is_picked():
    memory = memory_of(("q", True), ("q", False), ("q", True), ("other", True), ("q", True))
    picked = memory.pick("q", True, 2, epochs=2.0, longest=2)
    assert [int(s.tokens[0]) for s in picked] == [4, 2]  # the newest first
    rest = memory.pick("q", True, 2, 2.0, 2, used={picked[0].serial})
    assert [int(s.tokens[0]) for s in rest] == [2, 0]
    assert memory.pick("q", True, 2, 2.0, longest=1) == []  # the limit has been lowered
    assert [int(s.tokens[0]) for s in memory.pick("q", True, 9, epochs=5.5, longest=2)] == [4]  # age 3.5 of 4
    assert memory.pick("unseen", False, 1, 0.0, 2) == []
    assert memory.success_rate("q") == 0.75
    assert memory.success_rate("unseen") is None


def test_memory_is_bounded_over_all_prompts():
    memory = memory_of(("a", True), ("b", True), ("a", False), ("c", True), ("d", True), max_tokens=6)
    # b goes when c comes (a was seen after it), a with its two responses when d comes.
    assert list(memory.kept) == ["c", "d"]
    assert memory.tokens == 4


def test_memory_comes_back_from_a_checkpoint(tmp_path):
    memory = memory_of(("q", True), ("q", False), ("r", True))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"strategies": memory.state_dict()})
    again = ResponseMemory(8, 4.0, 1000)
    again.load_state_dict(checkpoints.load(checkpoints.latest())[1]["strategies"])
    assert list(again.kept) == ["q", "r"]
    for prompt in ("q", "r"):
        for a, b in zip(memory.kept[prompt], again.kept[prompt], strict=True):
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.logprobs, b.logprobs)
            assert (a.success, a.reward, a.parts, a.epochs, a.serial) == (
                b.success,
                b.reward,
                b.parts,
                b.epochs,
                b.serial,
            )
    assert again.history == memory.history == {"q": (1, 2), "r": (1, 1)}
    assert again.tokens == memory.tokens == 6
    fresh = ResponseMemory(8, 4.0, 1000)
    fresh.load_state_dict(ResponseMemory(8, 4.0, 1000).state_dict())
    assert fresh.kept == {}


def visit(replay, stage, names):
    """One step in which these prompts are asked."""
    return replay(stage.asks([stage.pair(name) for name in names]), stage.sample, stage)


def test_a_group_of_one_outcome_is_repaired_with_a_stored_opposite():
    """Worked example of CCR: R = [0,0,0,0 | 1] gives -.5 and 2; damped by alpha 2, half of it."""
    stage = ScriptedStage({"q": [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]}, group=4)
    replay = Replay(reflect=False)
    first = visit(replay, stage, ["q"])
    assert first.rollouts.signals["replayed"].tolist() == [0] * 4
    assert len(first) == 4  # a mixed group is left alone
    stage.step = 1
    batch = visit(replay, stage, ["q"])
    rollouts = batch.rollouts
    assert rollouts.signals["replayed"].tolist() == [0, 0, 0, 0, 1]
    assert rollouts.group.tolist() == [0] * 5
    assert len(batch.prompts) == 1
    assert rollouts.tokens[4].tolist() == [11, 21]  # the ids that were sampled
    assert rollouts.rewards.tolist() == [0, 0, 0, 0, 1]
    assert rollouts.reward_parts["accuracy"].tolist() == [0, 0, 0, 0, 1]
    assert bool(rollouts.mask.all())
    assert torch.equal(rollouts.old_logprobs[4], torch.tensor([-0.1, -0.2]))
    assert bool(rollouts.old_logprobs[:4].isnan().all())  # to be computed by the trainer
    assert bool(rollouts.sampler_logprobs[4].isnan().all())
    assert batch.texts[4] == "11 21"
    for alpha, low, high in ((1.0, -0.5, 2.0), (2.0, -0.25, 1.0)):
        credit = Pipeline([{"r3": {"serr": "off", "alpha": alpha}}])(rollouts)
        assert credit.advantages[:, 0].tolist() == pytest.approx([low] * 4 + [high], abs=1e-5)
    # Replayed responses are not stored again: four per visit.
    assert len(replay.memory.kept["q"]) == 8
    two = Replay(reflect=False, k=2)
    two.load_state_dict(replay.state_dict())
    stage.step = 2
    assert visit(two, stage, ["q"]).rollouts.signals["replayed"].tolist() == [
        0,
        0,
        0,
        0,
        1,
    ]  # there is only one success
    stage.step = 3
    repaired = visit(two, stage, ["q"]).rollouts
    assert repaired.rewards.tolist() == [1, 1, 1, 1, 0, 0]
    credit = Pipeline([{"r3": {"serr": "off"}}])(repaired)
    assert credit.advantages[:, 0].tolist() == pytest.approx([0.707105] * 4 + [-1.414211] * 2, abs=1e-5)


def test_no_response_is_replayed_twice_in_a_step():
    stage = ScriptedStage({"q": [[0, 1], [0, 0], [0, 0]]}, group=2)
    replay = Replay(reflect=False)
    visit(replay, stage, ["q"])
    batch = visit(replay, stage, ["q", "q"])
    assert batch.rollouts.signals["replayed"].tolist() == [0, 0, 0, 0, 1]
    assert batch.rollouts.group.tolist() == [0, 0, 1, 1, 0]


def test_old_log_probs_can_be_those_of_the_present_policy():
    stage = ScriptedStage({"q": [[0, 1], [0, 0]]}, group=2)
    replay = Replay(reflect=False, old="current")
    visit(replay, stage, ["q"])
    assert visit(replay, stage, ["q"]).rollouts.old_logprobs is None
    assert not replay.needs().old_logprobs
    assert Replay().needs().old_logprobs


def test_foreign_continued_and_filtered_responses_are_not_stored():
    stage = ScriptedStage({"q": [0, 1, 0, 1]}, group=4)
    replay = Replay(reflect=False)

    def rest(asks):
        batch = stage.sample(asks)
        mask = batch.rollouts.mask.clone()
        mask[0, 0] = False  # went on from a prefix
        mask[1] = False  # filtered
        logprobs = batch.rollouts.sampler_logprobs.clone()
        logprobs[2] = math.nan  # sampled from another image
        return batch.replace_rollouts(batch.rollouts.replace(mask=mask, sampler_logprobs=logprobs))

    replay(stage.asks([stage.pair("q")]), rest, stage)
    assert [s.tokens.tolist() for s in replay.memory.kept["q"]] == [[13, 23]]
    assert stage.notes["replay/not_stored"] == 3
    assert replay.memory.success_rate("q") == 0.5


HALF = """
def e(item):
    return float("e" in item.response and "r" in item.response)
"""


def run_settings(tmp_path, kind, **changes):
    """Every third response or so of an untrained model is a success; five prompts, so that they come back."""
    (tmp_path / "half.py").write_text(HALF)
    limit = {"data__train": {"easy_vqa": {"split": "train", "limit": 5}}} if kind == "vlm" else {}
    own = {
        "rollout__group": 3,
        "rewards": [{"function": {"path": f"{tmp_path / 'half.py'}:e"}}],
        "run__steps": 8,
        "train__learning_rate": 1e-4,
    }
    return own | limit | changes


@pytest.mark.parametrize("kind", ["text", "vlm"])
def test_a_run_replays_and_reflects(tmp_path, kind):
    own = run_settings(
        tmp_path, kind, rollout__strategies=[{"replay": {"tau": 0.6}}], credit=[{"r3": {"success_part": "function"}}]
    )
    trainer = make(tmp_path, kind, **own)
    seen = []
    score = trainer._score

    def scored(batch, step):
        rollouts, clean = score(batch, step)
        seen.append((batch, rollouts, clean))
        return rollouts, clean

    trainer._score = scored
    trainer.run()
    rows = metrics(tmp_path / "run")
    assert sum(row["rollout/replay/replayed"] for row in rows) > 0
    assert sum(row["rollout/replay/reflections"] for row in rows) > 0
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    # Replayed rows are no mismatch of the engines.
    assert all(row["mismatch/kl"] < 1e-6 for row in rows)
    by_prompt = {}
    for batch, rollouts, clean in seen:
        replayed = rollouts.signals["replayed"] != 0
        for row in range(len(rollouts)):
            name = batch.samples[int(rollouts.group[row])].id
            keep = rollouts.mask[row]
            ids, old = tuple(rollouts.tokens[row][keep].tolist()), rollouts.old_logprobs[row][keep]
            if replayed[row]:
                logprobs, reward = by_prompt[name][ids]
                assert torch.equal(old, logprobs)  # of the policy that sampled it
                assert not torch.equal(old, clean[row][keep])  # which has moved since
                assert float(rollouts.rewards[row]) == reward
            else:
                assert torch.equal(old, clean[row][keep])
                sampled = batch.rollouts.sampler_logprobs[row][keep]
                by_prompt.setdefault(name, {})[ids] = (sampled, float(rollouts.rewards[row]))
                asked = batch.samples[int(rollouts.group[row])]
                if name.endswith("#reflection"):
                    assert [m["role"] for m in asked.messages[-2:]] == ["assistant", "user"]
                    assert "Find the first error" in asked.messages[-1]["content"]
    assert not any(name.endswith("#reflection") for name in trainer.stage.strategies[0].memory.kept)


def test_a_reflection_fits_the_prompt_limit(tmp_path):
    trainer = make(tmp_path, "text")
    stage, sample = trainer.stage, trainer.parts.samples[0]
    ids = list(range(40, 80))
    whole, prompt = reflection(sample, ids, "Again.", stage)
    assert whole.messages[-2]["content"] == stage.decode(ids).strip()
    assert whole.answer == sample.answer
    stage.max_prompt_tokens = len(prompt) - 5
    cut, shorter = reflection(sample, ids, "Again.", stage)
    assert len(shorter) <= len(prompt) - 5
    assert cut.messages[-2]["content"]
    assert whole.messages[-2]["content"].endswith(cut.messages[-2]["content"])  # its end is kept
    stage.max_prompt_tokens = len(stage.encode(sample))
    assert reflection(sample, ids, "Again.", stage) is None
    assert reflection(sample, [], "Again.", stage) is None
    trainer.close()


def test_only_hard_prompts_with_a_stored_failure_are_reflected_on():
    script = {"hard": [[0, 0, 0, 0], [0, 0, 0, 0]], "easy": [[1, 1, 0, 0], [1, 1, 0, 0]]}
    script |= {"hard#reflection": [1, 0, 0, 0]}
    stage = ScriptedStage(script, group=4)
    stage.policy.encode = lambda sample: stage.pair(sample.id)[1]
    replay = Replay()
    visit(replay, stage, ["hard", "easy"])
    assert stage.notes["replay/reflections"] == 0  # never seen before
    batch = visit(replay, stage, ["hard", "easy"])
    assert [s.id for s in batch.samples] == ["hard", "easy", "hard#reflection"]
    assert batch.rollouts.group.bincount().tolist() == [4, 4, 4]
    assert stage.notes["replay/reflections"] == 1
    assert set(replay.memory.kept) == {"hard", "easy"}
    assert replay.memory.history["hard"] == (0, 8)


def test_a_signal_from_inside_cannot_be_known_for_replayed_rows():
    class Marks(Strategy):
        """A signal."""

    stage = ScriptedStage({"q": [[0, 1], [0, 0]]}, group=2)

    def rest(asks):
        batch = stage.sample(asks)
        return batch.replace_rollouts(batch.rollouts.with_signals({"marks": torch.ones(len(batch))}))

    replay = Replay(reflect=False)
    replay(stage.asks([stage.pair("q")]), rest, stage)
    with pytest.raises(ValueError, match=r"signals\['marks'\] is known for 1 of 2 joined batches"):
        replay(stage.asks([stage.pair("q")]), rest, stage)


def test_contract(tmp_path):
    with pytest.raises(ValueError, match="reward part 'right'; this run has"):
        config.parse(settings(tmp_path, rollout__strategies=[{"replay": {"part": "right"}}]))
    with pytest.raises(ValueError, match="per_prompt"):
        config.parse(settings(tmp_path, rollout__strategies=[{"replay": {"per_prompt": 0}}]))
