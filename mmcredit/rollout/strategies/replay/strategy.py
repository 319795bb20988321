"""R3's replay and reflection: stored responses repair groups of one outcome, and failures are looked at again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr

from mmcredit.components import Needs, register
from mmcredit.rollout.batch import Batch, join
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.outcomes import deciding, part_needed, span
from mmcredit.rollout.strategies.replay.memory import ResponseMemory, Stored
from mmcredit.rollout.strategies.replay.reflection import INSTRUCTION, reflection
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Ask
    from mmcredit.rollout.volume import Volume


@register("strategy", "replay")
class Replay(Strategy):
    """R3's rollout part: cross-context replay (CCR) and in-context self-reflection (ISR).

    CCR: where all fresh responses of a prompt succeed, or all fail, up to `k` stored responses of the other outcome
    join the group; the signal `replayed` [B] is 1 for them. Credit method `r3` (or any) takes its statistics over the
    joined group, and replayed tokens bear credit like fresh ones.
    ISR: a prompt seen before whose success rate over all its responses is below `tau` is asked once more, as a further
    group of its own: question, one of its stored wrong answers as the model's turn, an instruction to find the error
    and solve it again. Reward, group and loss are those of any prompt; only new tokens bear credit.

    Success: the deciding reward is at least `success_at`. Old log-probs of replayed rows: `stored` are those of the
    policy that sampled them, so the ratio is the true off-policy one and the clip acts; `current` recomputes them with
    the present policy (ratio 1: biased, but stable). Their sampler log-probs are NaN: no mismatch is measured on them.

    Source: arXiv 2601.19620, v1, which states no code and none of the numbers. Ours: k 1, tau 0.25, 8 responses a
    prompt (first in first out, one of each outcome stays), age 4 epochs, `stored`, newest first, and the instruction.
    No response is replayed twice in a step, none longer than the present limit; replayed rows and responses to a
    reflection are not stored. Trained ids are those that were sampled. The wrong answer in a reflection is context: it
    goes through the chat template as text, without special tokens, cut from the left where the prompt would exceed
    `data.max_prompt_tokens`, and is left out (counted) if nothing of it fits.
    Memory: ids and log-probs of what is stored, at most `max_tokens` tokens in all, and two numbers per prompt ever
    seen; in the checkpoint. A prompt is known by its sample id.
    Composes: inside `dynamic_sampling` and filters, outside nothing that attaches signals or segments.
    Cost: one group of rollouts per reflection; scores and update of the replayed rows.
    """

    gives: ClassVar[tuple[str, ...]] = ("replayed",)

    k: int = Field(1, ge=0, description="stored responses that join a group of one outcome; 0 = no replay")
    reflect: bool = Field(True, description="ask again about stored wrong answers")
    tau: float = Field(0.25, ge=0, le=1, description="success rate below which a prompt is reflected on")
    instruction: str = Field(INSTRUCTION, min_length=1, description="what a reflection asks for")
    part: str | None = Field(None, description="reward part that decides; none = the first, total = the total reward")
    success_at: float = Field(0.5, description="least deciding reward of a success")
    old: Literal["stored", "current"] = Field("stored", description="old log-probs of replayed responses")
    per_prompt: int = Field(8, ge=1, description="responses stored per prompt")
    max_age: float = Field(4.0, gt=0, description="epochs after which a stored response is not used any more")
    max_tokens: int = Field(20_000_000, ge=1, description="tokens stored in all, 8 bytes each; longest unseen go first")
    _memory: ResponseMemory | None = PrivateAttr(None)

    @property
    def memory(self) -> ResponseMemory:
        """What is stored."""
        if self._memory is None:
            self._memory = ResponseMemory(self.per_prompt, self.max_age, self.max_tokens)
        return self._memory

    def needs(self) -> Needs:
        return Needs(old_logprobs=self.old == "stored" and self.k > 0, reward_parts=part_needed(self.part))

    def volume(self, inner: Volume, run: Run) -> Volume:
        times = 2 if self.reflect else 1
        groups = inner.row_prompts
        line = f"{self.name}: up to {self.k} stored responses join a group of one outcome"
        line += f", and up to {groups} prompts are asked once more to reflect" if self.reflect else ""
        more = inner.asked(1, times).noting(line)
        return replace(more, rows=inner.rows * times + groups * self.k, row_prompts=groups * times)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        more = self._reflections(asks, stage) if self.reflect else []
        fresh = rest([*asks, *more])
        apart = {id(ask.prompt) for ask in more}
        picked = self._replays(fresh, apart, stage)
        stage.note("replay/reflections", len(more))
        stage.note("replay/replayed", len(picked))
        self._store(fresh, apart, stage)
        stage.note("replay/stored_tokens", self.memory.tokens)
        batch = fresh.replace_rollouts(_marked(fresh.rollouts, 0.0))
        if self.old == "stored" and self.k > 0:
            unknown = torch.full(fresh.rollouts.tokens.shape, torch.nan, device=fresh.rollouts.tokens.device)
            batch = batch.replace_rollouts(batch.rollouts.replace(old_logprobs=unknown))
        if not picked:
            return batch
        return join([batch, self._batch(fresh, picked, stage)], stage.policy.tokenizer.pad_token_id)

    def _reflections(self, asks: Sequence[Ask], stage: Stage) -> list[Ask]:
        """Asks about stored wrong answers to the hard ones among these prompts."""
        pairs = []
        for sample in {id(ask.prompt): ask.sample for ask in asks if not ask.prefix}.values():
            rate = self.memory.success_rate(sample.id)
            if rate is None or rate >= self.tau:
                continue
            wrong = self.memory.pick(sample.id, False, 1, stage.epochs, stage.sampling.max_new_tokens)
            pair = reflection(sample, wrong[0].tokens.tolist(), self.instruction, stage) if wrong else None
            if pair is None:
                stage.note("replay/reflections_left_out", 1)
            else:
                pairs.append(pair)
        return stage.asks(pairs)

    def _replays(self, fresh: Batch, apart: set[int], stage: Stage) -> list[tuple[int, Stored]]:
        """(group, stored response) for every group of one outcome that has a stored opposite."""
        value = deciding(fresh, self.part, stage)
        success = (value >= self.success_at).float()
        low, high = span(success, fresh.rollouts.group, len(fresh.prompts))
        used: set[int] = set()
        picked: list[tuple[int, Stored]] = []
        for group, (prompt, sample) in enumerate(zip(fresh.prompts, fresh.samples, strict=True)):
            if low[group] != high[group] or id(prompt) in apart:
                continue
            opposite, limit = not bool(low[group]), stage.sampling.max_new_tokens
            for stored in self.memory.pick(sample.id, opposite, self.k, stage.epochs, limit, used):
                if set(stored.parts) != set(fresh.rollouts.reward_parts):  # rewards changed at a resume
                    stage.note("replay/other_rewards", 1)
                    continue
                used.add(stored.serial)
                picked.append((group, stored))
        return picked

    def _store(self, fresh: Batch, apart: set[int], stage: Stage) -> None:
        rollouts = fresh.rollouts.to("cpu")
        success = (deciding(fresh, self.part, stage) >= self.success_at).tolist()
        groups, rewards, truncated = rollouts.group.tolist(), rollouts.rewards.tolist(), rollouts.truncated.tolist()
        parts = {name: values.tolist() for name, values in rollouts.reward_parts.items()}
        # A response that goes on from a prefix, was sampled from another image, or bears no credit is not stored.
        whole = (rollouts.mask == rollouts.valid).all(1) & rollouts.mask.any(1)
        if rollouts.sampler_logprobs is None:
            logprobs = torch.full(rollouts.tokens.shape, torch.nan)
        else:
            logprobs = rollouts.sampler_logprobs
        known = torch.isfinite(logprobs) | ~rollouts.mask
        usable = whole & (known.all(1) | (self.old == "current"))
        for row, group in enumerate(groups):
            if id(fresh.prompts[group]) in apart:
                continue
            prompt = fresh.samples[group].id
            self.memory.count(prompt, success[row])
            if not bool(usable[row]):
                stage.note("replay/not_stored", 1)
                continue
            keep = rollouts.mask[row]
            self.memory.add(
                prompt,
                rollouts.tokens[row][keep],
                logprobs[row][keep],
                stage.epochs,
                success[row],
                reward=rewards[row],
                parts={name: values[row] for name, values in parts.items()},
                truncated=truncated[row],
            )

    def _batch(self, fresh: Batch, picked: Sequence[tuple[int, Stored]], stage: Stage) -> Batch:
        """The replayed responses as a batch over the prompts of `fresh`."""
        device, pad = fresh.rollouts.tokens.device, stage.policy.tokenizer.pad_token_id
        lengths = torch.tensor([len(stored.tokens) for _, stored in picked])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]

        def rows(values: Sequence[Tensor], fill: float) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=fill).to(device)

        mask = mask.to(device)
        rollouts = Rollouts(
            tokens=rows([stored.tokens.long() for _, stored in picked], pad),
            mask=mask,
            group=torch.tensor([group for group, _ in picked], device=device),
            rewards=torch.tensor([stored.reward for _, stored in picked], device=device),
            reward_parts={
                name: torch.tensor([stored.parts[name] for _, stored in picked], device=device)
                for name in fresh.rollouts.reward_parts
            },
            truncated=torch.tensor([stored.truncated for _, stored in picked], device=device),
            samples=tuple(fresh.samples),
        )
        if fresh.rollouts.sampler_logprobs is not None:
            unknown = torch.zeros(mask.shape, device=device).masked_fill(mask, torch.nan)
            rollouts = rollouts.replace(sampler_logprobs=unknown)
        if self.old == "stored":
            rollouts = rollouts.replace(old_logprobs=rows([stored.logprobs for _, stored in picked], 0.0))
        texts = [stage.decode(stored.tokens.tolist()) for _, stored in picked]
        return Batch(fresh.samples, fresh.prompts, _marked(rollouts, 1.0), texts)

    def state_dict(self) -> dict[str, Any]:
        return self.memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state)


def _marked(rollouts: Rollouts, value: float) -> Rollouts:
    return rollouts.with_signals({"replayed": torch.full_like(rollouts.rewards, value)})
