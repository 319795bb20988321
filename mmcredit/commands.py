"""What each command of `mmcredit` does. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmcredit import components, config, config_files, yaml_values
from mmcredit.deferred import load_now

if TYPE_CHECKING:
    from mmcredit.config import RunConfig

console = Console(markup=False)  # names, paths and texts of runs may hold brackets
PAGE_WIDTH = 116  # columns: longer lines are hard to read, and the formulas of the pages fit


def _load(options: Namespace) -> RunConfig:
    for path in options.plugin:
        components.load_plugin(path)
    return config.load(options.config, options.method, options.overrides, published=options.published)


def train(options: Namespace) -> int:
    """Train, evaluate before and after, write the report."""
    run = _load(options)
    if options.dry_run:
        console.print(config.dump(run), highlight=False, markup=False, end="", soft_wrap=True)
        return 0
    _quiet_libraries()
    from mmcredit.train.loop import Trainer
    from mmcredit.train.progress import Progress

    with console.status("loading the model and the data"):
        trainer = Trainer(run, resume=options.resume, progress=Progress(console))
    if not trainer.world.writes:
        trainer.run()
        trainer.world.leave()
        return 0
    names = " + ".join(method.name for method in trainer.parts.pipeline.methods)
    console.print(
        f"{run.run.name}: {run.model.path}, credit {names}, {len(trainer.parts.samples)} training samples, "
        f"{run.rollout.prompts} prompts x {run.rollout.group} responses a step, {run.run.steps} steps",
        highlight=False,
    )
    outcome = trainer.run()
    if outcome.before is not None and outcome.after is not None and outcome.gain is not None:
        table = Table("held-out accuracy", "value", "95 % interval", "questions")
        for name, interval in (
            ("before", outcome.before.accuracy),
            ("after", outcome.after.accuracy),
            ("gain (paired)", outcome.gain),
        ):
            bounds = f"{100 * interval.low:.1f} .. {100 * interval.high:.1f}"
            table.add_row(name, f"{100 * interval.value:.1f} %", bounds, str(interval.n))
        console.print(table)
        _print_left_out(outcome.after)
    console.print(f"training proper took {outcome.seconds:.0f} s; run directory: {outcome.run_dir}", highlight=False)
    console.print(f"on disk: {_on_disk(outcome.run_dir)}", highlight=False)
    if not options.no_report:
        from mmcredit.report import render

        console.print(f"report: {render(outcome.run_dir)}", highlight=False, soft_wrap=True)
    trainer.world.leave()
    return 0


def sft(options: Namespace) -> int:
    """Supervised fine-tuning."""
    load_now()
    from mmcredit.supervised.config import SFTConfig, load

    for path in options.plugin:
        components.load_plugin(path)
    run = load(SFTConfig, options.config, options.overrides)
    if options.dry_run:
        _print_config(run)
        return 0
    _quiet_libraries()
    from mmcredit.supervised.command import run as fit

    return fit(run, options, console)


def dpo(options: Namespace) -> int:
    """Preference optimisation."""
    load_now()
    from mmcredit.preference.config import DPOConfig
    from mmcredit.supervised.config import load

    for path in options.plugin:
        components.load_plugin(path)
    words = [] if options.from_run is None else [f"data.from_run.run={options.from_run}", "data.train=null"]
    run = load(DPOConfig, options.config, [*words, *options.overrides])
    if options.dry_run:
        _print_config(run)
        return 0
    _quiet_libraries()
    from mmcredit.preference.command import run as fit

    return fit(run, options, console, _bar)


def _print_config(run: Any) -> None:
    text = yaml_values.dump(run.model_dump(mode="json"))
    console.print(text, highlight=False, markup=False, end="", soft_wrap=True)


def launch(options: Namespace) -> int:
    """Start `mmcredit train`, `sft` or `dpo` on several processes."""
    run: Any  # a mistake in the config is said once, before anything is started
    if options.what == "train":
        run = _load(options)
    else:
        from mmcredit.preference.config import DPOConfig
        from mmcredit.supervised.config import SFTConfig, load

        odd = [name for name in ("method", "published", "no_report") if getattr(options, name)]
        if odd:
            raise ValueError(f"--{odd[0].replace('_', '-')} belongs to --what train, not to --what {options.what}")
        for path in options.plugin:
            components.load_plugin(path)
        run = load(SFTConfig if options.what == "sft" else DPOConfig, options.config, options.overrides)
    load_now()
    from mmcredit.launch import launch as start

    return start(run, options)


def serve_rollouts(options: Namespace) -> int:
    """Serve rollouts over HTTP."""
    load_now()
    from mmcredit.rollout.serving.command import serve

    return serve(options, yaml_values.plain(yaml_values.read(options.engine)))


def evaluate(options: Namespace) -> int:
    """Held-out accuracy of one model; benchmarks and corrupted images."""
    from mmcredit.evaluate import options as chosen

    if options.config is not None and "=" in options.config and not Path(options.config).is_file():
        options.overrides, options.config = [options.config, *options.overrides], None  # no CONFIG, overrides only
    chosen.check_options(options)
    if options.config is None:
        for path in options.plugin:
            components.load_plugin(path)
        run = chosen.default_config(options)
    else:
        run = _load(options)
    # An adapter is merged: an evaluation trains nothing.
    run.model = run.model.at(options.model or run.model.path, lora=None)
    _several_answers(run, options)
    if options.benchmark is None and run.data.evaluate is None:
        raise ValueError("data.evaluate is not set; name the source of the questions there")
    if chosen.goes_further(options):
        _quiet_libraries()
        from mmcredit.evaluate import command

        return command.run(run, options, console, _bar)
    chosen.take(run, options)
    _quiet_libraries()
    if options.decoding is not None or options.frugal is not None:
        from mmcredit.evaluate import comparing

        return comparing.run(run, options, console, _bar)
    from mmcredit.evaluate.held_out import evaluate_model

    with _bar("answers to held-out questions") as advance:
        found, rows = evaluate_model(run, advance)
    console.print(f"accuracy {found}", highlight=False)
    _print_left_out(found)
    if found.scores:
        at = f"{run.evaluate.samples} answers at T={run.evaluate.temperature:g}"
        table = Table(at, "value", "95 % interval", "questions")
        for name, score in found.scores.items():
            bounds = f"{100 * score.low:.1f} .. {100 * score.high:.1f}"
            table.add_row(name, f"{100 * score.value:.1f} %", bounds, str(score.n))
        console.print(table)
    for name, value in found.parts.items():
        console.print(f"  {name}: {value:.3f}", highlight=False)
    console.print(f"  mean length {found.mean_length:.1f} tokens, truncated {found.truncated:.1%}", highlight=False)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        console.print(f"answers: {options.output}", highlight=False)
    return 0


def _on_disk(folder: Path) -> str:
    """What a run takes, MiB: in all, and its largest parts."""
    from mmcredit.report.files import size_mb

    parts = {path.name: size_mb(path) for path in folder.iterdir() if path.is_dir()}
    largest = sorted(parts, key=lambda name: -parts[name])[:3]
    inside = ", ".join(f"{name} {parts[name]:,.1f}" for name in largest if parts[name] >= 0.05)
    return f"{size_mb(folder):,.1f} MiB" + (f" ({inside})" if inside else "")


def _print_left_out(found: Any) -> None:
    """The questions behind no number, by name."""
    names = list(found.not_applicable)
    if names:
        more = ", ..." if len(names) > 5 else ""
        console.print(f"  not applicable (no reference answer): {', '.join(names[:5])}{more}", highlight=False)
    if found.dropped:
        console.print(f"  unusable: {found.dropped}", highlight=False)


def _several_answers(run: RunConfig, options: Namespace) -> None:
    """Lay --samples, --temperature and --k over the config. Several answers need a temperature: by default the one
    that rollouts are sampled at."""
    changes: dict[str, Any] = {}
    words = [] if options.k is None else options.k.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--k must be whole numbers with commas between, such as 1,2,4, got {options.k!r}")
    if options.samples is None and words and max(map(int, words)) > run.evaluate.samples:
        options.samples = max(map(int, words))  # --k 8 alone asks for eight answers
    if options.samples is not None:
        changes["samples"] = options.samples
        if options.samples > 1 and run.evaluate.temperature == 0:
            changes["temperature"] = run.rollout.sampling.temperature
    if options.temperature is not None:
        changes["temperature"] = options.temperature
    if words:
        changes["k"] = [int(word) for word in words]
    elif options.samples is not None:
        changes["k"] = None
    if changes:
        run.evaluate = config.block(config.EvaluateBlock, run.evaluate.model_dump() | changes, "evaluate")


def check(options: Namespace) -> int:
    """Preflight."""
    run = _load(options)
    _quiet_libraries()
    from mmcredit.train.preflight.command import run as preflight

    return preflight(run, options.samples, console)


def methods(options: Namespace) -> int:
    """The table of components, or one's page."""
    for path in options.plugin:
        components.load_plugin(path)
    if options.kind is not None and options.kind not in components.HOMES:
        raise ValueError(f"unknown kind {options.kind!r}; {components.nearest(options.kind, components.HOMES)}")
    kinds = [options.kind] if options.kind else list(components.HOMES)
    if options.name is not None:
        found = [components.lookup(kind, options.name) for kind in kinds if options.name in components.names(kind)]
        if not found:
            every = [name for kind in kinds for name in components.names(kind)]
            raise ValueError(f"no component {options.name!r}; {components.nearest(options.name, every)}")
        for cls in found:
            console.print(
                components.page(cls, min(console.width, PAGE_WIDTH)), highlight=False, markup=False, soft_wrap=True
            )
        return 0
    for kind in kinds:
        names = components.names(kind)
        if not names:
            continue
        table = Table(kind, "what it does", show_lines=False)
        for name in names:
            table.add_row(name, components.headline(components.lookup(kind, name)))
        console.print(table)
    if options.kind is None and (recipes := config_files.recipes()):
        table = Table("recipe (--method)", "what it sets", show_lines=False)
        for name, about in recipes.items():
            table.add_row(name, about)
        console.print(table)
    return 0


def merge(options: Namespace) -> int:
    """An adapter and its base as one plain model folder."""
    _quiet_libraries()
    from mmcredit.policy.merge import merge as write
    from mmcredit.report.files import size_mb

    with console.status("merging"):
        dtype = write(
            options.model, options.output, base=options.base, dtype=options.dtype, trust_remote_code=options.trust
        )
    size = size_mb(options.output)
    console.print(f"{options.output}: {size:,.1f} MiB, {str(dtype).removeprefix('torch.')}", highlight=False)
    return 0


def diagnose(options: Namespace) -> int:
    """Divergence of checkpoints, cross-sampling, tokenisation drift."""
    run = _load(options)
    _quiet_libraries()
    from mmcredit.diagnose import command

    return command.run(run, options, console, _bar)


def replay(options: Namespace) -> int:
    """Frozen rollouts through several credit methods."""
    for path in options.plugin:
        components.load_plugin(path)
    if options.groups < 0:
        raise ValueError(f"--groups must be at least 0, got {options.groups}")
    _quiet_libraries()
    from mmcredit.replay import files
    from mmcredit.replay.compare import Options
    from mmcredit.replay.compare import replay as compare
    from mmcredit.replay.page import write_page

    wanted = Options(
        options.methods, options.model, options.recompute, not options.no_gradient, tuple(options.overrides)
    )
    with _stages() as stage:
        found = compare(options.rollouts, wanted, stage)
    output = options.output or options.rollouts / "replay"
    for table in files.terminal_tables(found, console.width):
        console.print(table)
    for label, why in found.refused.items():
        console.print(f"not replayable: {label} {why}", highlight=False, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    written = (
        files.write_parquet(found, output / files.TABLE),
        files.write_numbers(found, output / files.NUMBERS),
        write_page(found, output / files.PAGE, options.groups),
    )
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def corruptions(options: Namespace) -> int:
    """A contact sheet of all image corruptions."""
    from mmcredit.corruptions import run_sheet

    console.print(str(run_sheet(options.image, options.output, seed=options.seed)), highlight=False, soft_wrap=True)
    return 0


@contextmanager
def _bar(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields `advance(count)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=total)
        yield lambda count: bars.advance(task, count)


@contextmanager
def _stages() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """One progress bar after the other; yields `stage(name, total) -> advance(count)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def stage(name: str, total: int) -> Callable[[int], None]:
            for old in bars.task_ids:
                bars.remove_task(old)
            task = bars.add_task(name, total=total)
            return lambda count: bars.advance(task, count)

        yield stage


def _quiet_libraries() -> None:
    """Load torch, then transformers without its progress bars and advice, which would break ours."""
    load_now()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry of a download would be a line
