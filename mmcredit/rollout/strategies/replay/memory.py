"""Earlier responses by prompt: bounded, kept as the ids that were sampled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """One response."""

    tokens: Tensor  # [L] int32, on the CPU
    logprobs: Tensor  # [L] f32, of the policy that sampled it
    success: bool
    reward: float
    parts: Mapping[str, float]
    truncated: bool
    epochs: float  # passes over the data when it was sampled
    serial: int  # counts what was ever added: larger = newer


class ResponseMemory:
    """First in, first out per prompt, but of each outcome (success, failure) one response at least stays."""

    def __init__(self, per_prompt: int, max_age: float, max_tokens: int) -> None:
        """`per_prompt` responses a prompt, for `max_age` passes over the data, `max_tokens` tokens in all."""
        self.per_prompt, self.max_age, self.max_tokens = per_prompt, max_age, max_tokens
        self.kept: dict[str, list[Stored]] = {}  # by prompt, the one added to last at the end; responses oldest first
        self.history: dict[str, tuple[int, int]] = {}  # by prompt: successes, responses, of all ever counted
        self.tokens = 0
        self._serial = 0

    def success_rate(self, prompt: str) -> float | None:
        """Share of successes among all responses ever counted; None for a prompt never seen."""
        successes, responses = self.history.get(prompt, (0, 0))
        return successes / responses if responses else None

    def count(self, prompt: str, success: bool) -> None:
        """Take a response into the success rate."""
        successes, responses = self.history.get(prompt, (0, 0))
        self.history[prompt] = (successes + success, responses + 1)

    def add(self, prompt: str, tokens: Tensor, logprobs: Tensor, epochs: float, success: bool, **outcome: Any) -> None:
        """Store a response [L]; `outcome`: reward, parts, truncated. The oldest ones go where a bound is passed."""
        self._serial += 1
        entry = Stored(
            tokens.to("cpu", torch.int32, copy=True),
            logprobs.to("cpu", torch.float32, copy=True),
            success=success,
            epochs=epochs,
            serial=self._serial,
            **outcome,
        )
        own = [*self.kept.pop(prompt, []), entry]
        self.tokens += len(entry.tokens)
        while len(own) > self.per_prompt:
            alike = [sum(o.success == other.success for other in own) for o in own]
            # With room for one only, the newest stays.
            place = next((i for i, n in enumerate(alike) if n > 1), 0)
            self.tokens -= len(own.pop(place).tokens)
        self.kept[prompt] = own
        while self.tokens > self.max_tokens and len(self.kept) > 1:
            oldest = next(iter(self.kept))
            self.tokens -= sum(len(s.tokens) for s in self.kept.pop(oldest))

    def pick(
        self, prompt: str, success: bool, count: int, epochs: float, longest: int, used: Collection[int] = ()
    ) -> list[Stored]:
        """At most `count` responses of that outcome, the newest first: not too old, not longer than `longest` tokens,
        and not in `used` (serials)."""
        usable = [
            s
            for s in reversed(self.kept.get(prompt, []))
            if s.success == success
            and s.serial not in used
            and len(s.tokens) <= longest
            and epochs - s.epochs <= self.max_age
        ]
        return usable[:count]

    def state_dict(self) -> dict[str, Any]:
        """Ids and log-probs as two tensors, the rest as JSON values."""
        entries = [(prompt, s) for prompt, own in self.kept.items() for s in own]
        empty = torch.zeros(0)
        return {
            "tokens": torch.cat([s.tokens for _, s in entries] or [empty.int()]),
            "logprobs": torch.cat([s.logprobs for _, s in entries] or [empty]),
            "entries": [
                [p, len(s.tokens), s.success, s.reward, dict(s.parts), s.truncated, s.epochs, s.serial]
                for p, s in entries
            ],
            "history": {prompt: list(value) for prompt, value in self.history.items()},
            "serial": self._serial,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.kept, self.tokens, self._serial = {}, len(state["tokens"]), int(state["serial"])
        self.history = {prompt: (int(s), int(n)) for prompt, (s, n) in state["history"].items()}
        lengths = [int(entry[1]) for entry in state["entries"]]
        cut = zip(state["tokens"].split(lengths), state["logprobs"].split(lengths), strict=True)
        for (prompt, _, success, reward, parts, truncated, epochs, serial), (tokens, logprobs) in zip(
            state["entries"], cut, strict=True
        ):
            entry = Stored(tokens.clone(), logprobs.clone(), success, reward, parts, truncated, epochs, serial)
            self.kept.setdefault(prompt, []).append(entry)
