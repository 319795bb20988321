"""From the tensors of a TRL batch to our prompts and rollouts.

Shapes: B responses of this process, P prompt tokens (left padded), T response tokens (right padded). TRL repeats a
prompt and its pixels for every response; here each distinct prompt is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Rollouts

if TYPE_CHECKING:
    from torch import Tensor

# (tokens [P], kind of media of each [P], media) -> positions [P] or [3,P]
Positions = Callable[["Tensor", "Tensor", Mapping[str, "Tensor"]], "Tensor"]


def row_media(output: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Per response, what the processor made of the images of its prompt; {} where there are none.

    Raises ValueError for images that are not described by grids of patches.
    """
    rows = output["prompt_ids"].shape[0]
    counts = [int(n) for n in output.get("num_images") or [0] * rows]
    if not any(counts):
        return [{} for _ in range(rows)]
    if "image_grid_thw" not in output or "pixel_values" not in output:
        given = ", ".join(sorted(k for k in output if "pixel" in k or "image" in k))
        raise ValueError(
            "credit: signals are computed for images that are described by grids of patches (the Qwen-VL families); "
            f"the processor of this model gives {given}"
        )
    grids = output["image_grid_thw"].cpu().split(counts)
    sizes = [int(grid.prod(-1).sum()) for grid in grids]
    pixels = output["pixel_values"].cpu().split(sizes)
    return [
        {"pixel_values": own, "image_grid_thw": grid} if count else {}
        for own, grid, count in zip(pixels, grids, counts, strict=True)
    ]


def _digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def prompt_ids(output: Mapping[str, Any]) -> list[str]:
    """Per response, a name of its prompt that is the same on every process and in every run: a hash of its tokens and
    pixels."""
    ids, real = output["prompt_ids"].cpu(), output["prompt_mask"].cpu().bool()
    if output.get("num_images") and "pixel_values" in output and "image_grid_thw" in output:
        media = row_media(output)
        return [_digest(ids[i][real[i]], *media[i].values()) for i in range(len(media))]
    return [_digest(row[keep]) for row, keep in zip(ids, real, strict=True)]


def read_prompts(
    output: Mapping[str, Any], names: Sequence[str], kinds: Mapping[str, int], positions: Positions
) -> tuple[list[Prompt], list[int]]:
    """The distinct prompts, and which of them each response answers. `kinds`: placeholder id by kind of media."""
    ids, real = output["prompt_ids"].cpu(), output["prompt_mask"].cpu().bool()
    media = row_media(output)
    place: dict[str, int] = {}
    prompts: list[Prompt] = []
    for row, name in enumerate(names):
        if name in place:
            continue
        place[name] = len(prompts)
        tokens = ids[row][real[row]].to(torch.int64)
        types = torch.zeros_like(tokens)
        for number, kind in enumerate(("image", "video"), 1):
            if kind in kinds:
                types[tokens == kinds[kind]] = number
        keys: tuple[str, ...] = ()
        if media[row]:
            grid, pixels = media[row]["image_grid_thw"], media[row]["pixel_values"]
            pieces = pixels.split(grid.prod(-1).tolist())
            keys = tuple(_digest(piece, one) for piece, one in zip(pieces, grid, strict=True))
        where = positions(tokens, types, media[row])
        prompts.append(Prompt(name, tokens, where, int(where.max()) + 1, types != 0, media=media[row], media_keys=keys))
    return prompts, [place[name] for name in names]


def read_rollouts(output: Mapping[str, Any], group: Sequence[int], end_ids: Collection[int]) -> Rollouts:
    """The responses of this process, rewards still 0. `group`: the prompt of each. A response that TRL masks as a whole
    (truncated) has no valid token."""
    tokens = output["completion_ids"].to(torch.int64)
    valid = output["completion_mask"].bool()
    mask = valid & output["tool_mask"].bool() if "tool_mask" in output else valid
    last = tokens.gather(1, (valid.sum(1, keepdim=True) - 1).clamp(min=0))[:, 0]
    ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=tokens.device)
    sampler = output.get("sampling_per_token_logps")
    return Rollouts(
        tokens=tokens,
        mask=mask,
        valid=valid,
        group=torch.tensor(list(group), dtype=torch.int64, device=tokens.device),
        rewards=torch.zeros(tokens.shape[0], device=tokens.device),
        truncated=~torch.isin(last, ends),
        sampler_logprobs=None if sampler is None else sampler.float(),
    )


def stand_in(name: str, images: int) -> Sample:
    """What credit methods may know of a prompt: its name, and how many images it has."""
    content = [{"type": "image"}] * images
    media = (Media("image", data=b"", name="of the trainer's batch"),) * images
    return Sample(name, ({"role": "user", "content": content},), media)


def regroup(
    rollouts: Rollouts,
    rewards: Tensor,
    parts: Mapping[str, Tensor],
    names: Sequence[str],
    images: Sequence[int],
    size: int,
) -> Rollouts:
    """The responses of all processes with their rewards, `size` of them to a prompt, in the order of the batch.

    A response that no reward function scored (NaN) stands alone and bears no credit, so that it moves nothing.
    """
    group = torch.arange(len(rollouts)) // size
    samples = [stand_in(names[i], images[i]) for i in range(0, len(rollouts), size)]
    lost = torch.isnan(rewards)
    for row in lost.nonzero()[:, 0].tolist():
        group[row] = len(samples)
        samples.append(stand_in(names[row], images[row]))
    return rollouts.replace(
        group=group.to(rewards.device),
        rewards=rewards.float().nan_to_num(0.0),
        reward_parts={name: values.float() for name, values in parts.items()},
        mask=rollouts.mask & ~lost[:, None],
        samples=tuple(samples),
    )
