"""Signs that a run learns nothing, each with its cause, and said again only as often as helps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmcredit.rewards.format import Format
from mmcredit.rewards.ideal import answered, wrapping

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.config import CheckBlock
    from mmcredit.rewards.base import Reward
    from mmcredit.rewards.pool import RewardPool


def answer_metrics(
    pool: RewardPool, responses: Sequence[str], prompts: Sequence[str], parts: Mapping[str, Tensor]
) -> dict[str, float]:
    """The largest value of every reward part, [B] each (reward/best/PART); and of a part that looks for the answer in a
    tag or a box, the share of `responses` that have one (reward/found/PART) and of `prompts` that mention it
    (reward/asked/PART)."""
    metrics = {f"reward/best/{name}": float(values.max()) for name, values in parts.items() if len(values)}
    for name, reward in zip(pool.names, pool.rewards, strict=True):
        where = wrapping(reward)
        if where is None or not responses:
            continue
        metrics[f"reward/found/{name}"] = sum(answered(reward, text) for text in responses) / len(responses)
        if prompts:
            metrics[f"reward/asked/{name}"] = sum(where.asked(text) for text in prompts) / len(prompts)
    return metrics


class Alarms:
    """Each alarm is raised when its cause is seen first, and again at most every `check.alarm_every` steps while it
    comes back, with the number of steps that had it since. A cause that hovers at its limit is one alarm."""

    def __init__(self, config: CheckBlock, rewards: Mapping[str, Reward] | None = None) -> None:
        """`rewards` by part name: they tell a wrong format from wrong answers."""
        self.config = config
        self.rewards = dict(rewards or {})
        self.last_reward: str | None = None
        self.same_reward = 0
        self.steps = 0
        self.raised: dict[str, int] = {}  # step of an alarm's last message
        self.seen: dict[str, int] = {}  # steps with its cause since then, the step of the message included

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """Messages for this step's metrics."""
        reward = json.dumps(metrics["reward/mean"])
        self.same_reward = self.same_reward + 1 if reward == self.last_reward else 1
        self.last_reward = reward
        messages = []
        for name, message in self._causes(metrics, reward).items():
            since = self.steps - self.raised.get(name, self.steps)
            again = name in self.raised
            if again and since < self.config.alarm_every:
                self.seen[name] += 1
                continue
            if again:
                message += f" (as in {self.seen[name]} of the {since} steps before)"
            self.raised[name], self.seen[name] = self.steps, 1
            messages.append(message)
        self.steps += 1
        return messages

    def _causes(self, metrics: Mapping[str, float], reward: str) -> dict[str, str]:
        """The alarms whose cause is there, and what to say."""
        limit = self.config
        found: dict[str, str] = {}
        if metrics["group/zero_signal"] >= limit.zero_signal_alarm:
            kind, why = self._no_signal(metrics)
            found[f"zero_signal/{kind}"] = f"{metrics['group/zero_signal']:.0%} of the groups have no signal: {why}"
        elif metrics["credit/nonzero_fraction"] == 0:
            found["no_gradient"] = "no token of this batch has any credit; nothing was learnt in this step"
        if self.same_reward >= limit.stuck_reward_steps:
            found["stuck_reward"] = f"the mean reward has been {reward} for {self.same_reward} steps"
        if metrics.get("mismatch/kl", 0.0) > limit.max_mismatch_kl:
            found["mismatch"] = f"sampler and trainer disagree by KL {metrics['mismatch/kl']:.3g} nats per token"
        if metrics["response/truncated"] > 0.5:
            found["truncated"] = (
                f"{metrics['response/truncated']:.0%} of the responses hit rollout.sampling.max_new_tokens"
            )
        if metrics.get("tokenisation/drift", 0.0) > 0.2:
            found["tokenisation_drift"] = (
                f"{metrics['tokenisation/drift']:.0%} of the responses read back as other tokens than sampled"
            )
        return found

    def _no_signal(self, metrics: Mapping[str, float]) -> tuple[str, str]:
        """(kind, sentence): the nearest cause of groups whose rewards are all equal."""
        count = round(metrics.get("response/count", 0.0))
        for name in self.rewards:
            failed = metrics.get(f"reward/{name}/error", 0.0) + metrics.get(f"reward/{name}/timeout", 0.0)
            if count and failed >= count:
                return "error", f"reward {name} failed on all of the {count} responses; its first errors are in the log"
            if count and metrics.get(f"reward/{name}/not_applicable", 0.0) >= count:
                return (
                    "not_applicable",
                    f"reward {name} applies to none of the {count} responses: their samples have no reference answer "
                    "(columns.answer of the source)",
                )
        for name, reward in self.rewards.items():
            if metrics.get(f"reward/found/{name}") == 0.0:
                return "not_found", self._not_found(name, reward, count, metrics)
        for name, reward in self.rewards.items():
            if isinstance(reward, Format) and metrics.get(f"reward/best/{name}") == 0.0:
                shape = reward.preset if reward.pattern is None else "pattern"
                return (
                    "format",
                    f"0 of {count} responses have the format that reward {name} asks for ({shape}); let the prompt ask "
                    "for it (system or template of the source), or begin from a model that writes it",
                )
        return self._answers(count, metrics)

    def _not_found(self, name: str, reward: Reward, count: int, metrics: Mapping[str, float]) -> str:
        where = wrapping(reward)
        assert where is not None
        text = f"0 of {count} responses contain {where.label}, where reward {name} looks for the answer"
        why = []
        if metrics.get(f"reward/asked/{name}", 1.0) == 0.0:
            why.append("the prompt does not ask for it: say so in the source's system or template")
        if metrics["response/truncated"] > 0.5:
            share = f"{metrics['response/truncated']:.0%}"
            why.append(f"{share} of them were cut off by rollout.sampling.max_new_tokens: raise it")
        return "; ".join([text, *(why or ["the prompt asks for it, but the model does not write it"])])

    def _answers(self, count: int, metrics: Mapping[str, float]) -> tuple[str, str]:
        """Formats are right somewhere: it lies with the answers."""
        answers = [n for n, r in self.rewards.items() if f"reward/best/{n}" in metrics and not isinstance(r, Format)]
        if answers:
            name = answers[0]
            best, mean = metrics[f"reward/best/{name}"], metrics.get(f"reward/part/{name}", 0.0)
            if best == 0.0:
                return (
                    "wrong",
                    f"reward {name} is 0 for all {count} responses: the questions are too hard for this model, or the "
                    "references cannot be matched (mmcredit check)",
                )
            if mean == best:
                return "right", f"reward {name} is {best:g} for all {count} responses: the questions are too easy"
        return (
            "mixed",
            "within a group all rewards are equal: questions are too easy or too hard, or the reward cannot tell "
            "answers apart",
        )

    def state_dict(self) -> dict[str, Any]:
        """What has been seen so far."""
        return {
            "last_reward": self.last_reward,
            "same_reward": self.same_reward,
            "steps": self.steps,
            "raised": dict(self.raised),
            "seen": dict(self.seen),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.last_reward, self.same_reward = state["last_reward"], state["same_reward"]
        self.steps, self.raised, self.seen = state["steps"], dict(state["raised"]), dict(state["seen"])
