"""Ways to start the processes of a run: on two nodes (both on the loopback address here), and by DeepSpeed's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from runs import metrics, settings

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2", "--master-addr"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def launch(port: int, rank: int) -> list[str]:
    where = ["--nodes", "2", "--node-rank", str(rank), "--master", f"127.0.0.1:{port}"]
    return [sys.executable, "-m", "mmcredit.cli", "launch", "--processes", "1", *where]


def torchrun(port: int, rank: int) -> list[str]:
    where = ["127.0.0.1", "--master-port", str(port), "--node-rank", str(rank)]
    return [*TORCHRUN, *where, "-m", "mmcredit.cli", "train"]


def deepspeed(port: int, rank: int) -> list[str]:
    program = Path(sys.executable).with_name("deepspeed")
    words = ["--num_gpus", "2", "--master_port", str(port), "--no_local_rank", "--module", "mmcredit.cli", "train"]
    return [sys.executable, str(program), *words]


@pytest.mark.parametrize(("command", "nodes"), [(launch, 2), (torchrun, 2), (deepspeed, 1)])
def test_two_ranks_train_two_steps(tmp_path: Path, command, nodes: int) -> None:
    found = settings(tmp_path, run__steps=2, train__engine="deepspeed")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(found))
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    port = free_port()
    processes = [
        subprocess.Popen(
            [*command(port, rank), str(config), "--no-report"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(nodes)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * nodes, said[0][-3000:] + said[-1][-3000:]
    run = Path(found["run"]["dir"])
    assert [row["step"] for row in metrics(run)] == [0, 1], "each step is written once"
    if nodes == 2:
        assert "step" not in said[1], f"the second node has nothing to say: {said[1][-500:]}"
