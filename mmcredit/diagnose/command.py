"""The commands `mmcredit diagnose ...`."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.diagnose import output
from mmcredit.seeds import derive

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.config import RunConfig
    from mmcredit.data.dropped import Dropped
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts

Bar = Callable[..., AbstractContextManager[Callable[[int], None]]]  # bar(name, total) -> advance(count)


def run(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> int:
    """Run the diagnosis `options.what`. Raises ValueError for options that do not fit."""
    for name in ("questions", "samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if not 0 < getattr(options, "top_p", 1.0) <= 1:
        raise ValueError(f"--top-p must lie in (0, 1], got {options.top_p}")
    if options.temperature is not None:
        if not options.temperature >= 0:
            raise ValueError(f"--temperature must be at least 0, got {options.temperature}")
        sampling = config.rollout.sampling
        config.rollout.sampling = sampling.model_copy(update={"temperature": options.temperature})
    if config.run.threads is not None:
        import torch

        torch.set_num_threads(config.run.threads)
    todo = {"divergence": divergence, "cross-sampling": cross_sampling, "drift": drift, "tokens": tokens}
    written = todo[options.what](config, options, console, bar)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def divergence(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> list[Path]:
    """Per-token divergence of two checkpoints on responses of one of them."""
    from mmcredit.diagnose import divergence as tokens
    from mmcredit.diagnose import sparsity
    from mmcredit.diagnose.models import load_frozen

    base_path, trained_path = _paths(config, options)
    with console.status("loading the models"):
        base, trained = load_frozen(config, base_path), load_frozen(config, trained_path)
    author = trained if options.sampled_by == "trained" else base
    samples, prompts, dropped, rollouts = _sample(config, author, options, bar)

    def compare(policy: Policy, path: str) -> tokens.TokenDivergence:
        with bar(f"responses scored, {path}", len(rollouts)) as advance:
            return tokens.token_divergence(policy, base, prompts, rollouts, top_p=options.top_p, progress=advance)

    found = compare(trained, trained_path)
    result = sparsity.summarise(found, seed=derive(config.run.seed, "bootstrap") % 2**32)
    shifted = found["js"] > sparsity.SHIFTED
    checkpoints = []
    for path in options.earlier:
        before = compare(load_frozen(config, path), path)["js"]
        checkpoints.append(
            {
                "path": path,
                "percentiles": sparsity.percentiles(before),
                "above": float((before > sparsity.SHIFTED).float().mean()),
                "jaccard": sparsity.jaccard(before > sparsity.SHIFTED, shifted),
            }
        )
    result |= {
        "base": base_path,
        "trained": trained_path,
        "sampled_by": options.sampled_by,
        "top_p": options.top_p,
        "dropped": dict(dropped.counts),
        "top_tokens": tokens.top_tokens(found, trained.tokenizer),
        "largest": tokens.worst_places(found, trained.tokenizer),
        "curve": sparsity.curve(found["js"]),
        "checkpoints": checkpoints,
    }
    output.print_divergence(result, console)
    output.print_dropped(dropped, console)
    folder = _folder(config, options)
    names = [samples[g].id for g in rollouts.group.tolist()]
    tokens.write_table(found, names, trained.tokenizer, folder / "divergence.parquet")
    return [output.write_json(result, folder / "divergence.json"), folder / "divergence.parquet"]


def cross_sampling(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> list[Path]:
    """Accuracy against the number of tokens taken from the other model."""
    from mmcredit.components import build
    from mmcredit.diagnose.cross_sampling import CrossEngine, budget_curve
    from mmcredit.diagnose.models import load_frozen, questions
    from mmcredit.evaluate.accuracy import Evaluation, evaluate
    from mmcredit.prepare import make_pool
    from mmcredit.rollout.engines.hf import HF

    budgets = _budgets(options.budgets)
    base_path, trained_path = _paths(config, options)
    hf = build("engine", config.rollout.engine)
    if not isinstance(hf, HF):
        raise ValueError(f"rollout.engine is {hf.name!r}; only engine hf can step two models together")
    with console.status("loading the models"):
        base, trained = load_frozen(config, base_path), load_frozen(config, trained_path)
    samples, prompts, dropped = questions(config, trained, options.questions)
    seeds = [_seeds(config, s, options.samples) for s in samples]
    sampling = config.rollout.sampling
    directions = {"forward": (base, trained), "backward": (trained, base)}
    chosen = list(directions) if options.direction == "both" else [options.direction]
    rows: list[dict[str, Any]] = []
    responses: list[dict[str, Any]] = []
    with make_pool(config) as pool:
        part = config.evaluate.reward or pool.names[0]

        def decode(ids: Sequence[int]) -> str:
            return trained.tokenizer.decode(ids, skip_special_tokens=True)

        def judge(engine: CrossEngine) -> Evaluation:
            name = f"budget {output.budget_name(engine.rule.budget)}, {engine.rule.switch}"
            with bar(f"{chosen[0]}: {name}", len(samples) * options.samples) as advance:
                return evaluate(engine, pool, samples, prompts, sampling, seeds, decode, part, advance)

        while chosen:
            for point in budget_curve(
                *directions[chosen[0]],
                hf,
                budgets,
                judge,
                threshold=options.threshold,
                top_p=options.top_p,
                control=not options.no_control,
            ):
                rows.append(output.curve_row(chosen[0], point))
                responses += output.response_rows(chosen[0], point, samples, options.samples)
            chosen.pop(0)
    output.print_curve(rows, console)
    output.print_dropped(dropped, console)
    result = {
        "base": base_path,
        "trained": trained_path,
        "threshold": options.threshold,
        "top_p": options.top_p,
        "questions": len(samples),
        "samples": options.samples,
        "temperature": sampling.temperature,
        "dropped": dict(dropped.counts),
        "curve": rows,
    }
    folder = _folder(config, options)
    return [
        output.write_json(result, folder / "cross_sampling.json"),
        output.write_parquet(responses, folder / "cross_sampling.parquet"),
    ]


def drift(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> list[Path]:
    """Do sampled ids read back as themselves?"""
    from mmcredit.diagnose.models import load_frozen, load_tokenizer
    from mmcredit.diagnose.run_samples import stretches
    from mmcredit.intervals import proportion
    from mmcredit.policy.tokenisation import CLASSES, TokenisationCheck, summarise

    model = options.model or config.model.path
    dropped: Dropped | None = None
    boundary: list[bool] = []
    if options.run_dir is not None:
        names, ids = stretches(options.run_dir)
        check = TokenisationCheck(load_tokenizer(model, config.model.trust_remote_code))
    else:
        with console.status("loading the model"):
            policy = load_frozen(config, model)
        samples, prompts, dropped, rollouts = _sample(config, policy, options, bar)
        groups = rollouts.group.tolist()
        names = [samples[g].id for g in groups]
        ids = [row[keep].tolist() for row, keep in zip(rollouts.tokens, rollouts.mask, strict=True)]
        check = TokenisationCheck(policy.tokenizer)
        boundary = check.boundary_drift([prompts[g].tokens.tolist() for g in groups], ids)
    readings = check.readings(ids)
    found = summarise(readings, boundary)
    rate = proportion(sum(r.drifted for r in readings), len(readings))
    output.print_drift(found, rate, CLASSES, options.run_dir is None, console)
    output.print_dropped(dropped, console)
    rows = []
    for name, tokens, reading in zip(names, ids, readings, strict=True):
        text = check.text(tokens)
        raw = text.encode()
        regions = [
            {"start": a, "end": b, "class": kind, "text": raw[a:b].decode(errors="replace")}
            for a, b, kind in reading.regions
        ]
        numbers = {field: getattr(reading, field) for field in ("drifted", "tokens", "again", "prefix", "matched")}
        rows.append({"sample_id": name, **numbers, "text": text, "regions": regions})
    result = {
        "model": model,
        "responses": found.responses,
        "drift": {"value": rate.value, "low": rate.low, "high": rate.high},
        "matched": found.matched,
        "length_gap": found.length_gap,
        "prefix": found.prefix,
        "boundary": found.boundary if options.run_dir is None else None,
        "classes": {name: found.classes.get(name, 0) for name in CLASSES},
        "dropped": {} if dropped is None else dict(dropped.counts),
    }
    folder = _folder(config, options)
    return [
        output.write_json(result, folder / "drift.json"),
        output.write_parquet(rows, folder / "drift.parquet", output.drift_schema()),
    ]


def tokens(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> list[Path]:
    """Premiums of languages, statistics of token streams."""
    from mmcredit.diagnose.token_streams import run as streams

    return [output.write_json(streams(config, options, console, bar), _folder(config, options) / "tokens.json")]


def _paths(config: RunConfig, options: Namespace) -> tuple[str, str]:
    """The base and the trained model: the config's model, and what its run left, unless named."""
    left = Path(config.run.dir) / "model"
    if options.trained is None and not left.is_dir():
        raise ValueError(f"no trained model: {left} does not exist; name one with --trained")
    return options.base or config.model.path, options.trained or str(left)


def _folder(config: RunConfig, options: Namespace) -> Path:
    return options.output or Path(config.run.dir) / "diagnose"


def _seeds(config: RunConfig, sample: Sample, count: int) -> list[int]:
    return [derive(config.run.seed, "diagnose", sample.id, i) for i in range(count)]


def _sample(
    config: RunConfig, policy: Policy, options: Namespace, bar: Bar
) -> tuple[list[Sample], list[Prompt], Dropped, Rollouts]:
    """Fresh responses of a model to the questions."""
    from mmcredit.components import build
    from mmcredit.diagnose.models import questions
    from mmcredit.rollout.collate import collate
    from mmcredit.rollout.engine import Request

    samples, prompts, dropped = questions(config, policy, options.questions)
    requests = [
        Request(prompt, _seeds(config, sample, options.samples), tag=i)
        for i, (sample, prompt) in enumerate(zip(samples, prompts, strict=True))
    ]
    engine = build("engine", config.rollout.engine).open(policy)  # type: ignore[attr-defined]
    with bar("responses sampled", len(requests) * options.samples) as advance:
        responses = engine.generate(requests, config.rollout.sampling, advance)
    engine.close()
    padding = policy.tokenizer.pad_token_id or 0
    return samples, prompts, dropped, collate(prompts, requests, responses, padding)


def _budgets(text: str) -> list[float]:
    words = [word.strip() for word in text.split(",")]
    if bad := [word for word in words if word != "all" and not word.isdecimal()]:
        raise ValueError(f"--budgets must be whole numbers or 'all' with commas between, got {bad[0]!r}")
    return [math.inf if word == "all" else float(word) for word in words]
