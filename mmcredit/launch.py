"""`mmcredit launch`: several processes of one run, and one line where one of them fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from argparse import Namespace
from typing import Any


def launch(run: Any, options: Namespace) -> int:
    """Start a command (`train`, `sft` or `dpo`) N times through torch's elastic launcher and wait for the end.

    `run`: the checked config of the command.

    Raises ValueError for settings that do not fit, RuntimeError with the first failure of a process.
    """
    engine = run.train.engine if isinstance(run.train.engine, str) else next(iter(run.train.engine))
    if options.processes < 1 or options.nodes < 1 or not 0 <= options.node_rank < options.nodes:
        raise ValueError(
            f"--processes {options.processes} --nodes {options.nodes} --node-rank {options.node_rank}: at least one "
            "process and one node, and a node rank below --nodes"
        )
    if engine == "local" and options.processes * options.nodes > 1:
        raise ValueError("train.engine is local, which is one process; set train.engine=deepspeed")
    if options.nodes > 1 and not options.master:
        raise ValueError("--nodes: give the address of machine 0 with --master HOST:PORT")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it tells a failure in thirty lines
    os.environ["MMCREDIT_LAUNCHED"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.processes)))
    # Where processes say why they failed; the folder that torch would make is left behind.
    with tempfile.TemporaryDirectory(prefix="mmcredit-launch-") as folder:
        settings = LaunchConfig(
            min_nodes=options.nodes,
            max_nodes=options.nodes,
            nproc_per_node=options.processes,
            run_id=uuid.uuid4().hex if options.nodes == 1 else "mmcredit",
            rdzv_backend="c10d" if options.nodes == 1 else "static",
            rdzv_endpoint="localhost:0" if options.nodes == 1 else options.master,
            rdzv_configs={} if options.nodes == 1 else {"rank": options.node_rank},
            max_restarts=0,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(settings, sys.executable)("-m", "mmcredit.cli", options.what, *_words(options))
        except ChildFailedError as error:
            raise RuntimeError(_first(error)) from None
    return 0


def _words(options: Namespace) -> list[str]:
    """The arguments of the command."""
    words = [options.config]
    words += ["--method", options.method] if options.method else []
    words += ["--published"] if options.published else []
    words += ["--resume"] if options.resume else []
    words += ["--no-report"] if options.no_report else []
    for path in options.plugin:
        words += ["--plugin", str(path)]
    return [*words, *options.overrides]


def _first(error: Exception) -> str:
    """The first failure in words: what the process said, or how it ended."""
    rank, failure = error.get_first_failure()  # type: ignore[attr-defined]
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return f"rank {rank} was ended by {name}; the other processes were stopped; the run goes on with --resume"
    said = failure.message if failure.error_file != "<N/A>" else ""
    if isinstance(said, dict):  # as torch's own recorder writes it
        said = said.get("message", "")
    return said or f"rank {rank} ended with exit code {failure.exitcode}; its messages stand above"
