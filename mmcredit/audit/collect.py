"""Rollouts to audit, sampled as a run of the config samples, with what Monte-Carlo and probing methods need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.components import build, lookup, names
from mmcredit.config import parse
from mmcredit.frozen import FOLDER, freeze
from mmcredit.report.files import read_json, write_json
from mmcredit.seeds import derive
from mmcredit.train.costs import Costs
from mmcredit.train.progress import Progress
from mmcredit.train.prompts import PromptStream
from mmcredit.train.sampling import SamplingStage
from mmcredit.train.setup import furnish
from mmcredit.world import World

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Ask, Batch

DENSE = "dense_"  # before the names of the second set of SPO-chain signals
COSTS = "collected.json"
STRATEGIES = ("spo_chain", "spae_probes")


def collect(
    config: RunConfig,
    folder: Path,
    *,
    prompts: int,
    batch: int,
    regroup: int,
    dense: int,
    stage: Callable[[str, int], Callable[[int], None]],
) -> dict[str, Any]:
    """Freeze batches below `folder`/rollouts until `prompts` prompts are there; batches that are there stay.

    Each prompt is answered by `regroup` groups of the config's size, which stand one after the other. The prompts are
    the first distinct ones of the config's training order. `dense` > 0 adds SPO-chain values before every token from so
    many continuations. Returns what sampling and each strategy cost. The model is the config's, untrained here.
    Raises ValueError if the data hold fewer usable prompts.
    """
    plain = plain_config(config)
    plain.run.dir = folder
    folder.mkdir(parents=True, exist_ok=True)
    done = {p.name for p in (folder / FOLDER).glob("step-*")} if (folder / FOLDER).is_dir() else set()
    steps = [(i, min(batch, prompts - i * batch)) for i in range(-(-prompts // batch))]
    costs: dict[str, Any] = read_json(folder / COSTS)
    if all(f"step-{i:06d}" in done for i, _ in steps):
        return costs
    parts = furnish(plain, World())
    try:
        if len(parts.samples) < prompts:
            raise ValueError(f"data.train holds {len(parts.samples)} samples; --prompts {prompts} asks for more")

        def encode(sample: Sample) -> Prompt:
            return parts.policy.encode(sample, plain.data.max_prompt_tokens)

        stream = PromptStream(parts.samples, encode, derive(plain.run.seed, "order"))
        spent = Costs()
        sampler = SamplingStage(plain, parts, stream, spent, Progress(quiet=True), lambda *a, **k: None)
        advance = stage("rollouts to audit", prompts)
        for step, count in steps:
            pairs = stream.take(count)  # taken also where the batch is there: the order goes on
            if f"step-{step:06d}" not in done:
                sampler.step, sampler._asked = step, 0
                found = _batch(sampler, sampler.asks(pairs, config.rollout.group * regroup), dense)
                freeze(
                    folder / FOLDER,
                    found.rollouts.to("cpu").replace(samples=tuple(found.samples)),
                    step,
                    max(plain.run.steps, len(steps)),  # what schedules go by: these are the run's first steps
                    plain.model_dump(mode="json"),
                    parts.policy.tokenizer,
                )
                for name, amounts in spent.stages.items():
                    table = costs.setdefault(name, {})
                    for key, value in amounts.items():
                        table[key] = table.get(key, 0.0) + value
                spent.stages.clear()
                write_json(folder / COSTS, costs)
            advance(count)
        return costs
    finally:
        parts.pool.close()
        parts.verifying.close()
        parts.engine.close()
        parts.world.close()


def _batch(sampler: SamplingStage, asks: Sequence[Ask], dense: int) -> Batch:
    """Plain responses, with the signals of every strategy that can look at finished responses."""
    sampler.parts.verifying.begin()
    sampler.engine.sync()
    batch = sampler.sample(asks)
    plain = batch.rollouts

    def given(_: Sequence[Ask]) -> Batch:
        return batch

    signals: dict[str, Any] = {}
    for name in STRATEGIES:
        if name not in names("strategy"):
            continue
        strategy: Any = build("strategy", {name: {"unfinished": None}} if name == "spo_chain" else name)
        found = strategy(asks, given, sampler)
        signals |= {signal: found.rollouts.signals[signal] for signal in strategy.gives}
    if dense:
        every = {"cut": "fixed", "interval": 1, "samples": dense, "unfinished": None}
        chain: Any = build("strategy", {"spo_chain": every})
        usual = dict(sampler.costs.stages["rollout/spo_chain"])
        found = chain(asks, given, sampler)
        both = sampler.costs.stages["rollout/spo_chain"]
        sampler.costs.add("rollout/dense", **{k: v - usual.get(k, 0.0) for k, v in both.items()})
        both.update(usual)
        signals |= {f"{DENSE}{signal}": found.rollouts.signals[signal] for signal in chain.gives}
    return batch.replace_rollouts(plain.with_signals(signals))


def plain_config(config: RunConfig) -> RunConfig:
    """The config without what an audit puts in its place: credit, strategies, checks, verifiers."""
    content = config.model_dump(mode="json")
    content["credit"] = ["grpo"]
    content["rollout"]["strategies"] = []
    content["verifiers"] = []
    content["objective"]["regularizers"] = []
    content["check"] |= {"parity": False, "image_probe": False}
    return parse(content)


def strategy_costs(costs: dict[str, Any]) -> dict[str, float]:
    """Signal -> tokens that the strategy which gives it sampled; for the cost column."""
    found = {f"{DENSE}boundary_index": float(costs.get("rollout/dense", {}).get("tokens", 0.0))}
    for name in STRATEGIES:
        if name in names("strategy"):
            tokens = float(costs.get(f"rollout/{name}", {}).get("tokens", 0.0))
            found |= dict.fromkeys(lookup("strategy", name).gives, tokens)  # type: ignore[attr-defined]
    return found
