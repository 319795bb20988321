"""Runs of several processes for tests: `launch` starts this file on N ranks, which go through a list of scenarios.

A scenario: `config` as plain data, `resume`, `plugin` (a module of tests), and `error`: part of the RuntimeError that
ends the run on every rank.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def launch(folder: Path, scenarios: list[dict[str, Any]], ranks: int, timeout: float = 600) -> None:
    """Run scenarios one after the other on `ranks` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "scenarios.json"
    plan.write_text(json.dumps(scenarios))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__, str(plan)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]


def _main(plan: Path) -> None:
    from mmcredit import config
    from mmcredit.train.loop import Trainer

    for scenario in json.loads(plan.read_text()):
        if "plugin" in scenario:  # a module of tests
            importlib.import_module(scenario["plugin"])
        trainer = Trainer(config.parse(scenario["config"]), resume=scenario.get("resume", False))
        try:
            trainer.run()
        except RuntimeError as error:
            if "error" not in scenario or scenario["error"] not in str(error):
                raise
        else:
            assert "error" not in scenario, f"the run did not end with {scenario['error']!r}"


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        # Sets of names come in another order on every rank, as without the variable, but in the same one in every run.
        # Between 3 and 4 the pairs of outputs that methods ask for differ.
        os.environ["PYTHONHASHSEED"] = str(3 + int(os.environ["RANK"]))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    _main(Path(sys.argv[1]))
