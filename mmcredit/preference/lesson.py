"""The lesson of `mmcredit dpo`: a preference loss over pairs, on the policy's own forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.preference.base import Both, Known, Preference, Side, log_ratio
from mmcredit.preference.pairs import EncodedPair, as_rollouts
from mmcredit.seeds import derive
from mmcredit.supervised.held_out import Measured
from mmcredit.supervised.loop import Advance
from mmcredit.train.prompts import PromptStream

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts
    from mmcredit.train.engine import TrainingEngine

HELD_OUT_BATCH = 32  # pairs scored at a time
TIE = 1e-5  # nats, times beta
PASS = Pass(CLEAN, frozenset({"logprobs"}))


class Pairs:
    """A set of pairs with what was computed once for each: the reference log-probs, and the values of the loss."""

    def __init__(self, pairs: Sequence[EncodedPair], known: Known, values: Sequence[Both] | None) -> None:
        self.pairs, self.known, self.own = list(pairs), known, values

    def __len__(self) -> int:
        return len(self.pairs)

    def sides(self, pairs: Sequence[EncodedPair], rollouts: Rollouts, logprobs: Tensor) -> tuple[Side, Side]:
        """The sides of these pairs; `logprobs` [2n,T] belong to the rows of `rollouts`, chosen and rejected in turn."""
        device, width = logprobs.device, logprobs.shape[1]
        sides = []
        for side in (0, 1):
            reference = [self.known.ref_logprobs[pair.number][side] for pair in pairs]
            values = None if self.own is None else [self.own[pair.number][side] for pair in pairs]
            sides.append(
                Side(
                    logprobs[side::2],
                    _padded(reference, width).to(device),
                    rollouts.mask[side::2].to(device),
                    None if values is None else _padded(values, width).to(device),
                )
            )
        return sides[0], sides[1]


def _padded(rows: Sequence[Tensor], width: int) -> Tensor:
    out = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


class DPOLesson:
    """Teaches pairs; a `Lesson` of the supervised loop."""

    def __init__(
        self,
        policy: Policy,
        loss: Preference,
        train: Pairs,
        held_out: Pairs,
        *,
        seed: int,
        token_budget: int,
        max_prompt_tokens: int | None = None,
    ) -> None:
        self.policy, self.loss, self.train, self.kept_out = policy, loss, train, held_out
        self.token_budget, self.max_prompt_tokens = token_budget, max_prompt_tokens
        self.stream = PromptStream(train.pairs, self.encode, derive(seed, "order"))  # type: ignore[arg-type]

    def encode(self, pair: Any) -> Prompt:
        """The prompt of a pair."""
        return self.policy.encode(pair.sample, self.max_prompt_tokens)

    def step(self, drawn: list[tuple[Any, Any]], engine: TrainingEngine) -> dict[str, float]:
        """Gradients of the mean loss over a batch of pairs."""
        pairs, prompts = [pair for pair, _ in drawn], [prompt for _, prompt in drawn]
        policy = self.policy
        rollouts = as_rollouts(pairs, policy.tokenizer.pad_token_id)
        sums: dict[str, float] = {}
        budget = self._budget(prompts, pairs)
        for micro, counts in policy.own_micro_batches(prompts, rollouts, budget=budget, in_step=engine.in_step):
            found = policy.forward(prompts, rollouts, micro.rows, [PASS], temperature=1.0)[CLEAN]["logprobs"]
            loss, numbers = self._losses(micro.rows, pairs, rollouts, found, self.train)
            total = loss.sum() / len(pairs)
            engine.backward(total if counts else 0 * total)
            if counts:
                for name, values in numbers.items():
                    sums[name] = sums.get(name, 0.0) + float(values.sum())
        return self._averaged(policy.world.gather(sums), len(pairs))

    @staticmethod
    def _averaged(ranks: Sequence[Mapping[str, float]], count: int) -> dict[str, float]:
        names = dict.fromkeys(name for own in ranks for name in own)
        return {name: sum(own.get(name, 0.0) for own in ranks) / count for name in names}

    def _budget(self, prompts: Sequence[Prompt], pairs: Sequence[EncodedPair]) -> int:
        """Tokens of a micro-batch: both answers of a pair go into one, whatever the setting."""
        longest = max(
            2 * (len(prompt) + max(len(pair.chosen), len(pair.rejected)))
            for prompt, pair in zip(prompts, pairs, strict=True)
        )
        return max(self.token_budget, longest)

    def _losses(
        self, rows: Sequence[int], pairs: Sequence[EncodedPair], rollouts: Rollouts, logprobs: Tensor, of: Pairs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert all(a % 2 == 0 and b == a + 1 for a, b in zip(rows[::2], rows[1::2], strict=True)), "a pair was torn"
        chosen, rejected = of.sides([pairs[row // 2] for row in rows[::2]], rollouts.select(list(rows)), logprobs)
        loss, numbers = self.loss(chosen, rejected)
        with torch.no_grad():
            won, lost = (
                self.loss.beta * log_ratio(side.logprobs, side.ref_logprobs, side.mask).sum(-1)
                for side in (chosen, rejected)
            )
            numbers = {
                "loss": loss.detach(),
                "lesson/accuracy": (won > lost).float(),
                "lesson/margin": won - lost,
                "rewards/chosen": won,
                "rewards/rejected": lost,
                "logps/chosen": (chosen.logprobs * chosen.mask).sum(-1),
                "logps/rejected": (rejected.logprobs * rejected.mask).sum(-1),
                **{f"preference/{name}": values for name, values in numbers.items()},
            }
        return loss, numbers

    @property
    def held_out_size(self) -> int:
        return len(self.kept_out)

    @torch.no_grad()
    def held_out(self, advance: Advance) -> dict[str, Measured]:
        """Loss, share of pairs whose margin is positive, and margin. Before training margins are 0: half are right."""
        own: dict[str, list[float]] = {"loss": [], "accuracy": [], "margin": []}
        for start in range(0, len(self.kept_out), HELD_OUT_BATCH):
            pairs = self.kept_out.pairs[start : start + HELD_OUT_BATCH]
            prompts = [self.encode(pair) for pair in pairs]
            rollouts = as_rollouts(pairs, self.policy.tokenizer.pad_token_id)
            found = self.policy.score(prompts, rollouts, [PASS], temperature=1.0)[CLEAN]["logprobs"]
            _, numbers = self._losses(range(len(rollouts)), pairs, rollouts, found, self.kept_out)
            margin = numbers["lesson/margin"]
            own["loss"] += numbers["loss"].tolist()
            own["margin"] += margin.tolist()
            # Equal weights give margins of rounding errors alone: neither right nor wrong.
            own["accuracy"] += torch.where(margin.abs() < TIE, 0.5, (margin > 0).float()).tolist()
            advance(len(pairs))
        return {name: Measured(tuple(values), (1.0,) * len(values)) for name, values in own.items() if values}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing: what is known of a pair is computed from the model as loaded."""
