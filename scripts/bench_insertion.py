"""Frames in the middle of a response against asking again in a new turn: tokens read, and seconds.

Both arms sample the same words from the same weights: think, call, read the window, answer. `kept`: the window is
inserted, and the response goes on on the keys and values that it has. `new turn`: the response ends at the call, the
frames come as a user turn, and prompt, first part and frames are read anew for every response (an engine without
prefix caching; one with it reads the first prompt once and the rest anew). Untrained weights: only work is measured.

    python scripts/bench_insertion.py > benchmarks/insertion.md
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import machine

from mmcredit.components import build
from mmcredit.data.sample import Media, Sample
from mmcredit.policy.policy import Policy
from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.engine import Request, Response, Sampling
from mmcredit.rollout.reaction import Reply, Said

PLACE = "<|vision_start|><|video_pad|><|vision_end|>"
STOP = 300  # an id that stands for </fps>


class Once:
    """Answers the first call of a response with a window, or ends it there."""

    stops = (STOP,)
    room = 4096

    def __init__(self, piece: Prompt | None) -> None:
        self.piece = piece

    def __call__(self, said: Said) -> Reply:
        return Reply(self.piece, end=self.piece is None)


class Words:
    """A logits hook that leaves one token: `before` of them up to the call, `after` of them behind it."""

    def __init__(self, before: int, after: int) -> None:
        self.words = [*range(100, 100 + before - 1), STOP, *range(100, 100 + after)]
        self.told: dict[int, int] = {}

    def __call__(self, step: int, logits: torch.Tensor, rows: Any) -> torch.Tensor:
        forced = torch.full_like(logits, -torch.inf)
        for row, response in enumerate(rows.responses.tolist()):
            place = self.told.get(response, 0)
            forced[row, self.words[place % len(self.words)]] = 0
            self.told[response] = place + 1
        return forced


def film(frames: int, side: int) -> tuple[Any, dict[str, Any]]:
    """Frames of noise and what is known about them."""
    pixels = np.random.RandomState(frames).randint(0, 255, (frames, side, side, 3), dtype=np.uint8)
    return pixels, {"fps": 2.0, "total_num_frames": frames, "frames_indices": list(range(frames))}


def again(prompt: Prompt, said: list[int], turn: Prompt) -> Prompt:
    """Prompt, first part and the user turn with frames as one prompt."""
    start = prompt.next_position
    step = (torch.arange(len(said)) + start).expand(3, -1)
    behind = turn.positions + start + len(said)
    media = {name: torch.cat([torch.as_tensor(p.media[name]) for p in (prompt, turn)]) for name in turn.media}
    return Prompt(
        "again",
        torch.cat([prompt.tokens, torch.tensor(said), turn.tokens]),
        torch.cat([prompt.positions, step, behind], -1),
        start + len(said) + turn.next_position,
        torch.cat([prompt.visual, torch.zeros(len(said), dtype=torch.bool), turn.visual]),
        media,
        (*prompt.media_keys, *turn.media_keys),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coarse", default="8,32,96", help="frames of the whole video")
    parser.add_argument("--window", type=int, default=8, help="frames of the window")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--before", type=int, default=24, help="sampled tokens up to the call")
    parser.add_argument("--after", type=int, default=24, help="sampled tokens behind the frames")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from tiny import tiny_vl  # of the tests, not the package beside this file

    model, processor = tiny_vl("qwen3_vl", hidden=256, layers=4, vision_layers=4, max_pixels=96 * 64 * 64)
    for parameter in model.model.visual.parameters():
        parameter.requires_grad_(False)
    policy = Policy(model, processor.tokenizer, processor)  # type: ignore[attr-defined]
    side = 64
    window = policy.encoder.piece("w", PLACE, [film(options.window, side)], ["w"])
    turn_text = f"<|im_end|>\n<|im_start|>user\n{PLACE}<|im_end|>\n<|im_start|>assistant\n"
    turn = policy.encoder.piece("w", turn_text, [film(options.window, side)], ["w"])
    print(machine())
    print(
        f"tiny Qwen3-VL, hidden 256, 4 + 4 layers, float32, 1 thread, tower frozen; group {options.group}, "
        f"{options.before} + {options.after} sampled tokens, window of {len(window)} tokens, the fastest of "
        f"{options.repeats}\n"
    )
    print(
        "coarse tokens | arm | tokens read a group | tokens an answer | read s | sampling s | all s\n"
        "---|---|---|---|---|---|---"
    )
    for frames in map(int, options.coarse.split(",")):
        shown = film(frames, side)
        policy.encoder.load_video = lambda media, shown=shown: shown
        content = [{"type": "video"}, {"type": "text", "text": "what moves"}]
        media = (Media("video", data=str(frames).encode()),)
        prompt = policy.encode(Sample(f"v{frames}", ({"role": "user", "content": content},), media))
        for arm in ("kept", "new turn"):
            found = [run(policy, prompt, window, turn, arm, options) for _ in range(options.repeats)]
            read, answer, reading, whole = min(found, key=lambda one: one[-1])
            print(f"{len(prompt)} | {arm} | {read} | {answer} | {reading:.2f} | {whole - reading:.2f} | {whole:.2f}")


def run(
    policy: Policy, prompt: Prompt, window: Prompt, turn: Prompt, arm: str, options: Any
) -> tuple[int, int, float, float]:
    """Tokens read for a group, tokens of an answer behind its prompt, seconds of reading blocks of tokens, seconds."""
    policy.drop_caches()
    policy.costs.reset()
    engine = build("engine", "hf").open(policy)  # type: ignore[attr-defined]
    engine.hook = Words(options.before, options.after)
    reading = [0.0]
    began_read = [0.0]

    def before(module: Any, args: Any, kwargs: Any) -> None:
        began_read[0] = time.perf_counter()

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            reading[0] += time.perf_counter() - began_read[0]

    handles = [
        policy.body.language_model.register_forward_pre_hook(before, with_kwargs=True),
        policy.body.language_model.register_forward_hook(after, with_kwargs=True),
    ]
    total = options.before + options.after
    began = time.perf_counter()
    if arm == "kept":
        request = Request(prompt, range(options.group), reaction=Once(window))
        responses: list[Response] = engine.generate([request], Sampling(max_new_tokens=total))
        answer = len(responses[0].tokens)
    else:
        request = Request(prompt, range(options.group), reaction=Once(None))
        first = engine.generate([request], Sampling(max_new_tokens=total))
        engine.hook.told = dict.fromkeys(range(options.group), options.before)
        asked = [Request(again(prompt, r.tokens, turn), [i], tag=i) for i, r in enumerate(first)]
        second = engine.generate(asked, Sampling(max_new_tokens=options.after))
        answer = len(first[0].tokens) + len(turn) + len(second[0].tokens)
    seconds = time.perf_counter() - began
    for handle in handles:
        handle.remove()
    return policy.costs.sampling().tokens, answer, reading[0], seconds


if __name__ == "__main__":
    main()
