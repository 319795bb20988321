"""SPAE probes: after every reasoning step the policy is asked for the answer, as if it had to stop there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import register
from mmcredit.rollout.engine import Sampling
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.continuations import State
from mmcredit.rollout.strategies.spae_probes.probes import probe
from mmcredit.rollout.strategies.spae_probes.reasoning_steps import StepFinder

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.volume import Volume


@register("strategy", "spae_probes")
class SPAEProbes(Strategy):
    """Probes at the end of every reasoning step: the signals of credit method `spae`.

    A step ends with the token that completes `mark` (".\\n\\n") inside the reasoning, which goes up to `</think>`, or
    to the end of a response without one. The context h_k = prompt + response up to the end of step k + `suffix`.
    Confidence: N probes are drawn from h_k, Conf_k = mean_n exp(-mean_l H_{n,l}), H the entropy of each token's
    distribution.  Accuracy: Acc_k = mean_m pi(y*_m | h_k, y*_<m), the answer's tokens forced in (`accuracy: forced`),
    or the mean reward of response + suffix + probe, kept within [0, 1] (`accuracy: reward`, for answers that have no
    short canonical form).

    Gives `step_id` [B,T] int64 (number of steps = what follows the last boundary; -1 = summary, or no step),
    `step_accuracy` and `step_confidence` [B,K], NaN where nothing was probed.
    Source: arXiv 2601.03823, equations by way of digests (only a probing demo is released, cii030/SPAE-RL@ed529f8):
    N = 5, at most 10 tokens, temperature 0.6, the suffix. Not stated there and chosen here: probes are drawn at 0.6,
    but H and pi are those of the policy at the run's own temperature; a mark that is spelled over several tokens ends
    with the last; y* is tokenised behind the suffix; more than `max_steps` steps are merged with their neighbours
    (counted), which leaves the sum of their potential differences as it was.
    Groups of one and groups of equal rewards are not probed (the paper drops them first; the credit method gives them
    0): `constant_groups: true` probes them. A sample without an answer, or with one of more than `max_answer_tokens`
    tokens, is not probed with `accuracy: forced`; both are counted.
    Empty response: no step. Truncated: as any other, the rest after the last boundary included.
    Composes: give it the first place, so that only what selection left is probed.
    Cost: per distinct context N probes (prompt and prefix read once for all of them), and one pass that reads the
    context once more for all its probes and the answer; equal probes are scored once.
    """

    gives: ClassVar[tuple[str, ...]] = ("step_id", "step_accuracy", "step_confidence")

    mark: str = Field(".\n\n", min_length=1, description="text that ends a step")
    closing: str = Field("</think>", description="text that ends the reasoning; empty = none")
    suffix: str = Field("**Final Answer**\n\n\\boxed{", min_length=1, description="what asks for the answer")
    samples: int = Field(5, ge=1, description="N: probes per step")
    probe_tokens: int = Field(10, ge=1, description="tokens of a probe at most")
    temperature: float = Field(0.6, gt=0, description="softmax temperature of the probes")
    accuracy: Literal["forced", "reward"] = Field("forced", description="what step_accuracy is")
    max_steps: int = Field(64, ge=1, description="K: steps of a response; further ones are merged")
    max_answer_tokens: int = Field(64, ge=1, description="answers over it are not forced in")
    constant_groups: bool = Field(False, description="probe groups whose rewards are all equal")

    _finder: tuple[object, StepFinder] | None = PrivateAttr(None)

    def volume(self, inner: Volume, run: Run) -> Volume:
        steps = min(self.max_steps, inner.row_tokens)
        most = inner.rows * steps * self.samples
        line = (
            f"{self.name}: {self.samples} probes of {self.probe_tokens} tokens at the end of each of up to {steps} "
            "reasoning steps of a response (max_steps lowers it)"
        )
        return inner.more(0, most, most * self.probe_tokens, line)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        batch = rest(asks)
        rollouts, merged = batch.rollouts, 0
        find = self._steps(stage)
        rows = zip(rollouts.tokens.tolist(), rollouts.mask.tolist(), rollouts.valid.sum(1).tolist(), strict=True)
        step_id = torch.full(rollouts.tokens.shape, -1, dtype=torch.int64)
        wanted: list[list[State]] = []
        suffix = stage.policy.tokenizer(self.suffix, add_special_tokens=False)["input_ids"]
        groups, probed = rollouts.group.tolist(), self._probed(batch, stage, suffix)
        for i, (tokens, sampled, length) in enumerate(rows):
            steps = find(tokens[:length], sampled)
            kept = steps.merged(self.max_steps)
            merged += len(steps.ends) - len(kept.ends)
            step_id[i, :length] = torch.tensor(kept.ids(length), dtype=torch.int64)
            contexts = [State(groups[i], (*tokens[: end + 1], *suffix), self.probe_tokens) for end in kept.ends]
            wanted.append(contexts if groups[i] in probed else [])
            stage.spend(self.name, steps=len(kept.ends), unprobed_steps=len(contexts) - len(wanted[-1]))
        states = list(dict.fromkeys(state for row in wanted for state in row))
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.probe_tokens)
        answers = probed if self.accuracy == "forced" else None
        found = probe(states, batch, answers, self.samples, sampling, self.name, stage)
        place = {state: n for n, state in enumerate(states)}
        slots = max([1, *(len(row) for row in wanted)])
        columns = torch.full((2, len(batch), slots), math.nan)
        for i, row in enumerate(wanted):
            for k, state in enumerate(row):
                columns[0, i, k], columns[1, i, k] = found.accuracy[place[state]], found.confidence[place[state]]
        stage.spend(
            self.name,
            merged_steps=merged,
            contexts=len(states),
            responses=found.responses,
            tokens=found.tokens,
            scored=found.scored,
            forced=found.forced,
        )
        device = rollouts.tokens.device
        signals = {"step_id": step_id, "step_accuracy": columns[0], "step_confidence": columns[1]}
        return batch.replace_rollouts(rollouts.with_signals({k: v.to(device) for k, v in signals.items()}))

    def _steps(self, stage: Stage) -> StepFinder:
        """The finder for this run's tokenizer; made once."""
        policy = stage.policy
        if self._finder is None or self._finder[0] is not policy.tokenizer:
            cpu = torch.device("cpu")
            finder = StepFinder(self.mark, self.closing, policy.tokenizer, policy.body.vocabulary, cpu)
            self._finder = (policy.tokenizer, finder)
        return self._finder[1]

    def _probed(self, batch: Batch, stage: Stage, suffix: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Groups worth probing, each with the answer's tokens (none needed with `accuracy: reward`)."""
        rewards: dict[int, list[float]] = {}
        for group, reward in zip(batch.rollouts.group.tolist(), batch.rollouts.rewards.tolist(), strict=True):
            rewards.setdefault(group, []).append(reward)
        found: dict[int, tuple[int, ...]] = {}
        for group, values in rewards.items():
            if not self.constant_groups and min(values) == max(values):
                stage.spend(self.name, constant_groups=1)
                continue
            answer: tuple[int, ...] = ()
            if self.accuracy == "forced":
                text = (batch.samples[group].answer or "").strip()
                answer = self._answer(text, suffix, stage) if text else ()
                if not answer or len(answer) > self.max_answer_tokens:
                    stage.spend(self.name, **{"long_answers" if answer else "without_answer": 1})
                    continue
            found[group] = answer
        return found

    def _answer(self, text: str, suffix: Sequence[int], stage: Stage) -> tuple[int, ...]:
        """Tokens of the answer behind the suffix; by itself where the two would melt into one token."""
        tokenizer = stage.policy.tokenizer
        whole = tokenizer(self.suffix + text, add_special_tokens=False)["input_ids"]
        if whole[: len(suffix)] == list(suffix) and len(whole) > len(suffix):
            return tuple(whole[len(suffix) :])
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
