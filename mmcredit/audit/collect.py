"""Rollouts to audit, sampled as a run of the config samples, with what Monte-Carlo and probing methods need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import build, build_all, lookup, names
from mmcredit.config import parse
from mmcredit.frozen import FOLDER, freeze
from mmcredit.report.files import read_json, write_json
from mmcredit.rollout.strategies.base import Strategy
from mmcredit.rollout.strategies.spo_tree.tree import Edge, edges, grow, value
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
    from mmcredit.rollouts import Rollouts

DENSE = "dense_"  # before the names of the second set of SPO-chain signals
COSTS = "collected.json"
TREES = "trees"  # folder of the SPO-trees
TREE_GROUP, GOES_ON = "tree_group", "goes_on"


def collect(
    config: RunConfig,
    folder: Path,
    *,
    prompts: int,
    batch: int,
    regroup: int,
    dense: int,
    trees: bool,
    stage: Callable[[str, int], Callable[[int], None]],
) -> dict[str, Any]:
    """Freeze batches below `folder`/rollouts until `prompts` prompts are there; batches that are there stay.

    Each prompt is answered by `regroup` groups of the config's size, which stand one after the other. The prompts are
    the first distinct ones of the config's training order. `dense` > 0 adds SPO-chain values before every token from so
    many continuations; `trees`: SPO-trees of the same prompts go below `folder`/trees/rollouts. Returns what sampling
    and each strategy cost. The model is the config's, untrained here.
    Raises ValueError if the data hold fewer usable prompts.
    """
    plain = plain_config(config)
    plain.run.dir = folder
    folder.mkdir(parents=True, exist_ok=True)
    done, grown = _there(folder), _there(folder / TREES)
    extra = strategies(config)
    trees = trees and not isinstance(extra["spo_tree"], str)
    steps = [(i, min(batch, prompts - i * batch)) for i in range(-(-prompts // batch))]
    costs: dict[str, Any] = read_json(folder / COSTS)
    if all(i in done and (i in grown or not trees) for i, _ in steps):
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
            sampler.step, sampler._asked = step, 0
            found: dict[Path, Rollouts] = {}
            if step not in done:
                found[folder] = _batch(sampler, sampler.asks(pairs, config.rollout.group * regroup), extra, dense)
            if trees and step not in grown:
                sampler._asked = 0
                found[folder / TREES] = _trees(sampler, [sampler.asks(pairs, 1) for _ in range(regroup)], extra)
            for target, rollouts in found.items():
                freeze(
                    target / FOLDER,
                    rollouts.to("cpu"),
                    step,
                    max(plain.run.steps, len(steps)),  # what schedules go by: these are the run's first steps
                    plain.model_dump(mode="json"),
                    parts.policy.tokenizer,
                )
                for name, amounts in spent.stages.items():
                    table = costs.setdefault(name if target == folder else f"trees/{name}", {})
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


def _there(folder: Path) -> set[int]:
    """Steps that are frozen below a folder."""
    return {int(p.name.removeprefix("step-")) for p in (folder / FOLDER).glob("step-*")}


def strategies(config: RunConfig) -> dict[str, Any]:
    """Strategies whose signals an audit attaches: name -> the strategy, or why it cannot be had here.

    As the config has them, else with their defaults; those without defaults only where the config names them.
    """
    named = {}
    for entry in config.rollout.strategies:
        named[entry if isinstance(entry, str) else next(iter(entry))] = entry
    usual: dict[str, Any] = {
        "spo_chain": {"spo_chain": {"unfinished": None}},
        "spae_probes": "spae_probes",
        "spo_tree": "spo_tree",
    }
    found: dict[str, Any] = {}
    usual |= {name: entry for name, entry in named.items() if name == "step_judge"}
    for name, entry in usual.items():
        content = plain_config(config).model_dump(mode="json")
        inner = content["rollout"]["strategies"]
        content["rollout"]["strategies"] = [entry, *inner]
        try:
            parse(content)
            found[name] = build("strategy", named.get(name, entry))
        except ValueError as error:
            found[name] = " ".join(str(error).split()).replace("config: Value error, ", "")
    return found


def _batch(sampler: SamplingStage, asks: Sequence[Ask], extra: dict[str, Any], dense: int) -> Rollouts:
    """Responses as the run samples them, with the signals of every strategy that can look at finished responses."""
    sampler.engine.sync()
    batch = sampler._layer(0)(asks)
    plain = batch.rollouts

    def given(_: Sequence[Ask]) -> Batch:
        return batch

    signals: dict[str, Any] = {}
    for name, strategy in extra.items():
        if name != "spo_tree" and not isinstance(strategy, str):
            found = strategy(asks, given, sampler)
            signals |= {signal: found.rollouts.signals[signal] for signal in strategy.gives}
    if dense and not isinstance(extra["spo_chain"], str):
        every = {"cut": "fixed", "interval": 1, "samples": dense, "unfinished": None}
        chain: Any = build("strategy", {"spo_chain": every})
        usual = dict(sampler.costs.stages["rollout/spo_chain"])
        found = chain(asks, given, sampler)
        both = sampler.costs.stages["rollout/spo_chain"]
        sampler.costs.add("rollout/dense", **{k: v - usual.get(k, 0.0) for k, v in both.items()})
        both.update(usual)
        signals |= {f"{DENSE}{signal}": found.rollouts.signals[signal] for signal in chain.gives}
    return plain.with_signals(signals).replace(samples=tuple(batch.samples))


def _trees(sampler: SamplingStage, groups: Sequence[Sequence[Ask]], extra: dict[str, Any]) -> Rollouts:
    """All edges of a tree per prompt and group, those without a change of value included: they are credited 0.

    Segments have the mean length of a response over the levels of the tree, so that it has its levels also where
    responses are far shorter than the limit. Signals [B]: `tree_group`, `goes_on` (the edge ends at no leaf).
    """
    tree: Any = extra["spo_tree"]
    sampler.engine.sync()
    first = sampler.sample(groups[0])
    length = max(1, int(first.rollouts.mask.sum()) // max(1, len(first)))
    segment = tree.segment_tokens or max(1, -(-length // len(tree.branching)))
    rows: list[tuple[int, Edge, int, bool]] = []  # prompt, edge, group, goes on
    for number, asks in enumerate(groups):
        nodes, _ = grow(asks, tree.branching, segment, tree.max_leaves, "spo_tree", sampler)
        value(nodes, asks, sampler)
        inner: dict[int, list[bool]] = {}
        for node in nodes:
            if node.response is not None:
                inner.setdefault(node.ask, []).append(bool(node.children))
        for ask, own in edges(nodes, sampler.step).items():
            rows += [(ask, edge, number, more) for edge, more in zip(own, inner[ask], strict=True)]
    rows.sort(key=lambda row: row[0])
    pairs = [(ask.sample, ask.prompt, [r[1] for r in rows if r[0] == i]) for i, ask in enumerate(groups[0])]
    batch = tree.batch(pairs, sampler)
    device = batch.rollouts.tokens.device
    marks = {
        TREE_GROUP: torch.tensor([r[2] for r in rows], device=device),
        GOES_ON: torch.tensor([r[3] for r in rows], device=device),
    }
    return batch.rollouts.with_signals(marks).replace(samples=tuple(batch.samples))


def plain_config(config: RunConfig) -> RunConfig:
    """The config without what an audit puts in its place: credit, strategies, checks, verifiers.

    A strategy that inserts into responses stays: it is part of what is sampled.
    """
    content = config.model_dump(mode="json")
    content["credit"] = ["grpo"]
    content["rollout"]["strategies"] = [
        entry
        for entry, made in zip(
            content["rollout"]["strategies"], build_all("strategy", config.rollout.strategies), strict=True
        )
        if type(made).reactions is not Strategy.reactions  # type: ignore[attr-defined]
    ]
    content["verifiers"] = []
    content["objective"]["regularizers"] = []
    content["check"] |= {"parity": False, "image_probe": False}
    return parse(content)


def strategy_costs(costs: dict[str, Any]) -> dict[str, float]:
    """Signal -> tokens that the strategy which gives it sampled; for the cost column."""
    found = {f"{DENSE}boundary_index": float(costs.get("rollout/dense", {}).get("tokens", 0.0))}
    for name in names("strategy"):
        if name != "spo_tree" and (amounts := costs.get(f"rollout/{name}")):
            gives: tuple[str, ...] = lookup("strategy", name).gives  # type: ignore[attr-defined]
            found |= dict.fromkeys(gives, float(amounts.get("tokens", 0.0)))
    return found
