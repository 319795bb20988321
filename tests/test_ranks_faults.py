"""What happens when a process of a run dies, hangs or crawls: one clear line, and a run that can be resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import metrics, settings

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")


def start(tmp_path: Path, *words: str, timeout: float = 600.0, **changes: Any) -> tuple[subprocess.Popen[str], Path]:
    """A run of 2 processes that would take long, and its folder."""
    run = {"run__steps": 400, "checkpoint__every": 2, "train__engine": {"deepspeed": {"stage": 2, "timeout": timeout}}}
    found = settings(tmp_path, **(run | changes))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(found))
    command = [sys.executable, "-m", "mmcredit.cli", "launch", "--processes", "2", str(config), "--no-report", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    return process, Path(found["run"]["dir"])


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks, by rank."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = dict(
                p.split("=", 1) for p in status.read_bytes().decode(errors="replace").split("\0") if "=" in p
            )
            parent = (status.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        if int(parent) == process.pid and "RANK" in environment:
            found[int(environment["RANK"])] = int(status.parent.name)
    return [found[rank] for rank in sorted(found)]


def wait_for_steps(run_dir: Path, process: subprocess.Popen[str], steps: int) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        file = run_dir / "metrics.jsonl"
        if file.exists() and len(file.read_text().splitlines()) >= steps:
            return
        time.sleep(0.2)
    raise AssertionError(f"the run did not come to step {steps}: {process.communicate()[1][-3000:]}")


def ended(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """What a run that has to end says on its standard error."""
    try:
        _, said = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return said


def resume(tmp_path: Path, run_dir: Path) -> None:
    """The run goes on to 2 steps after its newest checkpoint, every step once."""
    newest = max(int(p.name[5:]) for p in (run_dir / "checkpoints").glob("step-*"))
    process, _ = start(tmp_path, "--resume", run__steps=newest + 2)
    said = ended(process, 240)
    assert process.returncode == 0, said
    assert [row["step"] for row in metrics(run_dir)] == list(range(newest + 2))


def test_a_rank_that_is_killed_ends_the_run_in_one_line(tmp_path: Path) -> None:
    process, run_dir = start(tmp_path)
    wait_for_steps(run_dir, process, 3)
    os.kill(ranks(process)[1], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        "mmcredit: error: rank 1 was ended by SIGKILL; the other processes were stopped; the run goes on with --resume"
    )
    resume(tmp_path, run_dir)


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_hangs_is_found_within_the_deadline(tmp_path: Path, which: int) -> None:
    process, run_dir = start(tmp_path, timeout=5.0)
    wait_for_steps(run_dir, process, 3)
    os.kill(ranks(process)[which], signal.SIGSTOP)
    said = ended(process)
    assert process.returncode == 1
    assert f"rank {which} in stage" in said
    assert "showed no progress for 5 s" in said
    assert "_watch" in said  # the stacks of the other rank
    resume(tmp_path, run_dir)


def test_a_rank_that_is_slow_is_waited_for(tmp_path: Path) -> None:
    process, run_dir = start(tmp_path, timeout=6.0, run__steps=8)
    wait_for_steps(run_dir, process, 2)
    for _ in range(3):  # stopped for a while each, less than the deadline
        os.kill(ranks(process)[1], signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(ranks(process)[1], signal.SIGCONT)
        time.sleep(0.5)
    said = ended(process, 240)
    assert process.returncode == 0, said
    assert [row["step"] for row in metrics(run_dir)] == list(range(8))


def test_a_mistake_that_all_ranks_meet_is_said_once(tmp_path: Path) -> None:
    process, _ = start(tmp_path, model__path=str(tmp_path / "nothing"))
    said = ended(process)
    assert process.returncode == 1
    assert said.count("no such folder") == 1


def test_a_mistake_that_one_rank_meets_ends_the_run_in_its_words(tmp_path: Path) -> None:
    plugin = Path(__file__).with_name("rank_faults.py")
    process, _ = start(tmp_path, "--plugin", str(plugin), credit=["grpo", {"of_this_process": {"fails": True}}])
    said = ended(process)
    assert process.returncode == 1
    line = r"mmcredit: error: credit method 'of_this_process' \(rank_faults.py:\d+\): broken on this rank alone"
    assert re.fullmatch(line, said.splitlines()[-1])


def test_the_local_engine_refuses_several_processes(tmp_path: Path) -> None:
    process, _ = start(tmp_path, train__engine="local")
    said = ended(process)
    assert process.returncode == 2
    assert "set train.engine=deepspeed" in said
    assert json.dumps(said).count("error") == 1
