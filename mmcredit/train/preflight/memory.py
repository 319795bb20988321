"""How much memory a run takes at its largest moment, and which settings lower that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmcredit.components import build, build_all, names
from mmcredit.credit import Pipeline
from mmcredit.policy.passes import CLEAN
from mmcredit.policy.scores import CHUNK_BYTES
from mmcredit.train.preflight.machine import MIB, Free
from mmcredit.train.update import UPDATE_PASSES, signals_for_update, teacher_kl

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.policy.policy import Policy
    from mmcredit.rollout.volume import Volume
    from mmcredit.train.preflight.activations import Kept

SAMPLER_BYTES = 128 * MIB  # float64 temporaries of a draw, at most (rollout/sampling.py)
GRADIENT_COPIES = 3  # of a chunk of the vocabulary in a backward pass: logits, their gradient, one temporary
# Of what an update allocates and frees on a CPU, the share that glibc's heap loses to gaps: without it the estimate was
# 2 to 9 % below the peak of runs whose responses all reached their limit (benchmarks/memory_estimate.md).
HEAP_GAPS = 0.15
TIGHT = 0.9  # share of the free memory from which a run is called tight


@dataclass(frozen=True)
class Shape:
    """What of a run decides over its memory. Settings that lower it are tried by changing one of these."""

    parameters: int
    trainable: int
    weight_bytes: int  # per parameter: 4 or 2
    reference: bool  # a second copy of the weights
    prompts: int  # sampled at a time
    sampled_rows: int  # responses sampled at a time
    batch_prompts: int  # of an optimizer mini-batch
    batch_rows: int
    longest: int  # prompt tokens
    new_tokens: int
    patches: int  # of the largest prompt's media
    pixel_bytes: float  # of preprocessed images that are remembered
    feature_bytes: float  # of vision features that are remembered
    token_budget: int
    score_tokens: int
    graphs: int  # passes whose graphs are in memory at once
    checkpointing: bool
    lora: bool
    shared: bool  # layout
    cpu: bool = False


@dataclass(frozen=True)
class Model:
    """Sizes of a model that enter the estimate."""

    width: int
    layers: int
    key_values: int  # values per token and layer in the cache
    vocabulary: int
    linear: int  # parameters of adapters of rank 1 on the usual layers, per layer
    tower: int  # trainable parameters of the vision tower
    kept: Kept
    base_mib: float  # the process with libraries and model loaded


@dataclass(frozen=True)
class Estimate:
    """MiB. `total` is the largest of the phases, not the sum of all."""

    rows: Mapping[str, float]  # what is held at the largest moment, by what it is for
    total: float
    phase: str  # the stage of a step in which that is
    held: float  # of it, what this process holds already


@dataclass(frozen=True)
class Remedy:
    """One setting, and the MiB that it saves."""

    setting: str
    saves: float
    note: str = ""


def estimate(shape: Shape, model: Model) -> Estimate:
    """The largest moment of a step: sampling, scoring or the backward pass, whichever holds most.

    The update is counted as the batch can be at most: every response at its limit, every prompt as long as the longest
    that was read. Weights of `model.base_mib` are those that are loaded now.
    """
    size = shape.weight_bytes
    always = {
        "libraries, model and data": model.base_mib,
        "reference weights": shape.parameters * size * shape.reference / MIB,
        "optimizer state": shape.trainable * (8 + (4 if size == 2 else 0)) / MIB,
        "remembered images and features": (shape.pixel_bytes + shape.feature_bytes) / MIB,
    }
    moments = {"update": _update(shape, model), "rollout": _sampling(shape, model), "score": _scoring(shape, model)}
    phase = max(moments, key=lambda name: sum(moments[name].values()))
    rows = {name: mib for name, mib in (always | moments[phase]).items() if mib >= 0.5}
    return Estimate(rows, sum(rows.values()), phase, model.base_mib)


def micro_batch(shape: Shape) -> tuple[float, float]:
    """(prompts, responses) in the largest micro-batch: what the batch holds, within the budget, one response at least.

    Whole groups where one fits, else parts of a group: then its prompt stands once in each part.
    """
    budget = max(1, shape.token_budget // shape.graphs)
    prompts, rows = shape.batch_prompts, shape.batch_rows
    per_group = rows / prompts
    if not shape.shared:
        return (most := min(rows, max(1, budget // (shape.longest + shape.new_tokens)))), most
    group = shape.longest + per_group * shape.new_tokens
    if group <= budget:
        groups = min(prompts, budget // group)
        return groups, groups * per_group
    return 1, min(per_group, max(1, (budget - shape.longest) // shape.new_tokens))


def _update(shape: Shape, model: Model) -> dict[str, float]:
    kept = model.kept
    prompts, rows = micro_batch(shape)
    graph = shape.graphs * kept.body(round(prompts), shape.longest, round(rows), shape.new_tokens)
    vision = prompts * shape.patches * kept.patch
    layer, block = graph / kept.layers, vision / kept.tower_layers  # in a layer's backward, its gradients as well
    if shape.checkpointing:
        packed = prompts * shape.longest + rows * shape.new_tokens
        inputs = shape.graphs * packed * model.width * kept.layers * shape.weight_bytes
        graph, vision = inputs + layer, block
    positions = rows * shape.new_tokens * shape.graphs
    chunk = GRADIENT_COPIES * min(CHUNK_BYTES, positions * model.vocabulary * 4)
    activations = graph + layer + vision + block
    return {
        "gaps in the heap": HEAP_GAPS * (activations + chunk) * shape.cpu / MIB,
        "gradients": shape.trainable * (shape.weight_bytes if shape.weight_bytes == 4 else 6) / MIB,
        "activations of a micro-batch": activations / MIB,
        "one chunk of the vocabulary": chunk / MIB,
    }


def _sampling(shape: Shape, model: Model) -> dict[str, float]:
    cached = shape.prompts * shape.longest + shape.sampled_rows * shape.new_tokens
    values = cached * model.layers * model.key_values * shape.weight_bytes
    logits = shape.sampled_rows * model.vocabulary * 4
    return {
        "keys and values while sampling": values / MIB,
        "logits of a draw": (3 * logits + min(3 * SAMPLER_BYTES, 6 * logits)) / MIB,
    }


def _scoring(shape: Shape, model: Model) -> dict[str, float]:
    kept = model.kept
    prompts, rows = micro_batch(replace(shape, token_budget=shape.score_tokens, graphs=1))
    graph = kept.body(round(prompts), shape.longest, round(rows), shape.new_tokens) / kept.layers
    chunk = min(CHUNK_BYTES, rows * shape.new_tokens * model.vocabulary * 4)
    return {"one layer while scoring": 2 * graph / MIB, "one chunk of the vocabulary": 2 * chunk / MIB}


def remedies(shape: Shape, model: Model, config: RunConfig) -> list[Remedy]:
    """Settings that lower the estimate, the largest saving first; those that save under 2 % are left out."""
    now = estimate(shape, model).total
    tried: list[tuple[str, Shape, str]] = []
    single = shape.longest + shape.new_tokens
    prompts, rows = micro_batch(shape)
    held = shape.graphs * (prompts * shape.longest + rows * shape.new_tokens)
    for budget in (_round(held / 2), _round(held / 4)):
        if shape.graphs * single <= budget < shape.token_budget:
            tried.append((f"train.token_budget={budget}", replace(shape, token_budget=budget), "same result, slower"))
    if not shape.checkpointing:
        note = "same result, about a third slower"
        tried.append(("model.gradient_checkpointing=true", replace(shape, checkpointing=True), note))
    if not shape.lora and model.linear:
        small = replace(shape, trainable=16 * model.linear * model.layers, lora=True, reference=False)
        tried.append(("model.lora={rank: 16}", small, "trains adapters, not the weights"))
    if model.tower and not shape.lora:
        frozen = replace(shape, trainable=shape.trainable - model.tower, patches=0)
        tried.append(("model.freeze_vision=true", frozen, "the vision tower is not trained"))
    if shape.weight_bytes == 4 and config.model.device != "cpu":
        half = replace(model, base_mib=model.base_mib - shape.parameters * 2 / MIB, kept=model.kept.scaled(0.5))
        found = now - estimate(replace(shape, weight_bytes=2), half).total
        tried_half = Remedy("model.dtype=bfloat16", found, "for a GPU: on a CPU it is many times slower")
    else:
        tried_half = None
    shorter = max(1, shape.new_tokens // 2)
    if shape.new_tokens >= 32:
        tried.append(
            (f"rollout.sampling.max_new_tokens={shorter}", replace(shape, new_tokens=shorter), "shorter responses")
        )
    found_all = [Remedy(setting, now - estimate(other, model).total, note) for setting, other, note in tried]
    if tried_half is not None:
        found_all.append(tried_half)
    worth = sorted((r for r in found_all if r.saves >= 0.02 * now), key=lambda r: -r.saves)
    return [r for i, r in enumerate(worth) if not any(_covers(other, r, now) for other in worth[i + 1 :])]


def _covers(other: Remedy, remedy: Remedy, now: float) -> bool:
    """Whether `other` is the same setting, changed less, and saves about as much."""
    same = other.setting.partition("=")[0] == remedy.setting.partition("=")[0]
    return same and remedy.saves - other.saves < 0.02 * now


def _round(tokens: float) -> int:
    """Down to a multiple of 64 where that is not nothing."""
    return max(1, int(tokens) // 64 * 64 or int(tokens))


def shape_of(
    config: RunConfig,
    policy: Policy,
    volume: Volume,
    *,
    longest: int,
    patches: int,
    pixel_bytes: float,
    graphs: int,
    reference: bool,
    shared: bool,
) -> Shape:
    """What of `config` enters the estimate. `longest`, `patches`: of the prompts that were read; `pixel_bytes`: of all
    images of the data, as far as a run sees them."""
    train = config.train
    engine = _engine_limits(config)
    rows = min(engine["max_concurrent"], volume.most_responses)
    vision = policy.body.vision
    frozen = vision is not None and vision.frozen
    width = policy.body.config.hidden_size
    features = pixel_bytes / _PIXEL_BYTES_PER_PATCH / 4 * width * 4 if frozen else 0.0
    return Shape(
        parameters=sum(p.numel() for p in policy.model.parameters()),
        trainable=sum(p.numel() for p in policy.trainable_parameters().values()),
        weight_bytes=4 if config.model.dtype == "float32" else 2,
        reference=reference,
        prompts=min(volume.most_prompts, rows),
        sampled_rows=rows,
        batch_prompts=max(1, volume.row_prompts // train.mini_batches),
        batch_rows=max(1, volume.rows // train.mini_batches),
        longest=longest,
        new_tokens=volume.row_tokens,
        patches=patches,
        pixel_bytes=min(pixel_bytes, config.model.pixel_cache_mb * MIB),
        feature_bytes=min(features, config.model.vision_cache_mb * MIB),
        token_budget=train.token_budget,
        score_tokens=config.model.score_tokens,
        graphs=graphs,
        checkpointing=config.model.gradient_checkpointing,
        lora=config.model.lora is not None,
        shared=shared,
        cpu=policy.device.type == "cpu",
    )


_PIXEL_BYTES_PER_PATCH = 1176 * 4  # 3 channels x 2 frames x 14 x 14, float32


def model_of(policy: Policy, kept: Kept, base_mib: float) -> Model:
    """What of a loaded model enters the estimate."""
    text: Any = policy.body.config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = getattr(text, "intermediate_size", 0) or 0
    attention = text.num_attention_heads * head_dim
    linear = 2 * (text.hidden_size + attention) + 2 * (text.hidden_size + heads * head_dim)
    linear += 3 * (text.hidden_size + inner)
    tower = policy.tower
    return Model(
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        key_values=2 * heads * head_dim,
        vocabulary=policy.body.vocabulary,
        linear=linear if inner else 0,
        tower=0 if tower is None else sum(p.numel() for p in tower.parameters() if p.requires_grad),
        kept=kept,
        base_mib=base_mib,
    )


def planned(config: RunConfig) -> tuple[int, bool]:
    """(graphs that an update holds at once, whether a second copy of the weights is kept) of a run's components."""
    objective = config.build_objective()
    needs = Pipeline(config.credit).needs() | objective.needs()
    for strategy in build_all("strategy", config.rollout.strategies):
        needs = needs | strategy.needs()
    views = set()
    for name in (*needs.signals, *signals_for_update(objective.needs()), *config.log.signals):
        if name in names("signal"):
            signal: Any = build("signal", {name: needs.settings[name]} if name in needs.settings else name)
            views |= {p.view for p in signal.passes()}
    at_update = {CLEAN}
    for name in objective.needs().passes:
        if name == "teacher_kl":
            at_update |= {p.view for p in teacher_kl(**objective.needs().settings[name])[0]}
        elif name in UPDATE_PASSES and name not in signals_for_update(objective.needs()):
            at_update |= {p.view for p in UPDATE_PASSES[name][0]}
    reference = any(view.weights == "reference" for view in views | at_update)
    return sum(not view.frozen for view in at_update), reference and config.model.lora is None


def _engine_limits(config: RunConfig) -> dict[str, int]:
    engine = build("engine", config.rollout.engine)
    return {"max_concurrent": int(getattr(engine, "max_concurrent", 256))}


def verdict(found: Estimate, free: Free | None, ways: list[Remedy]) -> str | None:
    """A sentence if the run does not fit, or hardly, into what is free; None where it does or nothing is known."""
    if free is None:
        return None
    wanted = found.total - found.held
    if wanted <= TIGHT * free.mib:
        return None
    how = "is more than" if wanted > free.mib else "hardly fits into"
    text = (
        f"the run takes about {found.total:,.0f} MiB at its largest moment ({found.phase}), {wanted:,.0f} of them not "
        f"held yet; that {how} the {free.mib:,.0f} MiB that are free ({free.of})"
    )
    if ways:
        text += "; lower: " + ", ".join(f"{way.setting} (-{way.saves:,.0f} MiB)" for way in ways[:3])
    return text
