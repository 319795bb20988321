"""A run that is killed and resumed gives the numbers of one that was not, bit for bit."""

import json
import signal

import pytest
import torch
from runs import metrics, run_python, settings
from safetensors.torch import load_file

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from mmcredit import config
from mmcredit.train.loop import Trainer

where, mode = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
trainer = Trainer(config.parse(where), resume=mode == "resume")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if mode == "rollout":  # in the middle of sampling step 3
    generate = trainer.parts.engine.generate

    def killed(requests, sampling, progress=None):
        done = []
        return generate(requests, sampling, lambda n: die() if trainer.step == 3 else None)

    trainer.parts.engine.generate = killed
elif mode == "update":  # after the first of two optimizer steps of step 4
    step, taken = trainer.parts.trainer.step, []

    def killed():
        result = step()
        taken.append(1)
        if trainer.step == 4 and len(taken) % 4 == 1:
            die()
        return result

    trainer.parts.trainer.step = killed
elif mode == "save":  # while the checkpoint of step 4 is on its way to disk
    trainer._saved_part = lambda name: die() if trainer.step == 4 and name == "training" else None
trainer.run()
"""


def write_settings(folder, **changes):
    folder.mkdir(exist_ok=True)
    values = settings(
        folder,
        run__steps=6,
        train__mini_batches=2,
        train__epochs=2,
        train__warmup_steps=3,
        train__schedule="cosine",
        checkpoint__every=2,
        checkpoint__final=True,
        objective__regularizers=[{"kl": {"coef": 0.05}}, {"entropy": {"coef": 0.01}}],
        log__signals=["entropy"],
        **changes,
    )
    path = folder / "settings.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("freeze", [False, True])
def test_kill_and_resume_is_bit_identical(tmp_path, freeze):
    whole = write_settings(tmp_path / "whole", model__freeze_vision=freeze)
    result = run_python(PROGRAM, str(whole), "whole")
    assert result.returncode == 0, result.stderr
    expected = metrics(tmp_path / "whole" / "run")
    weights = load_file(tmp_path / "whole" / "run" / "model" / "model.safetensors")
    assert len(expected) == 6
    assert any(row["policy/grad_norm"] > 0 for row in expected)
    for point in ("rollout", "update", "save") if not freeze else ("update",):
        path = write_settings(tmp_path / point, model__freeze_vision=freeze)
        killed = run_python(PROGRAM, str(path), point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed = run_python(PROGRAM, str(path), "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert metrics(tmp_path / point / "run") == expected
        again = load_file(tmp_path / point / "run" / "model" / "model.safetensors")
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[name], again[name]) for name in weights)
        events = (tmp_path / point / "run" / "events.jsonl").read_text()
        assert "resumed from step-00000" in events
        if point == "save":
            assert ".writing-step-000004 is not complete" in events
