"""Exchanges between real processes (gloo), each with its own order of sets, as ranks have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from mmcredit.world import ProcessGroup

rank, meet, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
names = frozenset({"logprobs", "entropy"})
own = {name: torch.full((2,), float(10 * (name == "entropy") + rank)) for name in names}
world = ProcessGroup()
found = world.totals(own)
world.agree("prompts", ["a", "b"])
try:
    world.agree("prompts", ["a", f"b{rank}"])
    said = None
except RuntimeError as error:
    said = str(error)
told = {"order": list(names), "found": {name: value.tolist() for name, value in found.items()}, "said": said}
with open(out, "w") as file:
    json.dump(told, file)
dist.barrier()
"""


def test_totals_go_by_name_whatever_the_order_of_a_set_and_ranks_that_differ_all_say_so(tmp_path: Path) -> None:
    going = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "meet"), str(tmp_path / f"{rank}.json")],
            env=os.environ | {"PYTHONHASHSEED": str(3 + rank)},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in going] == [0, 0]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["order"] != told[1]["order"]  # or this test shows nothing
    for rank in told:
        assert rank["found"] == {"logprobs": [1.0, 1.0], "entropy": [21.0, 21.0]}
        assert rank["said"].startswith("ranks 0 and 1 have different prompts (b0 against b1), but all ranks")
