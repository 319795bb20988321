"""Training with frames on demand by the real command, on a tiny model: parity holds, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from runs import REWARD, metrics
from safetensors.torch import load_file
from tiny import save, tiny_vl

from mmcredit.frozen import thaw
from mmcredit.report.samples import read_samples
from video.tags import add_tags

PLUGIN = Path(__file__).resolve().parent / "video_plugin.py"


def write(folder: Path, **changes: Any) -> Path:
    """Model, videos, questions and the config of a run."""
    folder.mkdir()
    model, processor = tiny_vl("qwen3_vl")
    add_tags(processor.tokenizer, model)
    save(model, processor, folder / "model")
    (folder / "media").mkdir()
    rows = []
    for i in range(4):
        (folder / "media" / f"{i}.mp4").write_text(str(8 + 4 * i))
        rows.append({"prompt": f"what moves {i}", "videos": [f"{i}.mp4"], "answer": "red"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "vowels.py").write_text(REWARD)
    config = {
        "run": {"dir": str(folder / "run"), "steps": 3, "threads": 1},
        "model": {"path": str(folder / "model")},
        "data": {
            "train": {"jsonl": {"path": str(folder / "rows.jsonl")}},
            "evaluate": {"jsonl": {"path": str(folder / "rows.jsonl")}},
            "media": {"root": str(folder / "media"), "video": "drawn"},
        },
        "rollout": {
            "prompts": 2,
            "group": 4,
            "sampling": {"max_new_tokens": 10},
            "strategies": [{"any_token": {"max_retrievals": 2, "max_frames": 8, "max_inserted_tokens": 120}}],
        },
        "rewards": [{"function": {"path": f"{folder / 'vowels.py'}:vowels"}}],
        "credit": ["grpo", "pgpo"],  # blind views, and corrupted ones with a gradient
        "objective": {"regularizers": [{"roma": {"kl": 0.01, "aux": 0.1, "views": 1}}]},
        "train": {"learning_rate": 1e-3},
        "log": {"tensorboard": False, "samples_every": 1, "rollouts_every": 2},
        "checkpoint": {"every": 1},
        "evaluate": {"limit": 2},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`mmcredit` with the plug-in, in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mmcredit.cli", *words, "--plugin", str(PLUGIN), "--no-report"],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip


def test_a_kill_in_the_middle_of_an_insertion_changes_nothing(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole")
    result = command("train", str(whole))
    assert result.returncode == 0, result.stderr[-2000:]
    run = tmp_path / "whole" / "run"
    expected = metrics(run)
    assert len(expected) == 3
    assert all(row["rollout/any_token/insertions"] > 2 for row in expected), [
        r["rollout/any_token/insertions"] for r in expected
    ]
    assert not any(row.get("rollout/retrieval/decode_error") for row in expected)
    assert any(row["policy/grad_norm"] > 0 for row in expected)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    parity = next(e["message"] for e in events if "parity: KL" in e["message"])
    assert float(parity.split("largest ")[1].rstrip(".")) < 1e-5, parity
    assert any("image probe: hiding the image moves" in e["message"] for e in events)
    costs = json.loads((run / "cost.json").read_text())
    assert "inserted_tokens" in json.dumps(costs)
    rows = read_samples(run / "samples" / "step-000000.parquet")
    inserted = [row["inserted"] for row in rows]
    # The moments of the frames, as the reader read them: of the prompt, and of each window.
    assert all(len(row["times"]) == len(row["media"]) and row["times"][0] == 0 for row in rows)
    assert all(len(own["times"]) == len(own["media"]) for one in inserted for own in one)
    assert all(own["times"] == sorted(own["times"]) for one in inserted for own in one)
    assert {name["name"] for row in rows for name in row["signals"]} >= {"segment", "retrieval_call"}
    assert any(len(one) == 2 for one in inserted)
    assert all(own["media"] for one in inserted for own in one)

    # What is frozen is whole: the frames are in it, each window once.
    frozen = thaw(run / "rollouts" / "step-000002").rollouts
    pieces = [one.piece for own in frozen.inserted or () for one in own]
    assert len({id(piece) for piece in pieces}) == len({piece.media_keys for piece in pieces}) < len(pieces)

    killed = write(tmp_path / "killed")
    (tmp_path / "killed" / "media" / "die").write_text("14")  # windows and prompts that are read before
    result = command("train", str(killed))
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    (tmp_path / "killed" / "media" / "die").unlink()
    done = len(metrics(tmp_path / "killed" / "run"))
    assert 0 < done < 3, "killed before the first or after the last step"
    result = command("train", str(killed), "--resume")
    assert result.returncode == 0, result.stderr[-2000:]
    assert metrics(tmp_path / "killed" / "run") == expected
    weights = [load_file(tmp_path / name / "run" / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
