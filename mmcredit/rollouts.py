"""The two values that travel through a step: what was sampled (`Rollouts`) and what it earned (`Credit`).

Shapes: B responses, T response tokens (right padded), P prompts, G responses per prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Fields hold one of these kinds; float64 is for tests and finite differences.
_DTYPES = {"int": ("int64",), "bool": ("bool",), "float": ("float32", "float64")}


def _check(name: str, value: Any, shape: tuple[int, ...], kind: str, device: torch.device) -> None:
    """Raise a ValueError that names the field and both shapes, dtypes or devices."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a torch.Tensor of shape {list(shape)}, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        hint = ""
        if name == "advantages" and value.ndim == 1:
            hint = "; an advantage belongs to a token: write advantages[:, None] * mask if all tokens share one"
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}{hint}")
    dtypes = [getattr(torch, dtype) for dtype in _DTYPES[kind]]
    if value.dtype not in dtypes:
        wanted = " or ".join(str(d) for d in dtypes)
        raise ValueError(f"{name} must be {wanted}, got {value.dtype}")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, but tokens are on {device}")
    if value.requires_grad:
        raise ValueError(f"{name} carries a gradient; rollouts and credit are constants: detach it")


@dataclass(frozen=True)
class Inserted:
    """Tokens in a response that the policy did not sample, with the media behind them.

    `piece` is encoded as a prompt is (`mmcredit.policy.prompt.Prompt`), its positions counted from 0: they begin where
    the response stands. Responses that were given the same thing share one piece, so that its media are there once.
    """

    at: int  # column of the first token
    piece: Any  # n tokens, their positions [n] or [3,n], visual [n], media and media_keys; the last one is text

    @property
    def end(self) -> int:
        """Column behind the last token."""
        return self.at + len(self.piece.tokens)


@dataclass(frozen=True)
class Rollouts:
    """One batch of sampled responses, and all that is known about them.

    Only `tokens`, `mask`, `group` and `rewards` are needed. Raises ValueError for a wrong shape, dtype or device.
    """

    tokens: Tensor  # [B,T] int64, response ids exactly as sampled; never re-tokenised
    mask: Tensor  # [B,T] bool, sampled by the policy: may carry credit; implies valid
    group: Tensor  # [B] int64, equal numbers = same prompt; with `samples`, the index into them
    rewards: Tensor  # [B] f32, total reward
    valid: Tensor = None  # type: ignore[assignment]  # [B,T] bool, a real response token, inserted ones included
    reward_parts: Mapping[str, Tensor] = field(default_factory=dict)  # [B] f32 each
    truncated: Tensor = None  # type: ignore[assignment]  # [B] bool, stopped by the length limit
    sampler_logprobs: Tensor | None = None  # [B,T] f32, as reported by the rollout engine
    old_logprobs: Tensor | None = None  # [B,T] f32, recomputed by the training engine before the update
    segments: Tensor | None = None  # [B,T] int64, role of a token (0 none, 1 retrieval, 2 reasoning/answer)
    signals: Mapping[str, Tensor] = field(default_factory=dict)  # what methods asked for, by name
    samples: tuple[Any, ...] | None = None  # P samples; media are stored once per prompt
    inserted: tuple[tuple[Inserted, ...], ...] | None = None  # per response, in order: valid True, mask False there

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, torch.Tensor) or self.tokens.ndim != 2:
            shape = list(self.tokens.shape) if isinstance(self.tokens, torch.Tensor) else type(self.tokens).__name__
            raise ValueError(f"tokens must have shape [B, T], got {shape}")
        b, t = self.tokens.shape
        device = self.tokens.device
        if self.valid is None:
            object.__setattr__(self, "valid", self.mask)
        if self.truncated is None:
            object.__setattr__(self, "truncated", torch.zeros(b, dtype=torch.bool, device=device))
        object.__setattr__(self, "reward_parts", dict(self.reward_parts))
        object.__setattr__(self, "signals", dict(self.signals))
        _check("tokens", self.tokens, (b, t), "int", device)
        _check("mask", self.mask, (b, t), "bool", device)
        _check("valid", self.valid, (b, t), "bool", device)
        _check("group", self.group, (b,), "int", device)
        _check("rewards", self.rewards, (b,), "float", device)
        _check("truncated", self.truncated, (b,), "bool", device)
        for name, value in self.reward_parts.items():
            _check(f"reward_parts[{name!r}]", value, (b,), "float", device)
        for name in ("sampler_logprobs", "old_logprobs"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), (b, t), "float", device)
        if self.segments is not None:
            _check("segments", self.segments, (b, t), "int", device)
        for name, value in self.signals.items():
            self._check_signal(name, value, b)
        if bool((self.mask & ~self.valid).any()):
            row = int((self.mask & ~self.valid).any(1).nonzero()[0])
            raise ValueError(f"mask must imply valid, but response {row} has a credited token that is not valid")
        if self.samples is not None:
            object.__setattr__(self, "samples", tuple(self.samples))
            if b and not 0 <= int(self.group.min()) <= int(self.group.max()) < len(self.samples):
                raise ValueError(
                    f"group must index samples: got numbers {int(self.group.min())}..{int(self.group.max())} "
                    f"for {len(self.samples)} samples"
                )

        if self.inserted is not None:
            object.__setattr__(self, "inserted", tuple(tuple(own) for own in self.inserted))
            self._check_inserted()

    def _check_inserted(self) -> None:
        """Pieces stand one behind the other in valid, not sampled places, and are the tokens there."""
        assert self.inserted is not None
        if len(self.inserted) != len(self):
            raise ValueError(f"inserted must have {len(self)} entries, one per response, got {len(self.inserted)}")
        if not any(self.inserted):
            return
        tokens, valid, mask = self.tokens.cpu(), self.valid.cpu(), self.mask.cpu()
        for row, own in enumerate(self.inserted):
            end = 0
            for one in own:
                place, where = slice(one.at, one.end), f"response {row}: what is inserted at {one.at}..{one.end - 1}"
                if one.at < end or one.end > tokens.shape[1] or one.end == one.at:
                    raise ValueError(
                        f"{where} must be a token or more, behind column {end - 1} and inside the "
                        f"{tokens.shape[1]} columns"
                    )
                if not torch.equal(tokens[row, place], one.piece.tokens):
                    raise ValueError(f"{where} differs from the tokens there")
                if not bool(valid[row, place].all()) or bool(mask[row, place].any()):
                    raise ValueError(f"{where} must be valid and not in mask: the policy did not sample it")
                if bool(one.piece.visual[-1]):
                    raise ValueError(f"{where} ends in a visual token; nothing would predict what follows it")
                end = one.end

    def _check_signal(self, name: str, value: Tensor, b: int) -> None:
        # Signals differ in shape ([B,T], [B,T,d], [B,S], [K,B,T]); the response axis is what all of them share.
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"signals[{name!r}] must be a torch.Tensor, got {type(value).__name__}")
        axis = 1 if name in SIGNALS_BY_VIEW else 0
        if value.ndim <= axis or value.shape[axis] != b:
            raise ValueError(f"signals[{name!r}] must have {b} responses on axis {axis}, got shape {list(value.shape)}")
        if value.device != self.tokens.device:
            raise ValueError(f"signals[{name!r}] is on {value.device}, but tokens are on {self.tokens.device}")
        if value.requires_grad:
            raise ValueError(f"signals[{name!r}] carries a gradient; signals are constants: detach it")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def lengths(self) -> Tensor:
        """[B] int64: credited tokens of each response."""
        return self.mask.sum(1)

    def group_index(self) -> tuple[Tensor, int]:
        """[B] int64 numbers 0..P-1 by order of the group values, and P."""
        values, index = torch.unique(self.group, return_inverse=True)
        return index, int(values.numel())

    def signal(self, name: str) -> Tensor:
        """The named signal. Raises ValueError if no pass produced it."""
        if name not in self.signals:
            known = ", ".join(sorted(self.signals)) or "none"
            raise ValueError(
                f"signal {name!r} is missing (present: {known}); a method that reads it must list it in needs()"
            )
        return self.signals[name]

    def replace(self, **changes: Any) -> Rollouts:
        """A copy with some fields changed; everything is checked again."""
        return dataclasses.replace(self, **changes)

    def with_signals(self, signals: Mapping[str, Tensor]) -> Rollouts:
        """A copy with these signals added."""
        return self.replace(signals={**self.signals, **signals})

    def select(self, rows: Tensor | Sequence[int]) -> Rollouts:
        """The responses `rows` (indices), in that order. `group` keeps its numbers, `samples` stays whole."""
        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.tokens.device)
        inserted = None if self.inserted is None else tuple(self.inserted[row] for row in rows.tolist())
        return self._map(lambda name, x: x.index_select(1 if name in SIGNALS_BY_VIEW else 0, rows), inserted=inserted)

    def to(self, device: torch.device | str) -> Rollouts:
        """All tensors on `device`."""
        return self._map(lambda name, x: x.to(device))

    def _map(self, function: Any, **changes: Any) -> Rollouts:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, torch.Tensor):
                changes[f.name] = function(f.name, value)
            elif isinstance(value, dict):
                changes[f.name] = {k: function(k, v) for k, v in value.items()}
        return self.replace(**changes)


# Signals with a leading view axis: [K,B,T].
SIGNALS_BY_VIEW = frozenset({"view_logprobs"})


@dataclass(frozen=True)
class Trace:
    """What one method did: its name, the seconds it took, and the weights it applied (None = it set advantages)."""

    name: str
    seconds: float
    weights: Tensor | None  # [B,T] f32, advantage after / advantage before where that is defined
    notes: Mapping[str, float] = field(default_factory=dict)  # numbers the method wants logged


@dataclass(frozen=True)
class Credit:
    """What each token earned. Detached; 0 where the policy did not sample.

    Raises ValueError for a [B] advantage, a wrong shape, a loss mask outside `mask`, or a non-finite advantage.
    """

    advantages: Tensor  # [B,T] f32
    loss_mask: Tensor  # [B,T] bool, tokens that enter the loss (subset of Rollouts.mask)
    clip_low: Tensor | None = None  # [B,T] f32, ratio may fall to 1-low
    clip_high: Tensor | None = None  # [B,T] f32, ratio may rise to 1+high
    ratio: str | None = None  # a method may fix the ratio kind
    trace: tuple[Trace, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.loss_mask, torch.Tensor) or self.loss_mask.ndim != 2:
            shape = (
                list(self.loss_mask.shape)
                if isinstance(self.loss_mask, torch.Tensor)
                else type(self.loss_mask).__name__
            )
            raise ValueError(f"loss_mask must have shape [B, T], got {shape}")
        size, device = tuple(self.loss_mask.shape), self.loss_mask.device
        _check("loss_mask", self.loss_mask, size, "bool", device)
        _check("advantages", self.advantages, size, "float", device)
        for name in ("clip_low", "clip_high"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), size, "float", device)
        object.__setattr__(self, "trace", tuple(self.trace))
        finite = torch.isfinite(self.advantages)
        if not bool(finite.all()):
            row, column = (int(i) for i in (~finite).nonzero()[0])
            value = float(self.advantages[row, column])
            raise ValueError(f"advantages must be finite, got {value} at response {row}, token {column}")

    @classmethod
    def empty(cls, rollouts: Rollouts) -> Credit:
        """No credit yet: advantages 0, every token the policy sampled in the loss."""
        zeros = torch.zeros(rollouts.tokens.shape, dtype=rollouts.rewards.dtype, device=rollouts.tokens.device)
        return cls(advantages=zeros, loss_mask=rollouts.mask)

    def replace(self, **changes: Any) -> Credit:
        """A copy with some fields changed; everything is checked again."""
        return dataclasses.replace(self, **changes)

    def scale(self, weights: Tensor) -> Credit:
        """Advantages times `weights` [B,T]; exactly 0 outside the loss mask whatever stands there.

        Raises ValueError for a tensor of another shape ([B,1] and a single number are taken for every token).
        """
        size = self.advantages.shape
        if weights.ndim and weights.shape not in (size, (size[0], 1)):
            raise ValueError(f"weights must have shape {list(size)} ([B, T]), got {list(weights.shape)}")
        scaled = torch.where(self.loss_mask, self.advantages * weights, torch.zeros_like(self.advantages))
        return self.replace(advantages=scaled)

    def select(self, rows: Tensor | Sequence[int]) -> Credit:
        """The responses `rows` (indices), in that order. The trace belongs to the whole batch and is dropped."""
        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.loss_mask.device)

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.index_select(0, rows)

        return self.replace(
            advantages=pick(self.advantages),
            loss_mask=pick(self.loss_mask),
            clip_low=pick(self.clip_low),
            clip_high=pick(self.clip_high),
            trace=(),
        )


def broadcast(values: Tensor, mask: Tensor) -> Tensor:
    """A number per response [B] put on each of its tokens: [B,T], exactly 0 where mask is False."""
    return torch.where(mask, values[:, None], torch.zeros((), dtype=values.dtype, device=values.device))
