"""Temporary folders go with their process, also where it ends without tear-down, and a child leaves its parent's."""

import os
import subprocess
import sys

ENDS = {"tear-down": "", "os._exit": "scratch.clean(); os._exit(0)"}
PROGRAM = """
import os
from mmcredit import scratch
mine = scratch.scratch_folder("mmcredit-test-")
assert mine == scratch.scratch_folder("mmcredit-test-") and mine.is_dir()
child = os.fork()
if child == 0:
    assert scratch.scratch_folder("mmcredit-test-") != mine
    scratch.clean()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0 and mine.is_dir()
"""


def test_nothing_is_left_behind(tmp_path):
    for end in ENDS.values():
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", PROGRAM + end], check=True, env=environment, timeout=120)
        assert list(tmp_path.iterdir()) == []
