"""What a run writes down, and how it is read back: config, versions, metrics, evaluations, events, samples, cost.

Everything lies in the run directory as plain YAML, JSON, JSONL and parquet, readable without this package. `Records`
holds the writers of a running run; `load_run` reads a directory back, whether the run ended, goes on or was killed.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mmcredit.report import files
from mmcredit.report.files import Lines, read_json, read_lines, replace_file, write_json
from mmcredit.report.samples import MediaStore, SampleRow, SampleWriter

__all__ = [
    "EvaluationWriter",
    "EventWriter",
    "MediaStore",
    "MetricsWriter",
    "NoRecords",
    "Records",
    "Run",
    "SampleRow",
    "SampleWriter",
    "load_run",
]

LEVELS = ("info", "warning", "error")
KINDS = ("alarm", "drop", "note", "checkpoint")


class EventWriter:
    """`events.jsonl`: what happened besides the numbers. A log: lines are never taken back.

    After a resume the replayed steps say the same things again; `load_run` shows an identical event once.
    """

    def __init__(self, run_dir: Path, resume_step: int = 0) -> None:
        self._lines = Lines(Path(run_dir) / files.EVENTS, keep=(lambda row: True) if resume_step else None)
        self.broken = self._lines.broken

    def write(
        self,
        step: int,
        message: str,
        *,
        kind: Literal["alarm", "drop", "note", "checkpoint"] = "note",
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """One event. `data` holds its details as plain JSON values; for a drop: `reason` and `count`."""
        if kind not in KINDS or level not in LEVELS:
            raise ValueError(f"event kind {kind!r}, level {level!r}: kinds are {KINDS}, levels {LEVELS}")
        row = {"step": step, "time": time.time(), "level": level, "kind": kind, "message": message}
        self._lines.append({**row, "data": _plain(data or {})})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class MetricsWriter:
    """`metrics.jsonl`: one line per step; TensorBoard and Weights & Biases beside it if asked for.

    `resume_step` is the first step that will be written (again): lines from it on are taken out of the file and of the
    TensorBoard view. 0 starts an empty file. NaN and infinity are written as null, and reported as an event.

    Raises ValueError if Weights & Biases is asked for and not installed.
    """

    def __init__(
        self,
        run_dir: Path,
        resume_step: int = 0,
        *,
        events: EventWriter | None = None,
        tensorboard: bool = False,
        wandb: str | None = None,
        wandb_config: Mapping[str, Any] | None = None,
    ) -> None:
        run_dir = Path(run_dir)
        keep = (lambda row: row.get("step", -1) < resume_step) if resume_step else None
        self._lines = Lines(run_dir / files.METRICS, keep)
        self.removed, self.broken = self._lines.removed, self._lines.broken
        self._events = events
        self._board: Any = None
        self._wandb: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step or None)
        if wandb:
            try:
                import wandb as tracker
            except ImportError:
                raise ValueError(
                    "log.wandb is set, but wandb is not installed: pip install 'mmcredit[tracking]'"
                ) from None
            self._wandb = tracker.init(
                project=wandb, name=run_dir.name, dir=str(run_dir), config=dict(wandb_config or {})
            )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step. Raises ValueError for a value that is no number."""
        row: dict[str, Any] = {"step": step, "time": time.time()}
        lost: dict[str, str] = {}
        for name, value in metrics.items():
            number = _number(name, value)
            if not math.isfinite(number):
                lost[name] = str(number)
            row[name] = number if math.isfinite(number) else None
        self._lines.append(row)
        if lost and self._events is not None:
            said = ", ".join(f"{name} is {value}" for name, value in lost.items())
            self._events.write(step, f"not finite: {said}", kind="alarm", level="warning", data=lost)
        kept = {name: value for name, value in row.items() if name not in ("step", "time") and value is not None}
        if self._board is not None:
            for name, value in kept.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(kept, step=step)

    def close(self) -> None:
        """Close the file and the trackers."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class EvaluationWriter:
    """`evaluations.jsonl`: one line per evaluation. Of a repeated (step, name, mode), reading takes the last."""

    def __init__(self, run_dir: Path, resume_step: int = 0) -> None:
        # <=: the evaluation before the first replayed step may carry its number, and is not made again.
        keep = (lambda row: row.get("step", -1) <= resume_step) if resume_step else None
        self._lines = Lines(Path(run_dir) / files.EVALUATIONS, keep)
        self._answers = Lines(Path(run_dir) / files.ANSWERS, keep)

    def answers(self, step: int, name: str, mode: str, right: Mapping[str, float]) -> None:
        """`answers.jsonl`: the share of right answers (`right`) by question id, for what compares runs question by
        question. Questions that could not be judged are left out."""
        self._answers.append({"step": step, "name": name, "mode": mode, "right": dict(right)})

    def write(
        self,
        step: int,
        name: str,
        *,
        n: int,
        accuracy: float,
        low: float,
        high: float,
        mode: str = "greedy",
        **more: float | str | None,
    ) -> None:
        """`accuracy` of `n` questions with its 95 % interval `low`..`high`, after `step` steps; `more` as it comes.

        A paired interval of the gain over the first evaluation goes into `gain`, `gain_low`, `gain_high`.
        """
        row = {"step": step, "time": time.time(), "name": name, "mode": mode, "n": n, "accuracy": accuracy}
        self._lines.append(_plain({**row, "low": low, "high": high, **more}))

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        self._answers.close()


class Records:
    """All writers of a running run. `resume_step` as in `MetricsWriter`; 0 starts afresh."""

    def __init__(
        self,
        run_dir: Path,
        resume_step: int = 0,
        *,
        tensorboard: bool = False,
        wandb: str | None = None,
        wandb_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.events = EventWriter(self.run_dir, resume_step)
        self.metrics = MetricsWriter(
            self.run_dir,
            resume_step,
            events=self.events,
            tensorboard=tensorboard,
            wandb=wandb,
            wandb_config=wandb_config,
        )
        self.evaluations = EvaluationWriter(self.run_dir, resume_step)
        self.samples = SampleWriter(self.run_dir, resume_step)
        self.media = MediaStore(self.run_dir)

    def write_config(self, text: str) -> None:
        """The resolved config, as YAML text."""
        replace_file(self.run_dir / files.CONFIG, text)

    def write_versions(self, versions: Mapping[str, Any]) -> None:
        """Package versions, device, threads, commit."""
        write_json(self.run_dir / files.VERSIONS, _plain(versions))

    def write_cost(self, cost: Mapping[str, Any]) -> None:
        """Totals so far: `stages`, `passes`, `methods` (each name -> numbers), `peak_memory_mb`, `steps`."""
        write_json(self.run_dir / files.COST, _plain(cost))

    def close(self) -> None:
        """Close every file."""
        for writer in (self.metrics, self.evaluations, self.events):
            writer.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NoRecords:
    """In place of `Records` in a process that writes nothing: every writer takes everything and does nothing."""

    def __getattr__(self, name: str) -> NoRecords:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Run:
    """A run directory as read back."""

    path: Path
    config_text: str
    config: dict[str, Any]
    versions: dict[str, Any]
    metrics: list[dict[str, Any]]  # by step, the last line of a step
    evaluations: list[dict[str, Any]]  # by step, the last of each (step, name, mode)
    events: list[dict[str, Any]]  # in order, identical ones once
    cost: dict[str, Any]
    sample_files: dict[int, Path]  # step -> parquet
    unreadable: dict[str, int] = field(default_factory=dict)  # file -> lines that could not be read
    answers: list[dict[str, Any]] = field(default_factory=list)  # as evaluations; empty in runs of older versions


def load_run(run_dir: str | Path) -> Run:
    """Read a run directory. Only the config and the metrics file must be there.

    Raises ValueError if the directory is missing or is no run, and for a config or JSON file that cannot be parsed.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise ValueError(f"no run directory {str(path)!r}; give the directory that `mmcredit train` printed (run.dir)")
    missing = [name for name in (files.CONFIG, files.METRICS) if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path} is not a run directory: {' and '.join(missing)} not found; it is written when training starts"
        )
    text = (path / files.CONFIG).read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path / files.CONFIG}: not valid YAML: {error}") from None
    rows: dict[str, list[dict[str, Any]]] = {}
    unreadable: dict[str, int] = {}
    for name in (files.METRICS, files.EVALUATIONS, files.EVENTS, files.ANSWERS):
        found, broken = read_lines(path / name)
        rows[name] = [row for row in found if isinstance(row.get("step"), int)]
        broken += len(found) - len(rows[name])
        if broken:
            unreadable[name] = broken
    metrics = {row["step"]: row for row in rows[files.METRICS]}
    evaluations, answers = (
        {(row["step"], str(row.get("name")), str(row.get("mode"))): row for row in rows[name]}
        for name in (files.EVALUATIONS, files.ANSWERS)
    )
    events = {(e["step"], e.get("level"), e.get("kind"), e.get("message")): e for e in rows[files.EVENTS]}
    return Run(
        path=path,
        config_text=text,
        config=config if isinstance(config, dict) else {},
        versions=read_json(path / files.VERSIONS),
        metrics=[metrics[step] for step in sorted(metrics)],
        evaluations=[evaluations[key] for key in sorted(evaluations)],
        events=list(events.values()),
        cost=read_json(path / files.COST),
        sample_files=SampleWriter.find(path),
        unreadable=unreadable,
        answers=[answers[key] for key in sorted(answers) if isinstance(answers[key].get("right"), dict)],
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, numbers.Real):
        return int(value) if isinstance(value, bool | numbers.Integral) else float(value)
    if callable(getattr(value, "item", None)):
        return _number(name, value.item())  # a tensor or array of one element; torch raises for more
    raise ValueError(f"metric {name!r} must be a number, got {value!r}")


def _plain(value: Any) -> Any:
    """`value` as JSON has it: keys are text, NaN and infinity are null, what JSON does not know is its text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Real):
        number = _number("", value)
        return number if math.isfinite(number) else None
    return str(value)
