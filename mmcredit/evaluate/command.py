"""`mmcredit evaluate` for benchmarks and for corrupted images."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from mmcredit.components import build_all, explain
from mmcredit.evaluate.ask.answer_lines import Rows, answer_row, file_stem, skipped_row
from mmcredit.evaluate.ask.cells import BATCH, Answer, Skipped, answer_cells
from mmcredit.evaluate.ask.questions import Target, benchmark_target, held_out_target, listed, read_benchmarks
from mmcredit.evaluate.ask.settings import CORRUPTION_SEED, cells_of, setting_defaults, settings_of, suite_of
from mmcredit.evaluate.benchmarks.referee import Referee
from mmcredit.evaluate.decoded import entry_of, open_engine
from mmcredit.evaluate.held_out import evaluation_sampling, evaluation_seeds
from mmcredit.evaluate.judge.results import collect
from mmcredit.evaluate.judge.robustness import Judge, benchmark_judge, judged, reward_judge
from mmcredit.evaluate.options import take
from mmcredit.evaluate.show import terminal as output
from mmcredit.evaluate.show.examples import examples
from mmcredit.evaluate.show.page import write_page
from mmcredit.evaluate.usable import check_share
from mmcredit.policy.policy import Policy
from mmcredit.prepare import make_pool
from mmcredit.rollout.strategies.base import reacting

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.config import RunConfig
    from mmcredit.evaluate.ask.cells import Cell
    from mmcredit.evaluate.benchmarks.base import Benchmark
    from mmcredit.judge import JudgeConfig
    from mmcredit.rollout.engine import RolloutEngine
    from mmcredit.rollout.strategies.base import Strategy

Bar = Callable[..., AbstractContextManager[Callable[[int], None]]]  # bar(name, total) -> advance(count)


def run(config: RunConfig, options: Namespace, console: Console, bar: Bar) -> int:
    """Answer, judge, add up, write. An interrupted evaluation goes on when the same command is given again."""
    take(config, options)
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    benchmarks = [] if options.benchmark is None else read_benchmarks(listed(options.benchmark), options.scoring)
    suite = suite_of(None if options.config is None else config)
    cells = cells_of(options.corrupt, options.severity, suite)
    folder = options.output or Path("runs") / "evaluate" / file_stem(config.model.path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"-o {folder} is a file; with --benchmark or --corrupt a folder is wanted")
    judge = _judge_config(options, folder)
    decoding = None if options.decoding is None else entry_of(options.decoding)
    with ExitStack() as stack:
        with console.status("loading the questions"):
            targets = _targets(config, options, benchmarks)
        sampling = evaluation_sampling(config)
        files = [
            stack.enter_context(
                Rows(
                    folder / f"{target.name}.jsonl",
                    settings_of(config, target, cells, sampling, judge)
                    | ({} if decoding is None else {"decoding": decoding}),
                    config.evaluate.samples,
                    setting_defaults(),
                )
            )
            for target in targets
        ]
        for rows in files:
            output.print_resumed(rows, console)
        with console.status("loading the model"):
            policy = Policy.load(config.model, media_limits=config.data.media)
            engine: Any = open_engine(config, policy, decoding)
            opened = engine
        stack.callback(engine.close)
        strategies: list[Strategy] = build_all("strategy", config.rollout.strategies)  # type: ignore[assignment]
        answering = stack.enter_context(reacting(engine, strategies, policy))
        judging = _Judging(config, judge, stack)
        results = []
        try:
            for target, rows in zip(targets, files, strict=True):
                _answer(policy, answering, config, target, cells, rows, judging.of(target), options.batch or BATCH, bar)
                results.append(collect(target, rows, cells, suite, config.evaluate.chosen_k))
                output.print_results(results[-1], console)
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on from here", highlight=False)
            return 130
        with console.status("writing the page"):
            shown = [
                examples(policy, target, rows, result, cells)
                for target, rows, result in zip(targets, files, results, strict=True)
            ]
            about = output.about(config, cells, sampling, CORRUPTION_SEED) | judging.counts()
            written = [
                *(rows.path for rows in files),
                output.write_summary(results, about, folder / "summary.json"),
                write_page(results, shown, about, folder / "evaluate.html"),
            ]
    output.print_judging(about, console)
    if decoding is not None:
        console.print(
            "decoding: " + ", ".join(f"{name} {value:.4g}" for name, value in opened.report().items()), highlight=False
        )
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0


def _targets(config: RunConfig, options: Namespace, benchmarks: Sequence[Benchmark]) -> list[Target]:
    if not benchmarks:
        return [held_out_target(config)]
    # With a config evaluate.limit bounds its held-out questions, not the benchmarks.
    limit = options.limit if options.config is not None else config.evaluate.limit
    return [benchmark_target(b, options.data_root, config, limit) for b in benchmarks]


def _judge_config(options: Namespace, folder: Path) -> JudgeConfig | None:
    from mmcredit.judge import JudgeConfig

    if options.judge_url is None:
        return None
    try:
        return JudgeConfig(
            base_url=options.judge_url,
            model=options.judge_model,
            api_key_env=options.judge_key_env,
            cache=folder / "judge.jsonl",
        )
    except ValidationError as error:
        raise ValueError(f"judge: {explain(error, JudgeConfig)}") from None


class _Judging:
    """Who judges: rewards for the held-out questions, a referee for benchmarks. Started when first asked for."""

    def __init__(self, config: RunConfig, judge: JudgeConfig | None, stack: ExitStack) -> None:
        from mmcredit.judge import Judge as JudgeModel

        self.config, self.stack = config, stack
        self.model = None if judge is None else JudgeModel(judge)
        self._referee: Referee | None = None

    def of(self, target: Target) -> Judge:
        """The judge of a target."""
        if target.benchmark is None:
            pool = self.stack.enter_context(make_pool(self.config))
            return reward_judge(pool, self.config.evaluate.reward or pool.names[0])
        if self._referee is None:
            workers = self.config.reward_workers.count
            self._referee = self.stack.enter_context(Referee(self.model, workers=workers))
        return benchmark_judge(target.benchmark, self._referee)

    def counts(self) -> dict[str, Any]:
        """What was asked of worker processes and the judge model in this call, and what went wrong."""
        return {
            "referee": {} if self._referee is None else dict(self._referee.counts),
            "judge": {} if self.model is None else dict(self.model.counts),
            "judge_errors": [] if self.model is None else list(self.model.first_errors),
        }


def _answer(
    policy: Policy,
    engine: RolloutEngine,
    config: RunConfig,
    target: Target,
    cells: Sequence[Cell],
    rows: Rows,
    judge: Judge,
    batch: int,
    bar: Bar,
) -> None:
    """Answer what is missing in the rows of a target, and write it down batch by batch."""
    n, attempts = len(target.samples), config.evaluate.samples
    todo = sum(not rows.done(i, cell.label) for cell in cells for i in range(n)) * attempts
    messages: list[str] = []
    with bar(f"{target.name}: answers", todo) as advance:
        for found in answer_cells(
            policy,
            engine,
            target.samples,
            cells,
            sampling=evaluation_sampling(config),
            seeds=lambda id: evaluation_seeds(config, id),
            seed=CORRUPTION_SEED,
            max_prompt_tokens=config.data.max_prompt_tokens,
            batch=batch,
            done=rows.done,
            progress=advance,
        ):
            done = judged(found, judge)
            rows.append(
                [
                    skipped_row(target.name, item) if isinstance(item, Skipped) else answer_row(target.name, *item)
                    for item in done
                ]
            )
            messages += [item.message for item in found if isinstance(item, Skipped) and item.cell is None]
            if target.benchmark is None:
                check_share(rows.unusable, n, config.check.max_unusable_held_out, messages)
            skipped = [item for item in found if not isinstance(item, Answer)]
            advance(sum(len(cells) if item.cell is None else 1 for item in skipped) * attempts)
