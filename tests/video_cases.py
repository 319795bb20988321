"""Responses with frames in their middle, on tiny models: what the tests of insertion share."""

from __future__ import annotations

import numpy as np
import torch
from policy_cases import make_policy
from tiny import tiny_image

from mmcredit.data.sample import Media, Sample
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Inserted, Rollouts

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]
PLACE = "<|vision_start|><|video_pad|><|vision_end|>"


def clip(seed: int, frames: int = 4, start: int = 0, fps: float = 2.0, side: tuple[int, int] = (64, 64)):
    """Frames and what is known about them, as a video reader gives them."""
    pixels = np.random.RandomState(seed).randint(0, 255, (frames, *side, 3), dtype=np.uint8)
    about = {
        "fps": fps,
        "duration": frames / fps,
        "total_num_frames": frames,
        "frames_indices": list(range(start, start + frames)),
    }
    return pixels, about


def video_policy(family: str, **options) -> Policy:
    """A tiny policy that reads any video as four frames of noise, which depend on its bytes."""
    policy = make_policy(family, **options)
    policy.encoder.load_video = lambda media: clip(len(media.data or b""))
    return policy


def question(name: str, video: bytes = b"coarse", text: str = "what moves") -> Sample:
    """A question about a video."""
    content = [{"type": "video"}, {"type": "text", "text": text}]
    return Sample(name, ({"role": "user", "content": content},), (Media("video", data=video),), answer="red")


def window(
    policy: Policy,
    seed: int,
    frames: int = 4,
    label: str = "",
    side: tuple[int, int] = (64, 64),
    pixels: int | None = None,
) -> Prompt:
    """Frames to insert; their times depend on `seed`, and so does what they show, unless `pixels` is another one."""
    shown = seed if pixels is None else pixels
    _, about = clip(seed, frames, 10 + seed, side=side)
    return policy.encoder.piece("w", label + PLACE, [(clip(shown, frames, side=side)[0], about)], [f"{shown}-{frames}"])


def with_pieces(prompts: int, rows: list[tuple[int, list[int | Prompt]]], seed: int = 0) -> Rollouts:
    """Responses as (prompt, [sampled tokens or a piece, ...])."""
    generator = torch.Generator().manual_seed(seed)
    tokens, mask, inserted = [], [], []
    for _, parts in rows:
        own, said, pieces = [], [], []
        for part in parts:
            if isinstance(part, int):
                own += torch.randint(20, 380, (part,), generator=generator).tolist()
                said += [True] * part
            else:
                pieces.append(Inserted(len(own), part))
                own += part.tokens.tolist()
                said += [False] * len(part)
        tokens.append(own)
        mask.append(said)
        inserted.append(tuple(pieces))
    width = max(map(len, tokens))
    return Rollouts(
        tokens=torch.tensor([own + [0] * (width - len(own)) for own in tokens]),
        mask=torch.tensor([said + [False] * (width - len(said)) for said in mask]),
        valid=torch.tensor([[True] * len(own) + [False] * (width - len(own)) for own in tokens]),
        group=torch.tensor([prompt for prompt, _ in rows]),
        rewards=torch.zeros(len(rows)),
        inserted=tuple(inserted),
    )


def inserted_batch(family: str, **options):
    """Policy, prompts and responses: two windows in one, different and equal windows in a group, none, text only."""
    policy = video_policy(family, **options)
    prompts = [
        policy.encode(question("a")),
        policy.encode(question("b", b"other", "how many")),
        policy.encode(Sample("t", ({"role": "user", "content": "what is left"},))),
    ]
    one, two, long = window(policy, 1), window(policy, 2, side=(96, 64)), window(policy, 3, frames=12, label="late")
    words = policy.encoder.piece("w", "only words <5.3 seconds> are here")
    crop = "look <|vision_start|><|image_pad|><|vision_end|>"
    image = policy.encoder.piece("w", crop, (), ["image"], [tiny_image(64, 3)])
    rows = [
        (0, [3, one, 4, two, 2]),
        (0, [5, two, 3]),
        (0, [2, one, 1]),
        (0, [6]),
        (1, [4, long, 5]),
        (1, [1, words, 2]),
        (1, [2, image, 2, one, 3]),
        (2, [2, one, 6]),
        (2, [3]),
    ]
    return policy, prompts, with_pieces(3, rows)
