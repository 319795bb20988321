"""How tokens are drawn inside vLLM: by the rule of the engine `hf`, so that both give the same responses.

vLLM calls a logits processor with the logits [N,V] of all rows that sample in this step. Ours draws the token itself
and hands on a row that is -inf everywhere but there, where it holds the token's log-prob: greedy decoding must take it,
and with `logprobs_mode="processed_logits"` vLLM returns the number that stands there, the log-prob.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from mmcredit.rollout.drawing.sampler import Sampler, row_uniforms
from mmcredit.rollout.drawing.stop import StopStrings
from mmcredit.rollout.drawing.temperature import EntropyTemperature
from mmcredit.rollout.engine import Sampling
from mmcredit.statistics.entropy_scale import EntropyScale

if TYPE_CHECKING:
    from torch import Tensor

KEY = "mmcredit"  # of SamplingParams.extra_args


@dataclass(frozen=True)
class Draw:
    """How the tokens of one call are drawn; plain values, since they cross into vLLM's own process."""

    sampling: Sampling
    suppressed: tuple[int, ...]
    end_ids: tuple[int, ...]
    adapted: EntropyTemperature | None = None

    def text(self) -> str:
        """As JSON."""
        adapted = None if self.adapted is None else asdict(self.adapted)
        plain = {"sampling": self.sampling.model_dump(), "suppressed": self.suppressed, "end_ids": self.end_ids}
        return json.dumps(plain | {"adapted": adapted})

    @classmethod
    def of(cls, text: str) -> Draw:
        """Back from `text`."""
        plain = json.loads(text)
        adapted = plain["adapted"]
        if adapted is not None:
            adapted = EntropyTemperature(**adapted | {"scale": EntropyScale(**adapted["scale"])})
        return cls(Sampling(**plain["sampling"]), tuple(plain["suppressed"]), tuple(plain["end_ids"]), adapted)

    def arguments(self, seed: int, limit: int, prefix: int, drawn: int = 0) -> dict[str, Any]:
        """`extra_args` of one response: `prefix` of its prompt's last ids belong to the response's text, and `drawn`
        tokens of it were sampled by earlier requests."""
        return {KEY: {"draw": self.text(), "seed": str(seed), "limit": limit, "prefix": prefix, "drawn": drawn}}


@dataclass
class _Row:
    draw: str
    uniforms: Tensor  # [limit + 1] f64; one more for the end token that a completed stop string is followed by
    prefix: list[int]
    said: list[int]  # vLLM's own list, which grows as it samples


class SeededDraw(LogitsProcessor):
    """Draws every token of the requests that carry `Draw.arguments`; leaves other requests alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.tokenizer_path = vllm_config.model_config.tokenizer
        self.rows: dict[int, _Row] = {}
        self.samplers: dict[str, tuple[Draw, Sampler]] = {}
        self.strings: dict[tuple[str, ...], StopStrings] = {}

    def is_argmax_invariant(self) -> bool:
        return False  # it decides the token

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.rows.pop(index, None)
        for index, params, prompt, said in batch_update.added:
            given = (params.extra_args or {}).get(KEY)
            if given is None:
                self.rows.pop(index, None)
                continue
            count = given["prefix"]
            prefix = list(prompt[-count:]) if count and prompt is not None else []
            drawn = given["drawn"]
            uniforms = row_uniforms([int(given["seed"])], drawn + given["limit"] + 1)[drawn:, 0]
            self.rows[index] = _Row(given["draw"], uniforms, prefix, said)
        for first, second, direction in batch_update.moved:
            a, b = self.rows.pop(first, None), self.rows.pop(second, None)
            if a is not None:
                self.rows[second] = a
            if b is not None and direction == MoveDirectionality.SWAP:
                self.rows[first] = b

    def apply(self, logits: Tensor) -> Tensor:
        alike: dict[tuple[str, bool], list[int]] = {}
        for index, row in self.rows.items():
            if index < logits.shape[0]:
                draw, _ = self._sampler(row.draw)
                early = len(row.said) < draw.sampling.min_new_tokens
                alike.setdefault((row.draw, early), []).append(index)
        for (text, early), indices in alike.items():
            draw, sampler = self._sampler(text)
            rows = torch.tensor(indices, device=logits.device)
            steps = [len(self.rows[i].said) for i in indices]
            uniforms = [
                self.rows[i].uniforms[min(t, len(self.rows[i].uniforms) - 1)]
                for i, t in zip(indices, steps, strict=True)
            ]
            own = logits.index_select(0, rows)
            temperature = None if draw.adapted is None else draw.adapted.temperatures(own)
            step = 0 if early else draw.sampling.min_new_tokens
            tokens, logprobs = sampler(own, torch.stack(uniforms).to(logits.device), step, temperature)
            if draw.sampling.stop:
                ended = torch.tensor([self._ended(self.rows[i], draw) for i in indices], device=logits.device)
                tokens = torch.where(ended, draw.end_ids[0], tokens)
                logprobs = logprobs.masked_fill(ended, 0.0)
            logits[rows] = -torch.inf
            logits[rows, tokens] = logprobs
        return logits

    def _ended(self, row: _Row, draw: Draw) -> bool:
        return completed(row.prefix, row.said, draw.sampling, self._stop_strings(draw.sampling.stop))

    def _sampler(self, text: str) -> tuple[Draw, Sampler]:
        if text not in self.samplers:
            if len(self.samplers) > 64:
                self.samplers.clear()
            draw = Draw.of(text)
            self.samplers[text] = (draw, Sampler(draw.sampling, draw.suppressed, draw.end_ids, self.device))
        return self.samplers[text]

    def _stop_strings(self, stop: tuple[str, ...]) -> StopStrings:
        if stop not in self.strings:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_path)
            self.strings[stop] = StopStrings(stop, tokenizer, len(tokenizer), torch.device("cpu"))
        return self.strings[stop]


def completed(prefix: Sequence[int], said: Sequence[int], sampling: Sampling, strings: StopStrings) -> bool:
    """Whether the last of the ids `said` completes a stop string, where one may end the response already."""
    if not said or len(said) < sampling.min_new_tokens:
        return False
    return strings.ends([*prefix, *said][-strings.window :])
