"""One sequence read by one model, with its cache: what models that take turns need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache

from mmcredit.rollout.drawing.sampler import Sampler, row_uniforms
from mmcredit.rollout.drawing.stop import StopCondition, StopStrings
from mmcredit.rollout.engine import Request, Sampling, with_stops
from mmcredit.rollout.engines.hf.decoder import Decoder

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt


class Stream:
    """A prompt and what was read behind it. `options` go to every forward of the body."""

    def __init__(self, policy: Policy, prompt: Prompt, **options: Any) -> None:
        self.policy, self.prompt, self.options = policy, prompt, options
        self.decoder = Decoder(policy)
        self.cache = DynamicCache()
        self.count = 0  # tokens read behind the prompt
        self.computed = len(prompt)  # tokens that went through the body
        states = self.decoder.read([prompt], past_key_values=self.cache, use_cache=True, **options)
        self.hidden: Tensor = states[0, -1]  # [d], predicts the next token

    def read(self, ids: Sequence[int]) -> Tensor:
        """Read further tokens; hidden states [n,d] at them. `hidden` is the last one's afterwards."""
        assert len(ids) > 0, "nothing to read"
        tokens = torch.tensor([list(ids)], dtype=torch.int64, device=self.decoder.device)
        start = self.prompt.next_position + self.count
        positions = torch.arange(start, start + len(ids), device=self.decoder.device)[None]
        out = self.decoder.body(
            inputs_embeds=self.decoder.embed_tokens(tokens),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.options,
        )
        self.decoder.count(len(ids))
        self.count += len(ids)
        self.computed += len(ids)
        self.hidden = out.last_hidden_state[0, -1]
        return out.last_hidden_state[0]

    def cut(self, count: int) -> None:
        """Forget what was read behind the first `count` tokens; something must be read before `logits`."""
        if self.count > count:
            self.cache.crop(count - self.count)  # negative: how many are taken away
        self.count = count

    def logits(self) -> Tensor:
        """[V] float32 of the next token."""
        self.decoder.count_head(1)
        return self.decoder.head(self.hidden[None])[0].float()


class Draws:
    """How one response is drawn: the sampler, its uniforms, its ends; the same draws as the engine `hf` makes."""

    def __init__(self, policy: Policy, sampling: Sampling, request: Request, member: int) -> None:
        if request.prefix:
            raise ValueError(
                "a decoding at test time answers whole questions; continuations of a prefix are for rollouts"
            )
        sampling = with_stops(sampling, policy.stop_strings)
        decoder = Decoder(policy)
        ends = {*policy.eos_token_ids, *sampling.stop_token_ids}
        self.limit = request.new_tokens(sampling.max_new_tokens)
        self.sampler = Sampler(sampling, policy.suppressed_ids, ends, decoder.device)
        strings = None
        if sampling.stop:
            strings = StopStrings(sampling.stop, policy.tokenizer, decoder.vocabulary, decoder.device)
        self.stop = StopCondition(ends, strings, sampling.min_new_tokens, decoder.vocabulary, decoder.device)
        self.uniforms = row_uniforms([request.seeds[member]], self.limit).to(decoder.device)
        self.tokens = torch.zeros(self.limit, 1, dtype=torch.int64, device=decoder.device)

    def draw(self, logits: Tensor, step: int) -> tuple[int, float]:
        """Token and log-prob at `step` from logits [V]."""
        token, logprob = self.sampler(logits[None], self.uniforms[step], step)
        return int(token), float(logprob)

    def ends(self, token: int, step: int) -> bool:
        """Put `token` at `step`; whether the response ends with it."""
        self.tokens[step, 0] = token
        return bool(self.stop(self.tokens, step, [()]))
