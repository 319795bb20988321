"""Runs commands of `mmcredit`, and Python files, each in a fork of one process that has loaded torch and the package.

Loading takes longer than most commands of the docs. A line of JSON on stdin is a job: `argv` of mmcredit or `file`, a
Python file; `env`; `output`, where stdout and stderr go. A line on stdout is its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback


def work(job: dict) -> int:
    """The exit code of a job, in the forked process."""
    os.environ.update(job.get("env", {}))
    try:
        if "argv" in job:
            from mmcredit.cli import main

            return main(job["argv"])
        sys.path.insert(0, os.getcwd())
        runpy.run_path(job["file"], run_name="__main__")
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    import transformers  # noqa: F401

    import prm.components  # noqa: F401  # as the entry point does, where the install is older than it
    from mmcredit.scratch import clean

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            target = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            code = work(job)
            sys.stdout.flush()
            sys.stderr.flush()
            clean()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
