"""Votes on the steps of a response by a judge model: the signals of credit method `step_wise`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import build, register
from mmcredit.data.sample import Sample, last_text
from mmcredit.judge import Ask as Question
from mmcredit.judge import Judge, JudgeConfig
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.spae_probes.reasoning_steps import StepFinder

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.volume import Volume

QUESTION = """### Task
{question}

### Work so far
{before}

### Next step
{step}

Does the next step make progress? Reason briefly, then end with \\boxed{{1}} if it does, \\boxed{{-1}} if it is wrong \
or leads away, \\boxed{{0}} if neither can be said."""
_BOXED = re.compile(r"\\boxed\{\s*([+-]?\d+)\s*\}")


def read_vote(text: str) -> int | None:
    """The last boxed value of a judge's reply, if it is -1, 0 or 1; else None (unreadable)."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found and int(found[-1]) in (-1, 0, 1) else None


@register("strategy", "step_judge")
class StepJudge(Strategy):
    """A judge model votes on every step of every response: the signals of credit method `step_wise`.

    A step ends with the token that completes `mark`, or with the response. Per step the judge sees the task, the steps
    before and the step, and its last \\boxed{-1 | 0 | 1} counts; m votes are drawn, and `step_votes` [B,K] is their
    mean, NaN where none could be read (counted). `step_id` [B,T] int64 is -1 in padding.

    OpenClaw-RL, arXiv 2603.10165 (general agents: step reward = outcome + mean vote). The judge's words are ours: the
    released prompts speak of agents and their tools. The judge reads text only: a model in this process, or one behind
    an OpenAI-compatible address (`judge: {base_url: http://127.0.0.1:8000/v1, model: NAME}`), asked with `temperature`
    and `max_new_tokens` of the strategy. A question that gets no reply there is an unread vote, and counted as
    unanswered too. More than `max_steps` steps are merged with their neighbours. Cost: m answers of the judge per step.
    """

    gives: ClassVar[tuple[str, ...]] = ("step_id", "step_votes")

    judge: str | JudgeConfig = Field(
        description="the judge: a folder, builtin:NAME or hub id; or {base_url:, model:} of an OpenAI-compatible server"
    )
    votes: int = Field(1, ge=1, description="m: votes per step (paper: 1 or 3)")
    mark: str = Field("\n\n", min_length=1, description="text that ends a step")
    temperature: float = Field(0.6, gt=0, description="softmax temperature of the judge")
    max_new_tokens: int = Field(128, ge=1, description="longest reply of the judge")
    max_steps: int = Field(32, ge=1, description="K: steps of a response; further ones are merged")

    _opened: Any = PrivateAttr(None)
    _finder: Any = PrivateAttr(None)

    def volume(self, inner: Volume, run: Run) -> Volume:
        most = inner.rows * min(self.max_steps, inner.row_tokens) * self.votes
        line = f"{self.name}: up to {self.votes} answers of the judge for each step (max_steps lowers it)"
        return inner.more(0, most, most * self.max_new_tokens, line)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        rollouts = batch.rollouts
        step_id = torch.full(rollouts.tokens.shape, -1, dtype=torch.int64)
        asked: list[tuple[int, int, str]] = []  # row, step, the judge's question
        groups = rollouts.group.tolist()
        lengths = rollouts.valid.sum(1).tolist()
        for row, (tokens, sampled) in enumerate(zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), strict=True)):
            ids = self._steps(stage)(tokens[: lengths[row]], sampled).merged(self.max_steps).ids(lengths[row])
            # A response without a mark is one step; what follows the last mark is a step too.
            ids = [max(0, n) for n in ids]
            step_id[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            pieces = [[t for t, n in zip(tokens, ids, strict=False) if n == k] for k in range(max(ids, default=-1) + 1)]
            texts = [stage.decode(piece) for piece in pieces]
            question = last_text(batch.samples[groups[row]])
            for k, text in enumerate(texts):
                words = QUESTION.format(question=question, before="".join(texts[:k]) or "(nothing)", step=text)
                asked.append((row, k, words))
        slots = max([1, *(k + 1 for _, k, _ in asked)])
        votes = torch.full((len(batch), slots), math.nan)
        unread = 0
        for (row, k, _), replies in zip(asked, self._ask([words for *_, words in asked], stage), strict=True):
            there = [vote for vote in map(read_vote, replies) if vote is not None]
            unread += self.votes - len(there)
            if there:
                votes[row, k] = sum(there) / len(there)
        stage.spend(self.name, steps=len(asked), votes=len(asked) * self.votes, unread_votes=unread)
        device = rollouts.tokens.device
        return batch.replace_rollouts(
            rollouts.with_signals({"step_id": step_id.to(device), "step_votes": votes.to(device)})
        )

    def _steps(self, stage: Stage) -> StepFinder:
        if self._finder is None:
            policy = stage.policy
            self._finder = StepFinder(self.mark, "", policy.tokenizer, policy.body.vocabulary, torch.device("cpu"))
        return self._finder

    def _ask(self, questions: Sequence[str], stage: Stage) -> list[list[str]]:
        """The judge's replies, `votes` per question; those that could not be had are left out."""
        if isinstance(self.judge, JudgeConfig):
            return self._ask_address(questions, self.judge, stage)
        if self._opened is None:
            from mmcredit.policy.config import ModelConfig
            from mmcredit.policy.policy import Policy

            policy = Policy.load(ModelConfig(path=self.judge), 0)
            self._opened = (policy, build("engine", "hf").open(policy))  # type: ignore[attr-defined]
        policy, engine = self._opened
        requests = []
        for number, words in enumerate(questions):
            sample = Sample(f"step {number}", ({"role": "user", "content": words},))
            seeds = stage.seeds("step_judge", number, count=self.votes)
            requests.append(Request(policy.encode(sample), seeds, tag=number))
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        world = stage.policy.world  # each rank asks a share: a vote that differs between ranks would be two batches
        own: dict[str, list[str]] = {}
        for response in engine.generate(requests[world.rank :: world.size], sampling):
            own.setdefault(str(response.tag), []).append(policy.decode(response.tokens))
        found = {tag: replies for share in world.gather(own) for tag, replies in share.items()}
        return [found.get(str(number), []) for number in range(len(questions))]

    def _ask_address(self, questions: Sequence[str], where: JudgeConfig, stage: Stage) -> list[list[str]]:
        if self._opened is None:
            fields = {"temperature": self.temperature, "max_tokens": self.max_new_tokens}
            self._opened = Judge(where.model_copy(update=fields))
        asked = [
            Question(words, sample=f"step {number}", seed=seed % 2**31)
            for number, words in enumerate(questions)
            for seed in stage.seeds("step_judge", number, count=self.votes)
        ]
        replies = stage.policy.world.from_first(lambda: self._opened.ask(asked))
        for error in self._opened.first_errors:
            stage.event(f"step_judge: {error}")
        self._opened.first_errors.clear()
        if missing := sum(reply is None for reply in replies):
            stage.note("step_judge/unanswered", missing)
        rows = [replies[i : i + self.votes] for i in range(0, len(replies), self.votes)]
        return [[reply for reply in row if reply is not None] for row in rows]
