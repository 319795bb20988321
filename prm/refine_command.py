"""`mmcredit refine`: strategies compared on the held-out questions of a config."""

from __future__ import annotations

import json
import math
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmcredit import components, config
from mmcredit.answers.item import RewardItem
from mmcredit.components import build
from mmcredit.data.sample import last_text
from mmcredit.intervals import Z95, Interval, proportion
from mmcredit.prepare import held_out_samples, make_pool, seed_everything
from mmcredit.report.files import read_json, write_json
from mmcredit.settings import changes, defaults_of, told
from mmcredit.verifiers.base import RunContext
from prm.checking import SpanSettings
from prm.components import PerceptionVerifier, verifier_of
from prm.refine import RefineSettings
from prm.rows import ROWS, SETTINGS, SUMMARY, TRACES, read_rows
from prm.spans import INFERENCE
from prm.strategies import STRATEGIES, EngineWriter, Plan, Result, as_row, run_plan
from prm.verifier import query_of

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.rewards.pool import RewardPool

console = Console(markup=False)


def run(options: Namespace) -> int:
    """Answer, refine, judge, write. Questions whose rows are there already are not asked again."""
    for path in options.plugin:
        components.load_plugin(path)
    run_config = _config(options)
    plan, seeds = _plan(options, run_config), [int(s) for s in options.seeds.split(",")]
    name = re.sub(r"\W+", "-", run_config.model.path).strip("-")
    folder: Path = options.output or Path("runs") / "refine" / name
    folder.mkdir(parents=True, exist_ok=True)
    verifier = _verifier(options.prm, run_config)
    settings = _settings(options, run_config, plan, verifier)
    _same_settings(folder / SETTINGS, settings, verifier)
    done = {(row["id"], row["seed"]) for row in read_rows(folder / ROWS)}
    if run_config.data.evaluate is None:
        raise ValueError("refine answers the questions of data.evaluate, and the config has none")
    samples, skipped = _questions(run_config, verifier)
    todo = [(seed, s) for seed in seeds for s in samples if (s.id, seed) not in done]
    if todo:
        _answer(run_config, options, plan, verifier, todo, folder)
    summary = summarise(read_rows(folder / ROWS))
    about = {**settings, "questions": len(samples), "skipped": dict(skipped), "seeds": seeds}
    (folder / SUMMARY).write_text(json.dumps({"about": about, "strategies": summary}, indent=1))
    _print(summary)
    from prm.refine_page import write_page

    page = write_page(folder, about, summary, samples, run_config.data.media, options.traces)
    console.print(f"results: {folder}, page: {page}", highlight=False, soft_wrap=True)
    return 0


def _config(options: Namespace) -> RunConfig:
    changes = list(options.overrides)
    if options.policy:
        changes.append(f"model.path={options.policy}")
    if options.limit:
        changes.append(f"evaluate.limit={options.limit}")
    return config.load(options.config, None, changes, published=False)


def _plan(options: Namespace, run_config: RunConfig) -> Plan:
    names = tuple(STRATEGIES) if options.strategies == "all" else tuple(options.strategies.split(","))
    try:
        ks = tuple(sorted({int(k) for k in options.k.split(",")}))
    except ValueError:
        raise ValueError(f"--k wants whole numbers with commas, got {options.k!r}") from None
    chain = RefineSettings(
        budget=options.budget,
        returns=options.returns,
        max_tokens=options.max_new_tokens or run_config.rollout.sampling.max_new_tokens,
        first_temperature=options.first_temperature,
        temperature=options.temperature,
        spans=SpanSettings(ladder=INFERENCE),
    )
    return Plan(names, ks, options.chains, chain)


def _verifier(entry: str | None, run_config: RunConfig) -> PerceptionVerifier | None:
    """The verifier component that --prm or the config names."""
    if entry is not None:
        return verifier_of(entry)
    return verifier_of(run_config.verifiers[0]) if run_config.verifiers else None


def _settings(
    options: Namespace, run_config: RunConfig, plan: Plan, verifier: PerceptionVerifier | None
) -> dict[str, Any]:
    chain = {k: v for k, v in vars(plan.refine).items() if k not in ("spans", "seed", "k", "reflect")}
    return {
        "policy": run_config.model.path,
        "verifier": None if verifier is None else verifier.spec(),
        "data": run_config.data.model_dump(mode="json")["evaluate"],
        "strategies": list(plan.strategies),
        "k": list(plan.ks),
        "chains": plan.chains,
        "top_p": options.top_p,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in chain.items()},
    }


def _same_settings(path: Path, settings: Mapping[str, Any], verifier: PerceptionVerifier | None) -> None:
    """Rows of other settings do not belong into one table."""
    if path.is_file():
        defaults: dict[str, Any] = dict(vars(RefineSettings()))
        if verifier is not None:
            defaults["verifier"] = {verifier.name: defaults_of(type(verifier))}
        if found := changes(read_json(path), settings, defaults):
            raise ValueError(
                f"{path.parent} holds results of other settings: {told(found)}; give its settings to go on, or "
                "another folder with -o"
            )
        return
    write_json(path, settings)


def _questions(run_config: RunConfig, verifier: PerceptionVerifier | None) -> tuple[list[Sample], Counter[str]]:
    """Questions that the verifier applies to, and why others are left out."""
    skipped: Counter[str] = Counter()
    kept = []
    refuses = None if verifier is None else verifier.refuses()
    for sample in held_out_samples(run_config):
        reason = refuses(sample) if refuses else ""
        if reason:
            skipped[reason] += 1
        else:
            kept.append(sample)
    if not kept:
        raise ValueError(f"no question is left to refine: {dict(skipped)}")
    return kept, skipped


def _answer(
    run_config: RunConfig,
    options: Namespace,
    plan: Plan,
    component: PerceptionVerifier | None,
    todo: Sequence[tuple[int, Sample]],
    folder: Path,
) -> None:
    from dataclasses import replace

    from mmcredit.policy.policy import Policy

    seed_everything(run_config.run.seed)
    policy = Policy.load(run_config.model, media_limits=run_config.data.media)
    engine = build("engine", run_config.rollout.engine).open(policy)  # type: ignore[attr-defined]
    context = RunContext(policy.tokenizer, folder, run_config.run.seed, run_config.data.media)
    verifier = None if component is None else component.backend(context)
    cut = replace(plan.refine, spans=_spans(component))
    try:
        with make_pool(run_config) as pool, console.status("refining") as status:
            for start in range(0, len(todo), options.batch):
                seed = todo[start][0]
                part = [s for own, s in todo[start : start + options.batch] if own == seed]
                rest = [s for own, s in todo[start : start + options.batch] if own != seed]
                for number, samples in ((seed, part), (seed if not rest else todo[start + len(part)][0], rest)):
                    if not samples:
                        continue
                    prompts = [policy.encode(s, run_config.data.max_prompt_tokens) for s in samples]
                    writer = EngineWriter(policy, engine, prompts, options.top_p)
                    own = replace(plan, refine=replace(cut, seed=number))
                    found = run_plan([query_of(s, "") for s in samples], writer, verifier, own)
                    _write_rows(samples, found, number, pool, run_config, folder)
                status.update(f"refining: {min(start + options.batch, len(todo))} of {len(todo)} questions")
    finally:
        engine.close()
        if verifier is not None:
            verifier.close()


def _spans(component: PerceptionVerifier | None) -> SpanSettings:
    """The component's own span settings; at test time the ladder ends with the fuzzy rung unless it was set."""
    if component is None:
        return SpanSettings(ladder=INFERENCE)
    ladder = component.ladder if "ladder" in component.model_fields_set else INFERENCE
    return SpanSettings(component.mode, component.occurrence, ladder, component.zone, component.max_mask_frac)


def _write_rows(
    samples: Sequence[Sample],
    found: Sequence[tuple[list[Result], list[dict[str, Any]]]],
    seed: int,
    pool: RewardPool,
    run_config: RunConfig,
    folder: Path,
) -> None:
    part = run_config.evaluate.reward or pool.names[0]
    texts = [(sample, text) for sample, (results, _) in zip(samples, found, strict=True) for text in _texts(results)]
    items = [
        RewardItem(text, s.answer, last_text(s), sample_id=s.id, meta=dict(s.meta)) for s, text in texts
    ]  # fmt: skip
    values = pool.score(items).parts[part]
    right = {(s.id, text): value > 0.5 for (s, text), value in zip(texts, values, strict=True)}
    lines, traces = [], []
    for sample, (results, trace) in zip(samples, found, strict=True):
        row = as_row(sample.id, sample.answer, results, lambda text, s=sample: right[(s.id, text)])  # type: ignore[misc]
        lines.append(json.dumps({"seed": seed, **row}))
        traces += [json.dumps({"id": sample.id, "seed": seed, **each}) for each in trace]
    # Traces first: a row that is there says that its question is done.
    for name, content in ((TRACES, traces), (ROWS, lines)):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in content))


def _texts(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.text for result in results))


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per strategy and k: accuracy with its interval over questions (mean over seeds), mean costs, stops."""
    groups: dict[tuple[str, int], list[tuple[str, Mapping[str, Any]]]] = {}
    for row in rows:
        for result in row["results"]:
            groups.setdefault((result["strategy"], result["k"]), []).append((row["id"], result))
    order = {name: i for i, name in enumerate(STRATEGIES)}
    found = []
    for (strategy, k), results in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        by_question: dict[str, list[float]] = {}
        for question, result in results:
            by_question.setdefault(question, []).append(float(result["right"]))
        accuracy = _accuracy(list(by_question.values()))
        n = len(results)

        def mean(name: str, results: list[tuple[str, Mapping[str, Any]]] = results, n: int = n) -> float:
            return sum(result[name] for _, result in results) / n

        names = ("policy_calls", "prm_calls", "policy_new_tokens", "policy_prefill_tokens", "prm_new_tokens")
        found.append(
            {
                "strategy": strategy,
                "k": k,
                "accuracy": accuracy.value,
                "low": accuracy.low,
                "high": accuracy.high,
                "questions": len(by_question),
                "answers": n,
                "generated_tokens": mean("generated_tokens"),
                "cycles": mean("cycles"),
                **{name: mean(name) for name in (*names, "prm_prefill_tokens")},
                "no_answer": sum(result["answer"] is None for _, result in results) / n,
                "stops": dict(Counter(result["stop"] for _, result in results)),
            }
        )
    return found


def _accuracy(values: Sequence[Sequence[float]]) -> Interval:
    """Wilson's interval with one seed; else normal over questions, whose seeds are averaged first."""
    means = [sum(v) / len(v) for v in values]
    if all(len(v) == 1 for v in values):
        return proportion(round(sum(means)), len(means))
    mean = sum(means) / len(means)
    variance = sum((m - mean) ** 2 for m in means) / max(1, len(means) - 1)
    half = Z95 * math.sqrt(variance / len(means))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), len(means))


def _print(summary: Sequence[Mapping[str, Any]]) -> None:
    table = Table()
    for heading in ("strategy", "k", "accuracy", "95 % interval", "tokens", "verifier's", "cycles"):
        table.add_column(heading, no_wrap=True)  # in 80 columns names would be cut short
    for row in summary:
        table.add_row(
            row["strategy"],
            str(row["k"]),
            f"{100 * row['accuracy']:.1f} %",
            f"{100 * row['low']:.1f} .. {100 * row['high']:.1f}",
            f"{row['generated_tokens']:.1f}",
            f"{row['prm_new_tokens']:.1f}",
            f"{row['cycles']:.2f}",
        )
    console.print(table)
