"""Media as vLLM's own inputs: the trainer's ids and preprocessed pixels, so that nothing is expanded or scaled anew.

vLLM finds positions and features of a medium by its range in the ids. The range of a video with times in words (a
placeholder run per group of frames) begins at the token before its first run and says which of its tokens are visual.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.vision import TILES, items

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt

_NAMES = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}


def engine_input(policy: Policy, tokens: Sequence[int], parts: Sequence[tuple[int, Prompt]]) -> Any:
    """What `LLMEngine.add_request` takes for the ids `tokens`, in which each of `parts` begins at its place.

    Raises ValueError for media that are not cut into patches.
    """
    from vllm.inputs import mm_input, tokens_input

    shown = [(start, part) for start, part in parts if part.media_keys]
    if not shown:
        return tokens_input(list(tokens))
    for _, part in shown:
        if TILES in part.media or not part.media:
            raise ValueError(
                f"sample {part.sample_id}: engine 'vllm' takes videos and insertions of the Qwen-VL families only; use "
                "rollout.engine=hf"
            )
        if not torch.equal(_counted(policy, part), part.positions):
            raise ValueError(
                f"sample {part.sample_id}: vLLM counts the positions of this video otherwise than the model that is "
                "trained (text goes on behind the last frame's time there, behind its size here); use "
                "rollout.engine=hf, or a model of the family Qwen3-VL"
            )
    placed = [one for start, part in shown for one in _places(policy, start, part)]
    kinds = [kind for kind in _NAMES if any(item.kind == kind for item, _ in placed)]
    return mm_input(
        list(tokens),
        _tensors(policy, placed, [part for _, part in shown]),
        {kind: [item.key for item, _ in placed if item.kind == kind] for kind in kinds},
        {kind: [place for item, place in placed if item.kind == kind] for kind in kinds},
    )


def _labelled(policy: Policy) -> bool:
    """Whether this family writes times between the frames of a video."""
    return hasattr(policy.processor, "_calculate_timestamps")


def _counted(policy: Policy, part: Prompt) -> Tensor:
    """[3,n] positions as vLLM counts them: behind a medium they go on from the largest of its own."""
    config: Any = policy.body.model.config.vision_config
    seconds = iter(part.media.get("second_per_grid_ts", torch.zeros(0)).flatten().tolist())
    pads = torch.tensor(sorted(policy.body.kinds.values()))
    runs: dict[str, list[tuple[int, int, int, float]]] = {
        "image": [],
        "video": [],
    }  # frames, rows, columns, time of one
    for item in items(part):
        assert item.grid is not None
        frames, rows, columns = item.grid.tolist()
        size = rows // config.spatial_merge_size, columns // config.spatial_merge_size
        if item.kind == "video" and _labelled(policy):
            runs["video"] += [(1, *size, 1.0)] * frames
        else:
            step = next(seconds, 1.0) * getattr(config, "tokens_per_second", 1.0) if item.kind == "video" else 1.0
            runs[item.kind].append((frames, *size, step))
    name = {token: kind for kind, token in policy.body.kinds.items()}
    out, at, following = [], 0, 0
    places = torch.isin(part.tokens, pads).nonzero()[:, 0].tolist()
    while places:
        first = places[0]
        frames, rows, columns, step = runs[name[int(part.tokens[first])]].pop(0)
        out.append((torch.arange(first - at) + following).expand(3, -1))
        grid = torch.cartesian_prod(torch.arange(frames), torch.arange(rows), torch.arange(columns)).view(-1, 3).t()
        grid = torch.stack([(grid[0] * step).long(), grid[1], grid[2]]) + following + first - at
        out.append(grid)
        at, following = first + grid.shape[1], int(grid.max()) + 1
        places = places[grid.shape[1] :]
    out.append((torch.arange(len(part.tokens) - at) + following).expand(3, -1))
    return torch.cat(out, -1)


def _places(policy: Policy, start: int, part: Prompt) -> list[tuple[Any, Any]]:
    """The media of a part, and the range of each."""
    from vllm.multimodal.inputs import PlaceholderRange

    runs = {kind: (part.tokens == token).nonzero()[:, 0] for kind, token in policy.body.kinds.items()}
    grids = items(part)
    total = sum(int(item.grid.prod()) for item in grids if item.grid is not None)
    merged = total // int(part.visual.sum())  # patches of a token
    taken = dict.fromkeys(runs, 0)
    found = []
    for item in grids:
        assert item.grid is not None
        count = int(item.grid.prod()) // merged
        own = runs[item.kind][taken[item.kind] : taken[item.kind] + count]
        taken[item.kind] += count
        first, last = int(own[0]), int(own[-1])
        visual = None
        if item.kind == "video" and _labelled(policy):
            first -= 1
            visual = torch.zeros(last + 1 - first, dtype=torch.bool)
            visual[own - first] = True
        found.append((item, PlaceholderRange(start + first, last + 1 - first, visual)))
    return found


def _tensors(policy: Policy, placed: Sequence[tuple[Any, Any]], parts: Sequence[Prompt]) -> Any:
    """The pixels of all media, cut by medium."""
    from transformers import BatchFeature
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    data: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for kind, (pixels, grids) in _NAMES.items():
        own = [item for item, _ in placed if item.kind == kind]
        if not own:
            continue
        data[pixels] = torch.cat([item.pixels for item in own])
        data[grids] = torch.stack([item.grid for item in own])
        fields[pixels] = MultiModalFieldConfig.flat_from_sizes(kind, data[grids].prod(-1))
        fields[grids] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
        if kind == "video" and _labelled(policy):  # read where frames are pruned, which we never ask for
            data["timestamps"] = [[0.0] * int(item.grid[0]) for item in own]
            fields["timestamps"] = MultiModalFieldConfig.batched(kind, keep_on_cpu=True)
    seconds = [part.media["second_per_grid_ts"] for part in parts if "second_per_grid_ts" in part.media]
    if seconds:
        data["second_per_grid_ts"] = torch.cat([each.flatten() for each in seconds])
        fields["second_per_grid_ts"] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
    return MultiModalKwargsItems.from_hf_inputs(BatchFeature(data), fields)
