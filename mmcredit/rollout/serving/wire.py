"""What travels between a trainer and a rollout server: JSON, and safetensors where there are tensors. Never pickle.

A prompt is token ids and positions; its media go ahead of it, once, under their content hash. Weights go as pieces of
flat parameters, in buckets of bounded size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.drawing.temperature import EntropyTemperature, TemperatureHook
from mmcredit.rollout.engine import Request, Response
from mmcredit.statistics.entropy_scale import EntropyScale

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

PROTOCOL = 1
HEADER = "X-Mmcredit"  # no page in a browser may send it to another site without asking first
_SAMPLED = 4096  # elements of a weight that its digest reads
_OPTIONAL = ("tokens", "positions", "visual", "unexpanded")


class Rejected(ValueError):
    """What was sent is not what was agreed on; `kind` says what the other side can do about it."""

    def __init__(self, message: str, kind: str = "request", **details: Any) -> None:
        super().__init__(message)
        self.kind, self.details = kind, details


# Prompts and responses -----------------------------------------------------------------------------------------------


def media_key(prompt: Prompt, form: str) -> str | None:
    """Under which the media of a prompt are sent and remembered; None where it has none."""
    if not prompt.media_keys:
        return None
    return hashlib.sha256("\0".join((form, *prompt.media_keys)).encode()).hexdigest()


def pack_prompt(prompt: Prompt, form: str) -> dict[str, Any]:
    """A prompt as JSON values, its media by their key. `form`: tensors (what the processor made) or pictures."""
    plain: dict[str, Any] = {"id": prompt.sample_id, "next": prompt.next_position, "media": media_key(prompt, form)}
    for name in _OPTIONAL:
        value = getattr(prompt, name)
        plain[name] = None if value is None else value.tolist()
    plain["media_keys"] = list(prompt.media_keys)
    return plain


def unpack_prompt(plain: Mapping[str, Any], media: Mapping[str, Tensor]) -> Prompt:
    """Back from `pack_prompt`. Raises Rejected for lengths that do not fit together."""
    tokens = torch.tensor(plain["tokens"], dtype=torch.int64)
    positions = torch.tensor(plain["positions"], dtype=torch.int64)
    visual = torch.tensor(plain["visual"], dtype=torch.bool)
    if tokens.ndim != 1 or visual.shape != tokens.shape or positions.shape[-1:] != tokens.shape:
        raise Rejected(f"prompt {plain['id']!r}: ids, positions and placeholders differ in length")
    bare = plain["unexpanded"]
    return Prompt(
        sample_id=str(plain["id"]),
        tokens=tokens,
        positions=positions,
        next_position=int(plain["next"]),
        visual=visual,
        media=media,
        media_keys=tuple(str(key) for key in plain["media_keys"]),
        unexpanded=None if bare is None else torch.tensor(bare, dtype=torch.int64),
    )


def pack_media(prompt: Prompt, form: str, pictures: Sequence[Image]) -> bytes:
    """The media of a prompt as safetensors: what its processor made, or RGB pictures [H,W,3] uint8."""
    if form == "tensors":
        return save({name: value.contiguous() for name, value in prompt.media.items()})
    return save({f"{i:04d}": _pixels(picture) for i, picture in enumerate(pictures)})


def _pixels(picture: Image) -> Tensor:
    rgb = picture.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3)


def unpack_media(body: bytes) -> dict[str, Tensor]:
    """Tensors by name. Raises Rejected for bytes that are no safetensors."""
    try:
        return load(body)
    except Exception as error:  # the library raises a class of its own, and others for short bodies
        raise Rejected(f"a body is no safetensors: {error}") from None


def pictures_of(media: Mapping[str, Tensor]) -> list[Image]:
    """Pictures from `pack_media`."""
    from PIL import Image

    return [Image.fromarray(media[name].numpy(), "RGB") for name in sorted(media)]


def pack_requests(requests: Sequence[Request], form: str) -> dict[str, Any]:
    """Requests as JSON values; a prompt that several share stands once."""
    place: dict[int, int] = {}
    prompts: list[dict[str, Any]] = []
    plain = []
    for request in requests:
        if id(request.prompt) not in place:
            place[id(request.prompt)] = len(prompts)
            prompts.append(pack_prompt(request.prompt, form))
        prefix, seeds = [int(t) for t in request.prefix], [int(s) for s in request.seeds]
        plain.append({"prompt": place[id(request.prompt)], "seeds": seeds, "prefix": prefix, "limit": request.limit})
    return {"prompts": prompts, "requests": plain}


def unpack_requests(plain: Mapping[str, Any], media: Mapping[str, Mapping[str, Tensor]]) -> list[Request]:
    """Back from `pack_requests`; tags number the requests."""
    prompts = [unpack_prompt(p, {} if p["media"] is None else media[p["media"]]) for p in plain["prompts"]]
    return [
        Request(prompts[r["prompt"]], [int(s) for s in r["seeds"]], [int(t) for t in r["prefix"]], i, r["limit"])
        for i, r in enumerate(plain["requests"])
    ]


def read_responses(plain: Any, requests: Sequence[Request], most: int, vocabulary: int) -> list[Response]:
    """Responses from JSON values, with the tags of `requests`.

    Raises ValueError unless there is one for every seed, in order, with ids of the vocabulary, a finite log-prob each,
    and no more of them than were asked for.
    """
    expected = [(i, member) for i, request in enumerate(requests) for member in range(len(request.seeds))]
    found = []
    if not isinstance(plain, list) or len(plain) != len(expected):
        raise ValueError(
            f"{len(expected)} responses were asked for, {len(plain) if isinstance(plain, list) else 0} came"
        )
    for (i, member), row in zip(expected, plain, strict=True):
        tokens, logprobs = row["tokens"], row["logprobs"]
        good = (
            (row["tag"], row["member"]) == (i, member)
            and row["finish"] in ("stop", "length")
            and not row["inserted"]
            and len(tokens) == len(logprobs) <= requests[i].new_tokens(most)
            and all(type(t) is int and 0 <= t < vocabulary for t in tokens)
            and all(type(p) is float and p == p and p != float("-inf") for p in logprobs)
        )
        if not good:
            raise ValueError(f"response {member} of sample {requests[i].prompt.sample_id} is damaged")
        found.append(Response(**{**row, "tag": requests[i].tag, "inserted": ()}))
    return found


def pack_hook(hook: Any) -> dict[str, Any] | None:
    """A logits hook as JSON values. Raises ValueError for one that cannot travel."""
    if hook is None:
        return None
    if not isinstance(hook, TemperatureHook):
        raise ValueError(f"engine 'server' takes temperatures by entropy as a logits hook, got {hook!r}")
    return asdict(hook.processor)


def unpack_hook(plain: Mapping[str, Any] | None) -> TemperatureHook | None:
    """Back from `pack_hook`."""
    if plain is None:
        return None
    fields = {**plain, "scale": EntropyScale(**plain["scale"]), "suppressed": tuple(plain["suppressed"])}
    return TemperatureHook(EntropyTemperature(**fields))


# Weights -------------------------------------------------------------------------------------------------------------


def describe(model: nn.Module) -> dict[str, list[Any]]:
    """{name: [dtype, shape, is trained, digest]} of every parameter.

    The digest, over elements spread evenly over the weight, is of frozen ones alone: they are never sent.
    """
    return {
        name: [_dtype(p), list(p.shape), p.requires_grad, None if p.requires_grad else _digest(p)]
        for name, p in model.named_parameters()
    }


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _digest(value: Tensor) -> str:
    flat = value.detach().reshape(-1)
    some = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu().contiguous()
    return hashlib.sha256(some.numpy().tobytes()).hexdigest()[:16]


def disagreement(own: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> str | None:
    """In what the weights of a server (`other`) are not those of the trainer, or None."""
    if odd := sorted(own.keys() ^ other.keys()):
        side = "the trainer" if odd[0] in own else "the server"
        return f"{len(odd)} weights are not on both sides, {odd[0]!r} only of {side}"
    for name, mine in own.items():
        for what, a, b in zip(("dtype", "shape", "trained", "values"), mine, other[name], strict=True):
            if a != b:
                return f"weight {name!r} differs in {what}: {a} here, {b} there"
    return None


def buckets(weights: Mapping[str, Tensor], size: int) -> Iterator[bytes]:
    """Flat pieces of all weights, in order, in safetensors of about `size` bytes; a large weight goes in several."""
    bucket: dict[str, Tensor] = {}
    room = size
    for name, value in weights.items():
        flat = value.detach().reshape(-1)
        start = 0
        while start < flat.numel():
            count = max(1, min(flat.numel() - start, room // flat.element_size()))
            bucket[f"{start}:{name}"] = flat[start : start + count].cpu().contiguous()
            start, room = start + count, room - count * flat.element_size()
            if room <= 0:
                yield save(bucket)
                bucket, room = {}, size
    if bucket:
        yield save(bucket)


class Intake:
    """Takes in the pieces of `buckets`, each weight from its start to its end, and knows what is missing."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.received = dict.fromkeys(self.weights, 0)

    @torch.no_grad()
    def take(self, body: bytes) -> None:
        """Write one bucket into the weights. Raises Rejected for an unknown name, a gap, or another dtype."""
        # By number: the header of a safetensors body need not keep the order.
        pieces = [(int(key.partition(":")[0]), key.partition(":")[2], v) for key, v in unpack_media(body).items()]
        for start, name, value in sorted(pieces, key=lambda piece: (piece[1], piece[0])):
            own = self.weights.get(name)
            if own is None:
                raise Rejected(f"weight {name!r} is not one that is trained here", "weights")
            end = start + value.numel()
            if value.dtype != own.dtype or value.ndim != 1 or start != self.received[name] or end > own.numel():
                raise Rejected(
                    f"weight {name!r}: elements {start}..{end} of {_dtype(value)} came after "
                    f"{self.received[name]} of {own.numel()} of {_dtype(own)}",
                    "weights",
                )
            own.detach().view(-1)[start:end].copy_(value)
            self.received[name] = end

    def finish(self) -> None:
        """Raises Rejected unless every element of every weight was received."""
        short = [name for name, value in self.weights.items() if self.received[name] != value.numel()]
        if short:
            raise Rejected(
                f"{len(short)} of {len(self.weights)} weights are not complete, {short[0]!r} among them", "weights"
            )
