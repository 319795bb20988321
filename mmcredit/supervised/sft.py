"""The lesson of `mmcredit sft`: next-token loss on what the model shall write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import build
from mmcredit.data.dropped import Dropped, UnusableSample, reason_of
from mmcredit.data.sample import name_at
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.seeds import derive
from mmcredit.supervised.held_out import Measured
from mmcredit.supervised.loop import Advance
from mmcredit.supervised.taught import (
    Taught,
    as_rollouts,
    losses,
    negative_log_likelihood,
    teach,
    token_weights,
    turns,
)
from mmcredit.train.prompts import PromptStream

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.supervised.config import TeachBlock
    from mmcredit.supervised.selection import Selection
    from mmcredit.train.engine import TrainingEngine

HELD_OUT_BATCH = 32  # examples scored at a time


def target_of(sample: Sample, column: str | None) -> str:
    """The target text of a sample: of `column`, else of `completion`, else the reference answer.

    A column may hold text, or chat messages of the assistant. Raises `UnusableSample` if there is none.
    """
    name = column if column is not None else ("completion" if "completion" in sample.meta else None)
    value = sample.answer if name in (None, "answer") else sample.meta.get(str(name))
    if isinstance(value, list) and value and all(isinstance(m, dict) and m.get("role") == "assistant" for m in value):
        value = "".join(_text(message.get("content"), sample) for message in value)
    if not isinstance(value, str):
        known = ", ".join(["answer", *sample.meta]) or "none"
        raise UnusableSample(
            f"sample {sample.name}: there is no target text in {name or 'the reference answer'!r} (got {value!r:.60}); "
            f"name its column in data.target (there: {known})",
            "target missing",
        )
    return value


def _text(content: Any, sample: Sample) -> str:
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise UnusableSample(f"sample {sample.name}: a target is text, got {content!r:.60}", "target malformed")
    return content


class Examples:
    """Samples to examples, as `data` of a config says."""

    def __init__(self, policy: Policy, data: TeachBlock) -> None:
        self.policy, self.data = policy, data
        self.insert: Any = None if data.insert is None else build("strategy", data.insert)

    def __call__(self, sample: Sample) -> list[Taught]:
        """The examples of a sample: one, or one per assistant turn. Raises ValueError as `teach`."""
        data = self.data
        found = turns(sample, target_of(sample, data.target), data.every_turn)
        limits: dict[str, Any] = {"max_prompt_tokens": data.max_prompt_tokens, "max_tokens": data.max_tokens}
        if self.insert is None:
            return [teach(s, t, self.policy, **limits) for s, t in found]
        # Opened anew for each sample: what a strategy remembers of windows is for one batch of responses.
        with self.insert.reactions(self.policy) as reaction:
            return [teach(s, t, self.policy, **limits, reaction=reaction(s)) for s, t in found]

    def all(self, samples: Sequence[Sample], dropped: Dropped) -> list[Taught]:
        """Those of all samples; what cannot be used is counted."""
        found: list[Taught] = []
        for index in range(len(samples)):
            try:
                found += self(samples[index])
            except ValueError as error:
                dropped.add(reason_of(error), name_at(samples, index))
        return found


class SFT:
    """Teaches examples; a `Lesson` of the loop.

    All examples of a batch are packed as the policy packs responses: the loss and its gradient are those of one example
    at a time.
    """

    def __init__(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        encode: Any,
        *,
        seed: int,
        token_budget: int,
        average: str = "tokens",
        selection: Selection | None = None,
        held_out: Sequence[Taught] = (),
    ) -> None:
        """`encode(sample)` gives the list of a sample's `Taught`."""
        self.policy, self.token_budget, self.average, self.selection = policy, token_budget, average, selection
        self.stream = PromptStream(samples, encode, derive(seed, "order"))
        self.kept_out = list(held_out)
        self.seed = seed

    def step(self, drawn: list[tuple[Any, Any]], engine: TrainingEngine) -> dict[str, float]:
        """Gradients of a batch of samples."""
        return fit_batch(
            [each for _, examples in drawn for each in examples],
            self.policy,
            engine,
            token_budget=self.token_budget,
            average=self.average,
            selection=self.selection,
        )

    @property
    def held_out_size(self) -> int:
        return len(self.kept_out)

    def held_out(self, advance: Advance) -> dict[str, Measured]:
        """The loss per token, over all tokens whatever is selected in training."""
        if not self.kept_out:
            return {}
        values: list[float] = []
        counts: list[float] = []
        for start in range(0, len(self.kept_out), HELD_OUT_BATCH):
            part = self.kept_out[start : start + HELD_OUT_BATCH]
            found, count = losses(part, self.policy)
            values += found.tolist()
            counts += [float(n) for n in count]
            advance(len(part))
        return {"loss": Measured(tuple(values), tuple(counts))}

    def state_dict(self) -> dict[str, Any]:
        return {} if self.selection is None else {"selection": self.selection.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.selection is not None:
            self.selection.load_state_dict(state["selection"])


def fit_batch(
    batch: Sequence[Taught],
    policy: Policy,
    engine: TrainingEngine,
    *,
    token_budget: int,
    average: str = "tokens",
    selection: Selection | None = None,
) -> dict[str, float]:
    """Add the gradient of the mean loss of a batch through `engine.backward`; metrics of the whole batch.

    Every kept token weighs the same, whatever micro-batch and process it is in (`average`: see `token_weights`).
    """
    if selection is not None and selection.reads_attention:
        # The query row of the last token is computed only if a token follows it.
        follower = policy.eos_token_ids[0]  # any id will do: nothing is read there
        batch = [replace(e, tokens=(*e.tokens, follower), taught=(*e.mask, False)) for e in batch]
    rollouts = as_rollouts(batch, policy.tokenizer.pad_token_id)
    prompts = [each.prompt for each in batch]
    outputs = {"logprobs"}
    weights = token_weights(rollouts.mask, average)
    if selection is not None:
        outputs |= selection.outputs()
        selection.begin(batch, rollouts, prompts, policy)
        kept = token_weights(_as_many(rollouts.mask, selection.counts(rollouts.mask)), average)
        per_row = kept.max(1).values  # a kept token's weight depends on how many are kept, which is known beforehand
    passes = [Pass(CLEAN, frozenset(outputs))]
    total = torch.zeros(3)
    for micro, counts in policy.own_micro_batches(prompts, rollouts, budget=token_budget, in_step=engine.in_step):
        rows = torch.tensor(micro.rows)
        found = policy.forward(prompts, rollouts, micro.rows, passes, temperature=1.0)[CLEAN]
        logprobs = found["logprobs"]
        weight = weights[rows].to(logprobs.device)
        if selection is not None and counts:
            keep = selection.keep(rows, found)
            weight = torch.where(keep, per_row[rows].to(logprobs.device)[:, None], 0.0)
        loss = negative_log_likelihood(logprobs, weight)
        engine.backward(loss if counts else 0 * loss)
        if counts:
            every = rollouts.mask[rows].to(logprobs.device)
            total += torch.tensor(
                [float(loss.detach()), -float((logprobs.detach() * every).sum()), float((weight != 0).sum())]
            )
    policy.world.total(total)
    tokens = int(rollouts.mask.sum())
    metrics = {"loss": float(total[0]), "sft/loss_all_tokens": float(total[1]) / tokens, "sft/tokens": float(tokens)}
    if selection is not None:
        metrics["lesson/kept"] = float(total[2]) / tokens
        sums = selection.sums()
        names = sorted(sums)
        both = torch.tensor([sums[name] for name in names], dtype=torch.float64).reshape(-1, 2)
        policy.world.total(both)
        metrics |= {name: float(a / n) for name, (a, n) in zip(names, both, strict=True) if n}
    return metrics


def _as_many(mask: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """[B,T] bool with `counts` [B] tokens per row set, of those in `mask`."""
    return mask & (mask.cumsum(1) <= counts[:, None])
