"""Sampling and rewards of a run of several processes: each rank samples a share, rank 0 judges, all get everything."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.policy.piece_state import pack_pieces, unpack_pieces
from mmcredit.rewards.pool import RewardResult
from mmcredit.rollout.engine import Request, Response
from mmcredit.verifiers.background import Verified

if TYPE_CHECKING:
    from mmcredit.answers.item import RewardItem
    from mmcredit.data.sample import Sample
    from mmcredit.rewards.pool import RewardPool
    from mmcredit.rollout.engine import RolloutEngine, Sampling
    from mmcredit.rollouts import Rollouts
    from mmcredit.verifiers.background import Verifying
    from mmcredit.world import World


class SharedEngine:
    """A rollout engine per rank: requests are dealt out, the responses of all ranks come back in order.

    A response is decided by its seed and not by the company in which it is sampled, so that any number of ranks draws
    the same tokens (up to rounding in the engine). `whole`: around what reads the weights.
    """

    def __init__(self, inner: RolloutEngine, world: World, whole: Callable[[], AbstractContextManager[None]]) -> None:
        self.inner, self.world, self.whole = inner, world, whole
        if getattr(inner, "probe", None) is not None:
            self.inner.probe = None  # type: ignore[attr-defined]  # of an engine per rank: not tried

    @property
    def hook(self) -> Any:
        """The logits hook that a strategy sets."""
        return self.inner.hook  # type: ignore[attr-defined]

    @hook.setter
    def hook(self, hook: Any) -> None:
        self.inner.hook = hook  # type: ignore[attr-defined]

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by kind of work, of this rank's engine; empty where it does not count them."""
        return getattr(self.inner, "spent", {})

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """As `RolloutEngine.generate`, with the same requests on every rank."""
        owners = _deal(requests, self.world.size)
        numbered = [replace(request, tag=i) for i, request in enumerate(requests)]
        mine = [request for request, owner in zip(numbered, owners, strict=True) if owner == self.world.rank]
        with self.whole():
            own = self.inner.generate(mine, sampling, progress) if mine else []
        parts = self.world.gather(_told(own))
        if progress is not None:
            progress(sum(len(part["said"]) for rank, part in enumerate(parts) if rank != self.world.rank))
        found = sorted((r for part in parts for r in _heard(part)), key=lambda r: (r.tag, r.member))
        return [replace(response, tag=requests[response.tag].tag) for response in found]

    def sync(self) -> None:
        """Take over the policy's present weights."""
        with self.whole():
            self.inner.sync()

    def rest(self) -> None:
        """The sampling of a step is over."""
        getattr(self.inner, "rest", lambda: None)()

    def close(self) -> None:
        """Free what the engine holds."""
        self.inner.close()


class OneEngine:
    """An engine that rank 0 has for all (a client of servers): asked once, the responses reach every rank.

    `inner` is None on the other ranks. `whole`: around what reads the weights.
    """

    def __init__(self, inner: Any, world: World, whole: Callable[[], AbstractContextManager[None]]) -> None:
        self.inner, self.world, self.whole = inner, world, whole
        self.hook: Any = None
        self._synced = True  # since the last request: the engine's probe is about to read the weights
        if inner is not None:
            inner.keep_weights = True  # outside of `sync` the policy may be spread over the ranks

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """As `RolloutEngine.generate`, with the same requests on every rank."""

        def ask() -> dict[str, Any]:
            self.inner.hook = self.hook
            return _told(self.inner.generate(requests, sampling, progress))

        with self._probing():
            return _heard(self.world.from_first(ask))

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """The weights in one piece, for the first request after an update."""
        synced, self._synced = self._synced, False
        with self.whole() if synced else nullcontext():
            yield

    def submit(self, requests: Sequence[Request], sampling: Sampling) -> Callable[..., list[Response]]:
        """Begin to sample beside the training; the function returned waits for the responses, on every rank."""
        if self.inner is not None and self.inner.probe is not None:
            self.inner.probe.due = False  # it would read weights that the other ranks train
        begun = self.inner.submit(requests, sampling) if self.world.writes else None
        return lambda progress=None: _heard(self.world.from_first(lambda: _told(begun(progress))))  # type: ignore[misc]

    def sync(self) -> None:
        """Take over the policy's present weights."""
        with self.whole():
            self.world.from_first(lambda: self.inner.sync())
        self._synced = True

    def report(self) -> tuple[dict[str, float], list[str]]:
        """As the engine's, on every rank."""
        counts, said = self.world.from_first(lambda: self.inner.report())
        return counts, said

    def close(self) -> None:
        """Free what the engine holds."""
        if self.inner is not None:
            self.inner.close()


def _told(responses: Sequence[Response]) -> dict[str, Any]:
    """Responses as plain data; what was inserted goes along once, its tensors as their bytes."""
    said = [asdict(replace(response, inserted=())) for response in responses]
    inserted = [response.inserted for response in responses]
    return {"said": said, "inserted": _encoded(pack_pieces(inserted)) if any(inserted) else None}


def _heard(told: Mapping[str, Any]) -> list[Response]:
    """What `_told` packed."""
    inserted = unpack_pieces(None if told["inserted"] is None else _decoded(told["inserted"]))
    given = inserted or ((),) * len(told["said"])
    return [Response(**{**one, "inserted": own}) for one, own in zip(told["said"], given, strict=True)]


def _encoded(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        raw = base64.b64encode(data.reshape(-1).view(torch.uint8).numpy().tobytes()).decode("ascii")
        return {"$tensor": raw, "dtype": str(data.dtype).removeprefix("torch."), "shape": list(data.shape)}
    if isinstance(value, dict):
        return {name: _encoded(item) for name, item in value.items()}
    return [_encoded(item) for item in value] if isinstance(value, list | tuple) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and "$tensor" in value:
        raw = bytearray(base64.b64decode(value["$tensor"]))
        return torch.frombuffer(raw, dtype=getattr(torch, value["dtype"])).view(value["shape"])
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _deal(requests: Sequence[Request], size: int) -> list[int]:
    """The rank of each request: the longest work first, to the rank that has least."""
    loads, owners = [0] * size, [0] * len(requests)
    work = [len(r.seeds) * (1 + len(r.prompt) + len(r.prefix)) for r in requests]
    for i in sorted(range(len(requests)), key=lambda i: (-work[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += work[i]
    return owners


class SharedPool:
    """The reward workers of rank 0, asked once for all ranks: a judge is paid once, a slow reward times out for all."""

    def __init__(self, inner: RewardPool, world: World) -> None:
        self.inner, self.world = inner, world
        self.names, self.rewards = inner.names, inner.rewards

    def score(self, items: Sequence[RewardItem]) -> RewardResult:
        """As `RewardPool.score`, with the same items on every rank."""
        return RewardResult(**self.world.from_first(lambda: asdict(self.inner.score(items))))

    def close(self) -> None:
        """Kill the workers."""
        self.inner.close()


class SharedVerifying:
    """The verifiers of rank 0, asked once for all; their signals reach every rank, verdicts stay with the files."""

    def __init__(self, inner: Verifying, world: World, used: bool) -> None:
        """`used`: whether the run has verifiers; on other ranks than 0 `inner` holds none."""
        self.inner, self.world, self.used = inner, world, used

    def __bool__(self) -> bool:
        return self.used

    def begin(self) -> None:
        """As `Verifying.begin`."""
        self.inner.begin()

    def ask(self, rollouts: Rollouts, samples: Sequence[Sample], texts: Sequence[str]) -> None:
        """As `Verifying.ask`."""
        self.inner.ask(rollouts, samples, texts)

    def collect(self, rollouts: Rollouts, samples: Sequence[Sample], texts: Sequence[str]) -> Verified:
        """As `Verifying.collect`, with the same batch on every rank."""
        own: list[Verified] = []

        def ask() -> dict[str, Any]:
            own.append(self.inner.collect(rollouts, samples, texts))
            signals = {n: [str(v.dtype).removeprefix("torch."), v.tolist()] for n, v in own[0].signals.items()}
            return {"signals": signals, "metrics": own[0].metrics, "spent": own[0].spent, "alarms": own[0].alarms}

        found = self.world.from_first(ask)
        if own:
            return own[0]
        device = rollouts.tokens.device
        signals = {
            name: torch.tensor(values, dtype=getattr(torch, dtype), device=device)
            for name, (dtype, values) in found.pop("signals").items()
        }
        return Verified(signals=signals, verdicts={}, **found)

    def close(self) -> None:
        """As `Verifying.close`."""
        self.inner.close()
