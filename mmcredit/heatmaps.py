"""Where a token looks: how its log-prob moves when a patch of the image is hidden. For `mmcredit report --heatmaps`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw

from mmcredit import config as configs
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.pixels import Pixels
from mmcredit.policy.policy import Policy
from mmcredit.prepare import load_samples
from mmcredit.report.files import HEATMAPS, write_json
from mmcredit.report.gallery import short
from mmcredit.report.records import Run, load_run
from mmcredit.report.samples import open_samples
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.policy.prompt import Prompt

MOST_CELLS = 8  # along the longer side: 64 forwards of a response at most


def write_heatmaps(run_dir: Path, count: int, advance: Callable[[int], None] = lambda n: None) -> tuple[Path, int, str]:
    """Compute `count` maps and write RUN/heatmaps.json. Returns the file, how many it holds, and the weights used.

    Responses are taken from the newest sample table on, those with the largest credit first. A map holds, for every
    token of the response, log-prob with the whole image minus log-prob with one cell in the image's mean colour:
    positive where the token leans on the cell. Weights: RUN/model, else the model that the run began with.
    Raises ValueError for a run without samples with images, and for a model whose pixels cannot be read back.
    """
    if count < 1:
        raise ValueError(f"--heatmaps must be at least 1, got {count}")
    run = load_run(run_dir)
    chosen = _chosen(run, count)
    setting = configs.parse(run.config)
    own = run.path / "model"
    path, weights = (str(own), "its own model/") if own.is_dir() else (setting.model.path, setting.model.path)
    policy = Policy.load(setting.model.at(path, lora=None), media_limits=setting.data.media)
    samples = _samples(setting, {row["sample_id"] for row in chosen})
    pixels = Pixels(policy.processor)
    maps = []
    for row in chosen:
        prompt = policy.encode(samples[row["sample_id"]], setting.data.max_prompt_tokens)
        maps.append(_map(policy, pixels, prompt, row, setting.rollout.sampling.temperature))
        advance(1)
    write_json(run.path / HEATMAPS, {"weights": weights, "maps": maps})
    return run.path / HEATMAPS, len(maps), weights


def _chosen(run: Run, count: int) -> list[dict[str, Any]]:
    """Rows of the sample tables that have an image, the newest table first, then by the largest credit."""
    found: list[dict[str, Any]] = []
    for step in sorted(run.sample_files, reverse=True):
        rows = open_samples(run.sample_files[step]).to_pylist()
        rows = [row | {"step": step} for row in rows if row.get("media") and row["token_ids"]]
        found += sorted(rows, key=lambda row: -max((abs(a) for a in row["advantages"]), default=0.0))
        if len(found) >= count:
            break
    if not found:
        raise ValueError(f"{run.path} holds no sample with an image: a heat map shows where in an image a token looks")
    return found[:count]


def _samples(setting: configs.RunConfig, wanted: set[str]) -> dict[str, Sample]:
    """The training samples of these ids. Raises ValueError naming one that the data no longer hold."""
    found: dict[str, Sample] = {}
    for sample in load_samples(setting, setting.data.train):
        if sample.id in wanted:
            found[sample.id] = sample
            if len(found) == len(wanted):
                return found
    missing = sorted(wanted - set(found))
    raise ValueError(f"data.train no longer holds sample {missing[0]!r} of the run: heat maps need its prompt")


def _map(policy: Policy, pixels: Pixels, prompt: Prompt, row: dict[str, Any], temperature: float) -> dict[str, Any]:
    """One response: grid, and [T][cells] changes of its tokens. The first image of the prompt is looked at."""
    sizes: list[tuple[int, int]] = []

    def look(frames: list[Image.Image], place: int) -> list[Image.Image]:
        sizes.append(frames[0].size)
        return frames

    pixels.edited(prompt, look, "look")
    width, height = sizes[0]
    longer = max(width, height)
    columns, rows = (max(1, round(MOST_CELLS * side / longer)) for side in (width, height))

    def hide(cell: int) -> Callable[[list[Image.Image], int], Sequence[Image.Image]]:
        y, x = divmod(cell, columns)
        box = (x * width // columns, y * height // rows, (x + 1) * width // columns - 1, (y + 1) * height // rows - 1)

        def edit(frames: list[Image.Image], place: int) -> list[Image.Image]:
            if place:
                return frames
            changed = []
            for frame in frames:
                mean = frame.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
                copy = frame.copy()
                ImageDraw.Draw(copy).rectangle(box, fill=mean)  # type: ignore[arg-type]
                changed.append(copy)
            return changed

        return edit

    cells = rows * columns
    prompts = [prompt, *(pixels.edited(prompt, hide(c), f"hidden:{c}/{columns}x{rows}") for c in range(cells))]
    tokens = torch.tensor([row["token_ids"]] * len(prompts))
    rollouts = Rollouts(
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        group=torch.arange(len(prompts)),
        rewards=torch.zeros(len(prompts)),
    ).to(policy.device)
    wanted = [Pass(CLEAN, frozenset({"logprobs"}))]
    logprobs = policy.score(prompts, rollouts, wanted, temperature=temperature)[CLEAN]["logprobs"].cpu()
    if policy.body.vision is not None:
        policy.body.vision.forget({k for p in prompts for k in p.media_keys if k not in prompt.media_keys})
    change = (logprobs[:1] - logprobs[1:]).T
    return {
        "step": row["step"],
        "sample_id": row["sample_id"],
        "member": row["member"],
        "rows": rows,
        "columns": columns,
        "values": [[short(float(f"{v:.3g}")) for v in token] for token in change.tolist()],
    }
