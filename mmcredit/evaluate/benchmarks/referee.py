"""What judging may ask: mathematics in a worker process, and a judge model. Asked together for many responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.answers.item import RewardItem
from mmcredit.evaluate.benchmarks.scoring import Score
from mmcredit.evaluate.benchmarks.steps import Ask, Compare, Steps
from mmcredit.rewards.pool import RewardPool

if TYPE_CHECKING:
    from mmcredit.judge import Judge
    from mmcredit.rewards.base import Reward


class Referee:
    """Answers the questions of scoring. Use it as a context manager: worker processes and connections are closed.

    Mathematical comparisons run in the worker processes of the rewards, which are killed when an answer hangs; such an
    answer is wrong and counted. Equal questions are asked once.
    """

    def __init__(self, judge: Judge | None = None, workers: int = 1, math_timeout: float = 5.0) -> None:
        """`math_timeout`: seconds for one comparison. Nothing is started before the first question."""
        self.judge = judge
        self._workers, self._timeout = workers, math_timeout
        self._pools: dict[str, RewardPool] = {}
        self._known: dict[Compare, bool] = {}
        self.counts: dict[str, int] = {}  # "compare", "compare/timeout", "compare/error"; the judge has its own

    def answer(self, questions: Sequence[Compare | Ask]) -> list[Any]:
        """Replies in the order of the questions."""
        asks = [q for q in questions if isinstance(q, Ask)]
        replies = dict(zip(asks, self.judge.ask(asks) if self.judge and asks else [None] * len(asks), strict=True))
        self._compare([q for q in questions if isinstance(q, Compare)])
        return [replies[q] if isinstance(q, Ask) else self._known[q] for q in questions]

    def _compare(self, questions: Sequence[Compare]) -> None:
        new = [q for q in dict.fromkeys(questions) if q not in self._known]
        for name in sorted({q.reward for q in new}):
            asked = [q for q in new if q.reward == name]
            items = [RewardItem(response=q.given, answer=q.reference, sample_id=q.sample) for q in asked]
            result = self._pool(name).score(items)
            (values,) = result.parts.values()
            self._known.update({q: value > 0.5 for q, value in zip(asked, values, strict=True)})
            for key, count in result.counts.items():
                kind = key.split("/", 1)[1]
                if kind in ("error", "timeout"):
                    self.counts[f"compare/{kind}"] = self.counts.get(f"compare/{kind}", 0) + count
            self.counts["compare"] = self.counts.get("compare", 0) + len(asked)

    def _pool(self, name: str) -> RewardPool:
        if name not in self._pools:
            from mmcredit.components import build

            reward: Reward = build("reward", {name: {"timeout": self._timeout, "extract": "whole"}})  # type: ignore[assignment]
            # An answer that breaks the comparison is a wrong answer, however many there are: never stop for it.
            self._pools[name] = RewardPool([reward], workers=self._workers, max_error_share=1.0)
        return self._pools[name]

    def close(self) -> None:
        """End the worker processes; a later question starts new ones."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    def __enter__(self) -> Referee:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drive(runs: Sequence[Steps], referee: Referee) -> list[Score]:
    """Run all scorings side by side: what they ask in one round is asked in one batch."""
    scores: list[Score | None] = [None] * len(runs)
    waiting: dict[int, Any] = dict.fromkeys(range(len(runs)))  # run -> reply to send
    while waiting:
        questions: dict[int, Compare | Ask] = {}
        for number, reply in waiting.items():
            try:
                questions[number] = runs[number].send(reply)
            except StopIteration as end:
                scores[number] = end.value
        waiting = dict(zip(questions, referee.answer(list(questions.values())), strict=True)) if questions else {}
    assert all(isinstance(score, Score) for score in scores)
    return [score for score in scores if score is not None]
