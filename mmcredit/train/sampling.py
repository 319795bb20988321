"""The rollout stage of a step: prompts, responses and rewards, through the run's strategies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.passes import Pass, View
from mmcredit.policy.wording import text_of
from mmcredit.rollout.batch import Ask, Batch
from mmcredit.rollout.collate import collate
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.reward_item import reward_item
from mmcredit.seeds import derive
from mmcredit.train.agreement import check_prompts
from mmcredit.train.ahead import Ahead
from mmcredit.train.alarms import answer_metrics
from mmcredit.train.preflight.fit import first_words

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.answers.item import RewardItem
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.strategies.base import Strategy
    from mmcredit.rollouts import Rollouts
    from mmcredit.train.costs import Costs
    from mmcredit.train.progress import Progress
    from mmcredit.train.prompts import PromptStream
    from mmcredit.train.setup import Parts
    from mmcredit.verifiers.base import Verdict


class SamplingStage:
    """`Stage` for the strategies of a run; `run(step)` gives the batch of a step."""

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        stream: PromptStream,
        costs: Costs,
        progress: Progress,
        event: Callable[..., None],
    ) -> None:
        self.config, self.parts, self.stream = config, parts, stream
        self.costs, self.bar, self._event = costs, progress, event
        self.policy, self.engine = parts.policy, parts.engine
        self.strategies: list[Strategy] = parts.strategies
        self.sampling = config.rollout.sampling
        self.group, self.seed, self.total_steps = config.rollout.group, config.run.seed, config.run.steps
        self.max_prompt_tokens = config.data.max_prompt_tokens
        self.reward_names: tuple[str, ...] = tuple(parts.pool.names)
        self.step = 0
        self.notes: dict[str, float] = {}
        self.reward_counts: dict[str, float] = {}
        self.verify_metrics: dict[str, float] = {}
        self.verdicts: Mapping[str, Sequence[Verdict]] = {}  # of the last batch, by verifier
        self._asked = 0  # prompts asked in this step: enters the seeds, so that no two asks share one
        self.ahead = Ahead(self, config.rollout.ahead)

    @property
    def epochs(self) -> float:
        """Passes over the training prompts so far."""
        return self.stream.order.epochs

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / self.total_steps

    def run(self, step: int) -> Batch:
        """Prompts, responses and rewards of one step. Raises RuntimeError if the strategies leave no response."""
        self.step, self.notes, self.reward_counts = step, {}, {}
        self.parts.verifying.begin()
        asks = self._ahead_or_now(step)
        if step == 0:
            for sentence in first_words(self.config, self.policy, [ask.prompt for ask in asks]):
                self._event(sentence, "alarm", "warning")
        self.engine.sync()
        batch = self._layer(0)(asks)
        if not len(batch):
            names = ", ".join(s.name for s in self.strategies)
            raise RuntimeError(f"step {step}: the sampling strategies ({names}) left no response to train on")
        prompts = [text_of(prompt, self.policy.tokenizer) for prompt in batch.prompts]
        self.reward_counts |= answer_metrics(self.parts.pool, batch.texts, prompts, batch.rollouts.reward_parts)
        getattr(self.engine, "rest", lambda: None)()
        self.ahead.start(step + 1)
        self._engine_report(batch)
        return batch

    def first_asks(self, step: int) -> list[Ask]:
        """The asks that `step` begins with: the next prompts, with the seeds of that step."""
        present, self.step, self._asked = self.step, step, 0
        try:
            return self.asks(self.take(self.config.rollout.prompts))
        finally:
            self.step = present

    def _ahead_or_now(self, step: int) -> list[Ask]:
        """The first asks of a step: those in flight, landed, or new ones."""
        if self.ahead.flight is None:
            return self.first_asks(step)
        self.bar.stage("rollout")
        with self.costs.stage("rollout"):
            self.ahead.land()
        asks = self.ahead.asks(step)
        self._asked = len(asks)
        return asks

    def _engine_report(self, batch: Batch) -> None:
        """What an engine with servers or weights of its own says of the time since the last step."""
        if (stale := batch.rollouts.signals.get("staleness")) is not None:
            own = stale[batch.rollouts.mask]
            self.note("staleness_mean", float(own.mean()) if len(own) else 0.0)
            self.note("staleness_max", float(stale.max()))
        counts, said = getattr(self.engine, "report", lambda: ({}, []))()
        self.notes |= {f"engine/{name}": value for name, value in counts.items()}
        for message in said:
            self._event(message, "alarm", "warning")

    def verified(self, batch: Batch, rollouts: Rollouts) -> Rollouts:
        """The scored batch with the signals of the run's verifiers; waits for their answers."""
        verifying = self.parts.verifying
        if not verifying:
            return rollouts
        with self.costs.stage("verify"):
            self.bar.stage("verify")
            found = verifying.collect(rollouts, batch.samples, batch.texts)
        self.costs.add("verify", **found.spent)
        self.verdicts = found.verdicts
        self.verify_metrics = {**found.metrics, **{f"cost/verify_{k}": value for k, value in found.spent.items()}}
        for message in found.alarms:
            self._event(message, "alarm", "warning")
        return rollouts.with_signals(found.signals)

    def observe(self, rollouts: Rollouts) -> None:
        """Show the scored batch to the strategies."""
        for strategy in self.strategies:
            strategy.observe(rollouts, self)

    def _layer(self, depth: int) -> Callable[[Sequence[Ask]], Batch]:
        if depth == len(self.strategies):
            return self.sample
        return partial(self._call, depth)

    def _call(self, depth: int, asks: Sequence[Ask]) -> Batch:
        return self.strategies[depth](asks, self._layer(depth + 1), self)

    # -- what strategies may ask for ----------------------------------------------------------------------------

    def take(self, count: int) -> list[tuple[Sample, Prompt]]:
        """The next `count` usable prompts of the run's order."""
        with self.costs.stage("prompts"):
            self.bar.stage("prompts")
            taken = self.stream.take(count)
        check_prompts(self.policy.world, "prompts", [sample for sample, _ in taken], [prompt for _, prompt in taken])
        return taken

    def encode(self, sample: Sample) -> Prompt:
        """The prompt of a sample. Raises ValueError if it cannot be used."""
        return self.stream.encode(sample)

    def asks(self, pairs: Sequence[tuple[Sample, Prompt]], group: int | None = None) -> list[Ask]:
        """An ask per prompt with `group` fresh seeds each (default: the run's)."""
        found = []
        for sample, prompt in pairs:
            seeds = tuple(
                derive(self.seed, "sample", self.step, self._asked, member) for member in range(group or self.group)
            )
            self._asked += 1
            found.append(Ask(sample, prompt, seeds))
        return found

    def seeds(self, *purpose: int | str, count: int) -> tuple[int, ...]:
        """Seeds derived from the run's seed, the step and `purpose`."""
        return tuple(derive(self.seed, "strategy", self.step, *purpose, member) for member in range(count))

    def sample(self, asks: Sequence[Ask], sampling: Sampling | None = None) -> Batch:
        """Responses to `asks`, in order, with rewards of the whole response, on the policy's device."""
        place: dict[int, int] = {}
        prompts: list[Prompt] = []
        samples: list[Sample] = []
        for ask in asks:
            if id(ask.prompt) not in place:
                place[id(ask.prompt)] = len(prompts)
                prompts.append(ask.prompt)
                samples.append(ask.sample)
        shown = [
            Request(ask.shown or ask.prompt, ask.seeds, ask.prefix, tag=i, reaction=ask.reaction)
            for i, ask in enumerate(asks)
        ]
        responses, age = self._responses(shown, sampling)
        requests = [Request(ask.prompt, ask.seeds, ask.prefix, tag=i) for i, ask in enumerate(asks)]
        rollouts = collate(prompts, requests, responses, self.policy.tokenizer.pad_token_id, samples)
        foreign = torch.tensor([asks[r.tag].shown is not None for r in responses], dtype=torch.bool)
        if rollouts.sampler_logprobs is not None and bool(foreign.any()):
            unknown = foreign[:, None] & rollouts.mask
            rollouts = rollouts.replace(sampler_logprobs=rollouts.sampler_logprobs.masked_fill(unknown, torch.nan))
        if self.ahead.steps:
            stale = torch.tensor(age, dtype=torch.float32)[:, None].expand(rollouts.tokens.shape)
            rollouts = rollouts.with_signals({"staleness": torch.where(rollouts.valid, stale, 0.0)})
        texts = [self.decode([*asks[r.tag].prefix, *r.tokens]) for r in responses]
        items = [
            replace(reward_item(ask.sample, text, r, ask.prompt), num_tokens=len(ask.prefix) + r.sampled)
            for r, text in zip(responses, texts, strict=True)
            for ask in (asks[r.tag],)
        ]
        names = sorted({name for r in responses for name in r.notes})
        noted = {name: torch.tensor([r.notes.get(name, math.nan) for r in responses]) for name in names}
        total, parts = self._rewards(items)
        rollouts = rollouts.with_signals(noted).replace(
            rewards=torch.tensor(total, dtype=torch.float32),
            reward_parts={k: torch.tensor(v, dtype=torch.float32) for k, v in parts.items()},
        )
        self.parts.verifying.ask(rollouts, samples, texts)
        return Batch(samples, prompts, rollouts.to(self.policy.device), texts)

    def generate(self, requests: Sequence[Request], sampling: Sampling | None = None) -> list[Response]:
        """Bare responses without rewards, for probes."""
        return self._responses(requests, sampling)[0]

    def _responses(self, requests: Sequence[Request], sampling: Sampling | None) -> tuple[list[Response], list[int]]:
        """Responses in order, and by how many updates their weights are older than the present ones."""
        ready = self.ahead.take(requests, sampling or self.sampling)
        missing = [r for r, found in zip(requests, ready, strict=True) if found is None]
        with self.costs.stage("rollout"):
            self.bar.stage("rollout", sum(len(r.seeds) for r in missing))
            cost = self.policy.costs.sampling()
            counted, began = cost.seconds, time.perf_counter()
            sampled = self.engine.generate(missing, sampling or self.sampling, self.bar.advance)
            responses, age = _merged(requests, ready, sampled)
            # An engine that runs the model itself, out of sight, is counted once; a rank may have had no request.
            if not self.policy.world.any([cost.seconds != counted])[0] and self.policy.world.writes:
                cost.seconds += time.perf_counter() - began
                cost.tokens += sum(len(r.prompt) for r in requests) + sum(len(r.tokens) for r in responses)
                cost.positions += sum(r.sampled for r in responses)
        given = sum(len(r.tokens) - r.sampled for r in responses)
        self.costs.add("rollout", tokens=sum(r.sampled for r in responses), responses=len(responses))
        if given:
            self.costs.add("rollout", inserted_tokens=given)
        if self.policy.encoder.shrink is not None:
            seen = [(int(r.prompt.visual.sum()), r.prompt.visual_whole) for r in requests for _ in r.seeds]
            kept, whole = (sum(counts) for counts in zip(*seen, strict=True)) if seen else (0, 0)
            self.costs.add("rollout", visual_tokens=whole, visual_tokens_kept=kept)
        return responses, age

    def score(self, items: Sequence[RewardItem]) -> list[float]:
        """Total rewards of texts, for probes and replay."""
        return self._rewards(items)[0]

    def judge(self, items: Sequence[RewardItem]) -> tuple[list[float], Mapping[str, list[float]]]:
        """Total rewards of texts, and their parts by name."""
        return self._rewards(items)

    def measure(
        self, name: str, prompts: Sequence[Prompt], rollouts: Rollouts, outputs: Sequence[str], temperature: float
    ) -> Mapping[str, Tensor]:
        """[B,T] f32 per output of one no-gradient pass over texts of a strategy."""
        view = View(name)
        self.policy.view_prompts.setdefault(name, _as_it_is)  # a view of its own, so that its cost is told apart
        with self.costs.stage(name):
            self.bar.stage(name, len(rollouts))
            wanted = [Pass(view, frozenset(outputs))]
            found = self.policy.score(prompts, rollouts, wanted, temperature=temperature, progress=self.bar.advance)
        return found[view]

    def spend(self, name: str, **amounts: float) -> None:
        """Extra work of the strategy `name`: in cost.json as the stage rollout/NAME, and noted for the step.

        Amounts named seconds are not noted: a run that is repeated has the same notes.
        """
        self.costs.add(f"rollout/{name}", **amounts)
        for amount, value in amounts.items():
            if not amount.endswith("seconds"):
                self.note(f"{name}/{amount}", value)

    def _rewards(self, items: Sequence[RewardItem]) -> tuple[list[float], Mapping[str, list[float]]]:
        with self.costs.stage("rewards"):
            self.bar.stage("rewards")
            result = self.parts.pool.score(items)
        for message in result.first_errors:
            self._event(f"reward: {message}", "alarm", "warning")
        for name, count in result.counts.items():
            key = f"reward/{name}"
            self.reward_counts[key] = self.reward_counts.get(key, 0.0) + float(count)
        return result.total, result.parts

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens skipped."""
        return self.policy.decode(tokens)

    def note(self, name: str, value: float) -> None:
        """Log `value` as rollout/<name>; a second note of the name in one step is added to the first."""
        key = f"rollout/{name}"
        self.notes[key] = self.notes.get(key, 0.0) + float(value)

    def event(self, message: str) -> None:
        """Write a line into the run's log of events."""
        self._event(message)

    # -- memory -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Memory of all strategies, by position and name."""
        return {f"{i}.{s.name}": state for i, s in enumerate(self.strategies) if (state := s.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ValueError for memory of a strategy that is not here."""
        here = {f"{i}.{s.name}": s for i, s in enumerate(self.strategies)}
        for key, value in state.items():
            if key not in here:
                raise ValueError(f"strategy state {key!r} does not belong to this run ({', '.join(here) or 'none'})")
            here[key].load_state_dict(value)


def _merged(
    requests: Sequence[Request], ready: Sequence[list[Response] | None], sampled: Sequence[Response]
) -> tuple[list[Response], list[int]]:
    """The responses of all requests in order, those that were `ready` (a step old) between those `sampled` now."""
    now = iter(sampled)
    responses, age = [], []
    for request, found in zip(requests, ready, strict=True):
        own = [next(now) for _ in request.seeds] if found is None else [replace(r, tag=request.tag) for r in found]
        responses += own
        age += [0 if found is None else 1] * len(own)
    return responses, age


def _as_it_is(view: View, prompt: Prompt) -> Prompt:
    return prompt
