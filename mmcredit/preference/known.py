"""What is scored once per pair, before training: the reference, signals, other models, other prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmcredit.components import Needs
from mmcredit.data.sample import last_text
from mmcredit.policy.offsets import TokenOffsets
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.preference.base import Both, Known, Rewrite
from mmcredit.preference.pairs import EncodedPair, as_rollouts
from mmcredit.signals.plan import plan_scores

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollouts import Rollouts

AT_ONCE = 64  # pairs scored together
Load = Callable[[str], "Policy"]


class Scoring:
    """The `Tools` of a loss, over one set of pairs."""

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        policy: Policy,
        load: Load,
        max_prompt_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`load(path)` gives another model; `progress` is told the pairs scored."""
        self.pairs, self.policy, self.load = list(pairs), policy, load
        self.max_prompt_tokens, self.progress = max_prompt_tokens, progress or (lambda count: None)
        self._offsets = TokenOffsets(policy.tokenizer)

    def known(self, reference: str | None) -> Known:
        """The reference log-probs: of another model, or of the policy as it is now."""
        return Known(self._scored(self.policy) if reference is None else self.logprobs_of(reference))

    def signal(self, name: str) -> Sequence[Both]:
        """A signal that came with every pair, else one that passes of the policy as loaded give."""
        there = [name in pair.given for pair in self.pairs]
        if all(there):
            return [pair.given[name] for pair in self.pairs]
        if name == "hallucinated":
            missing = self.pairs[there.index(False)]
            raise ValueError(
                f"sample {missing.name} has no signal 'hallucinated'; give columns chosen_spans and rejected_spans, or "
                "pairs of a run with a verifier (--from-run)"
            )
        plan = plan_scores(Needs(signals=(name,)), on_policy=True)
        if not plan.passes:
            raise ValueError(f"signal {name!r} is no number of a pass over the tokens; name another one in the loss")
        # NaN is a token that the signal does not apply to: no reward, no weight.
        return self._over(self.policy, plan.passes, lambda results, _: plan.read(results)[name].nan_to_num(nan=0.0))

    def logprobs_of(self, path: str) -> Sequence[Both]:
        """Log-probs under the model at `path`, which is dropped afterwards."""
        from mmcredit.frozen import vocabulary_digest

        other = self.load(path)
        if vocabulary_digest(other.tokenizer) != vocabulary_digest(self.policy.tokenizer):
            raise ValueError(
                f"the tokenizer of {path} is not that of {self.policy.config.path}: ids would mean other tokens; give "
                "a model of the same vocabulary"
            )
        other.world = self.policy.world
        return self._scored(other)

    def logprobs_after(self, rewrite: Rewrite) -> Sequence[Both]:
        """Log-probs of the same ids behind prompts made by `rewrite`: one per answer, media in place."""
        found, texts = [], self.texts()
        for side in (0, 1):
            prompts = []
            for pair in self.pairs:
                asked = rewrite(last_text(pair.sample), texts[pair.number][side])
                try:
                    prompts.append(self.policy.encode(rewritten(pair.sample, asked)))
                except ValueError as error:
                    raise ValueError(f"no contrastive prompt: {error}") from error
            found.append([both[side] for both in self._over(self.policy, _LOGPROBS, _clean, prompts)])
        return list(zip(*found, strict=True))

    def texts(self) -> Sequence[tuple[str, str]]:
        """The answers as text, without special tokens."""
        decode = self._offsets.text
        return [(decode(pair.chosen), decode(pair.rejected)) for pair in self.pairs]

    def offsets(self, ids: Sequence[int]) -> Sequence[tuple[int, int]]:
        """Characters of each token."""
        return self._offsets.sampled(ids).spans

    def _scored(self, policy: Policy) -> list[Both]:
        return self._over(policy, _LOGPROBS, _clean)

    def _over(
        self,
        policy: Policy,
        passes: Sequence[Pass],
        read: Callable[[Any, Rollouts], Tensor],
        prompts: Sequence[Prompt] | None = None,
    ) -> list[Both]:
        found: list[Both] = []
        for start in range(0, len(self.pairs), AT_ONCE):
            part = self.pairs[start : start + AT_ONCE]
            rollouts = as_rollouts(part, policy.tokenizer.pad_token_id)
            own = (
                [policy.encode(pair.sample, self.max_prompt_tokens) for pair in part]
                if prompts is None
                else prompts[start : start + AT_ONCE]
            )
            values = read(policy.score(own, rollouts, passes, temperature=1.0), rollouts).float().cpu()
            for i, pair in enumerate(part):
                found.append((values[2 * i, : len(pair.chosen)], values[2 * i + 1, : len(pair.rejected)]))
            self.progress(len(part))
        return found


_LOGPROBS = (Pass(CLEAN, frozenset({"logprobs"})),)


def _clean(results: Mapping[Any, Mapping[str, Tensor]], _: Rollouts) -> Tensor:
    return results[CLEAN]["logprobs"]


def rewritten(sample: Sample, text: str) -> Sample:
    """The sample with another text in its last user message, its media before it."""
    messages = [dict(message) for message in sample.messages]
    at = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if at is None:
        raise ValueError(f"sample {sample.name} has no user message to rewrite")
    content = messages[at]["content"]
    if isinstance(content, str):
        messages[at]["content"] = text
    else:
        media = [part for part in content if part["type"] != "text"]
        messages[at]["content"] = [*media, {"type": "text", "text": text}]
    return replace(sample, messages=tuple(messages))
