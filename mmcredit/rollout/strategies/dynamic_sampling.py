"""Dynamic sampling: groups without signal are thrown away, and more prompts are sampled in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmcredit.components import Needs, register
from mmcredit.rollout.batch import Batch, join
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.rollout.strategies.outcomes import deciding, part_needed, span

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.rollout.batch import Ask
    from mmcredit.rollout.volume import Volume


@register("strategy", "dynamic_sampling")
class DynamicSampling(Strategy):
    """DAPO's dynamic sampling: only groups whose rewards are not all equal are trained on.

    A group is kept if the least and the greatest deciding reward of its responses differ (0 < right answers < G). As
    long as fewer than `rollout.prompts` groups are kept, another `batch` prompts are sampled, in at most `max_rounds`
    rounds. Groups beyond the wanted number are cut off, the last sampled first.

    Which reward decides: `part`, by default the first one of the config, which says right or wrong. The total reward
    (`part: total`) is hardly ever constant once a length or format part is in it.
    When the rounds are used up: `then: train` goes on with the groups there are (with the first round's groups as they
    came if not one has signal: such a step learns nothing, and its alarm is raised), `then: stop` ends the run.

    Source: arXiv 2503.14476, section 3.2, eq. 11; its recipe samples 3 x the training prompts in a round and ends the
    run with an error after 10 rounds.
    Differs: `batch` is by default the number of prompts of a step. The number of optimizer steps never changes, but a
    step may hold fewer groups.
    Composes: layers inside it act on every round, layers outside see only what is kept. Repair of constant groups
    (replay) belongs inside, filters of responses outside.
    Cost: up to `max_rounds` x `batch` prompts of rollouts a step. Noted: rounds, groups thrown away because all right
    or all wrong, groups cut off, groups missing.
    """

    plain_first: ClassVar[bool] = True

    part: str | None = Field(None, description="reward part that decides; none = the first, total = the total reward")
    right_at: float = Field(0.5, description="least deciding reward that is counted as right")
    max_rounds: int = Field(10, ge=1, description="rounds of sampling in one step")
    batch: int | None = Field(None, ge=1, description="prompts a round; none = rollout.prompts")
    then: Literal["train", "stop"] = Field("train", description="what happens when the rounds are used up")

    def needs(self) -> Needs:
        return Needs(reward_parts=part_needed(self.part))

    def check(self, run: Run) -> None:
        if run.rollout.group < 2:
            raise ValueError(
                f"rollout.group is {run.rollout.group}: a single response always equals itself, and 'dynamic_sampling' "
                "would throw every group away; sample at least 2 responses per prompt"
            )

    def volume(self, inner: Volume, run: Run) -> Volume:
        wanted, size = run.rollout.prompts, self.batch or run.rollout.prompts
        least, most = max(wanted, size), max(wanted, size) + (self.max_rounds - 1) * size
        line = f"{self.name}: 1 to {self.max_rounds} rounds of {size} prompts, until {wanted} groups have a signal"
        return inner.asked(least / wanted, most / wanted).noting(line)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        wanted = len({id(ask.prompt) for ask in asks})
        size = self.batch or wanted
        kept: list[Batch] = []
        first: Batch | None = None
        found = right = wrong = rounds = 0
        while found < wanted and rounds < self.max_rounds:
            rounds += 1
            missing = size if rounds > 1 else size - wanted
            more = stage.asks(stage.take(missing)) if missing > 0 else []
            batch = rest([*asks, *more] if rounds == 1 else more)
            first = first or batch
            signal, low = self._signal(batch, stage)
            kept.append(batch.select(signal[batch.rollouts.group].nonzero()[:, 0]))
            found += int(signal.sum())
            right += int((~signal & (low >= self.right_at)).sum())
            wrong += int((~signal & (low < self.right_at)).sum())
        notes = {
            "rounds": rounds,
            "groups_all_right": right,
            "groups_all_wrong": wrong,
            "groups_surplus": max(0, found - wanted),
            "groups_missing": max(0, wanted - found),
        }
        for name, value in notes.items():
            stage.note(f"dynamic_sampling/{name}", value)
        if found < wanted and self.then == "stop":
            name = stage.reward_names[0] if self.part is None else self.part
            raise RuntimeError(
                f"step {stage.step}: {rounds} rounds of {size} prompts gave {found} of {wanted} groups whose reward "
                f"{name!r} differs ({right} groups all right, {wrong} all wrong). Use easier or harder questions, "
                "raise max_rounds or batch of dynamic_sampling, or let it go on with what there is (then: train)"
            )
        assert first is not None
        if not found:
            return first
        merged = join([batch for batch in kept if len(batch)], stage.policy.tokenizer.pad_token_id)
        return merged.select((merged.rollouts.group < wanted).nonzero()[:, 0])

    def _signal(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """([P] bool: rewards differ, [P]: the least one)."""
        low, high = span(deciding(batch, self.part, stage), batch.rollouts.group, len(batch.prompts))
        return low != high, low
