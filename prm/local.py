"""A verifier model in this process, on mmcredit's own policy and rollout engine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.components import build
from mmcredit.data.sample import Sample
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.seeds import derive
from prm.parse import Verification, failed, parse_verification
from prm.prompt import Layout, parts_of, prompt_version
from prm.verifier import Query, sound_queries

if TYPE_CHECKING:
    from mmcredit.data.media import MediaLimits
    from mmcredit.policy.policy import Policy


class LocalVerifier:
    """Asks a vision-language model that is loaded here. Queries are answered in batches, greedily by default.

    Not for several threads at once. A response that the tokenizer or the template refuses is `prm_error`.
    """

    def __init__(
        self,
        policy: Policy,
        name: str,
        layout: Layout = "full",
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        batch: int = 64,
    ) -> None:
        self.policy, self.layout, self.batch = policy, layout, batch
        self.engine = build("engine", "hf").open(policy)  # type: ignore[attr-defined]
        self.sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
        self.version = f"{name} at T={temperature:g}, {max_new_tokens} tokens, {layout} {prompt_version(layout)}"

    @classmethod
    def load(cls, model: Any, limits: MediaLimits | None = None, **settings: Any) -> LocalVerifier:
        """From a `ModelConfig` or a path. The weights are part of the version. Raises ValueError as `Policy.load`."""
        from mmcredit.policy.config import ModelConfig
        from mmcredit.policy.policy import Policy

        config = ModelConfig(path=str(model)) if isinstance(model, str | Path) else model
        policy = Policy.load(config, 0, limits)
        return cls(policy, f"{config.path} {_fingerprint(policy)}", **settings)

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        """One verification per query, in order."""
        asked, known = sound_queries(queries)
        for start in range(0, len(asked), self.batch):
            part = asked[start : start + self.batch]
            for i, said in zip(part, self._batch([queries[i] for i in part]), strict=True):
                known[i] = said
        assert all(said is not None for said in known)
        return [said for said in known if said is not None]

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _batch(self, queries: Sequence[Query]) -> list[Verification]:
        began = time.monotonic()
        out: list[Verification | None] = [None] * len(queries)
        requests = []
        for i, query in enumerate(queries):
            try:
                prompt = self.policy.encode(self._sample(query))
            except ValueError as error:
                out[i] = failed(f"query: {error}")
                continue
            seed = derive(query.attempt, "verifier", query.sample_id, query.response)
            requests.append(Request(prompt, (seed,), tag=i))
        try:
            responses = self.engine.generate(requests, self.sampling)
        except (ValueError, RuntimeError) as error:  # too long for the model; logits that are not finite
            if len(queries) == 1:
                return [out[0] or failed(f"model: {error}")]
            half = len(queries) // 2  # one query must not take the others along
            return [*self._batch(queries[:half]), *self._batch(queries[half:])]
        seconds = (time.monotonic() - began) / max(1, len(responses))
        lengths = {request.tag: len(request.prompt) for request in requests}
        for response in responses:
            text = self.policy.tokenizer.decode(response.tokens, skip_special_tokens=True)
            usage = {
                "calls": 1.0,
                "prompt_tokens": float(lengths[response.tag]),
                "new_tokens": float(len(response.tokens)),
                "seconds": seconds,
            }
            said = parse_verification(text, cut=response.finish == "length")
            out[response.tag] = replace(said, usage=usage)
        assert all(said is not None for said in out)
        return [said for said in out if said is not None]

    def _sample(self, query: Query) -> Sample:
        return verification_sample(query, self.layout)


def verification_sample(query: Query, layout: Layout) -> Sample:
    """The query as a sample: what a local verifier reads, and what one is trained on."""
    system, parts = parts_of(query, layout)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": parts})
    return Sample(query.sample_id, tuple(messages), query.images)


def _fingerprint(policy: Policy) -> str:
    """A short hash of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
