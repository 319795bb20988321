"""Arbitrage's loop: a draft model writes a step, a router lets the target write it anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from mmcredit.data.sample import last_text
from mmcredit.decoding.advantage import acceptance, router_probability
from mmcredit.decoding.engine import OneByOne
from mmcredit.decoding.steps import SEPARATOR, annotate, split_steps, step_ids
from mmcredit.decoding.stream import Draws, Stream
from mmcredit.decoding.two_models import own_prompt
from mmcredit.rollout.engine import Request, Response, Sampling

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy


class StepRouter(Protocol):
    """Predicts from the draft's side alone whether the target's step would be better."""

    def score(
        self, problem: str, steps: Sequence[str], writers: Sequence[int], logprobs: Sequence[float] = ()
    ) -> float:
        """y in [0, 1] for the last of `steps`; `writers`: 0 draft, 1 target; `logprobs` of the last step's tokens."""
        ...


class ConfidenceRouter:
    """1 - the geometric mean probability of the draft's tokens: an unsure step is worth another writer."""

    def score(
        self, problem: str, steps: Sequence[str], writers: Sequence[int], logprobs: Sequence[float] = ()
    ) -> float:
        if not logprobs:
            return 0.0
        return 1.0 - float(torch.tensor(list(logprobs)).mean().exp())


class ModelRouter:
    """A token classifier of two labels, read at the last token, with the writers' names before the steps."""

    def __init__(self, model: Any, tokenizer: Any, separator: str = SEPARATOR, longest: int = 4096) -> None:
        self.model, self.tokenizer, self.separator, self.longest = model.eval(), tokenizer, separator, longest

    @classmethod
    def load(cls, path: str, separator: str = SEPARATOR, longest: int = 4096) -> ModelRouter:
        """From a folder with a transformers token classifier. Raises ValueError if it has not two labels."""
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            model = AutoModelForTokenClassification.from_pretrained(path)
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"router_model {path} is no token classifier: {error}") from None
        if model.config.num_labels != 2:
            raise ValueError(f"router_model {path} has {model.config.num_labels} labels; two are wanted")
        return cls(model, tokenizer, separator, longest)

    @torch.inference_mode()
    def score(
        self, problem: str, steps: Sequence[str], writers: Sequence[int], logprobs: Sequence[float] = ()
    ) -> float:
        """Steps that do not fit are left out from the oldest on; the problem never is."""
        named = annotate(steps, [*writers[: len(steps) - 1], 0])
        while True:
            ids = step_ids(problem, self.separator.join(named), self.tokenizer, self.separator)
            if len(ids) <= self.longest or len(named) == 1:
                break
            named = named[1:]
        device = next(self.model.parameters()).device
        return router_probability(self.model(input_ids=torch.tensor([ids], device=device)).logits)


class ScriptedRouter:
    """A constant: 0 keeps every step, 1 escalates every one."""

    def __init__(self, value: float) -> None:
        self.value = value

    def score(
        self, problem: str, steps: Sequence[str], writers: Sequence[int], logprobs: Sequence[float] = ()
    ) -> float:
        return self.value


class StepSpeculator(OneByOne):
    """A `RolloutEngine` of a draft and a target. A step ends with the separator, with the response, or at the limit.

    The target writes a step only if it is asked to (the public script lets it write every one). An empty step is
    accepted without asking; a draft that ends the response is asked about like any other.
    """

    def __init__(
        self,
        draft: Policy,
        target: Policy,
        router: StepRouter,
        sep: str = SEPARATOR,
        tau: float = 0.5,
        max_steps: int = 150,
        anew: bool = False,
    ) -> None:
        super().__init__(draft, self._answer)
        self.draft, self.target, self.router, self.sep, self.tau = draft, target, router, sep, tau
        self.max_steps, self.anew = max_steps, anew
        self.lengths: list[int] = []  # of the draft's steps
        self.escalated: list[bool] = []
        self.target_tokens = 0
        self._texts: Callable[[Sequence[int]], str] = lambda ids: draft.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _answer(self, request: Request, member: int, sampling: Sampling) -> Response:
        draws = Draws(self.draft, sampling, request, member)
        sample = request.prompt.sample
        problem = "" if sample is None else last_text(sample)
        draft = Stream(self.draft, own_prompt(self.draft, request) if self.anew else request.prompt)
        target: Stream | None = None
        tokens: list[int] = []
        logprobs: list[float] = []
        writers: list[int] = []
        ended, theirs = False, 0
        while not ended and len(tokens) < draws.limit and len(writers) < self.max_steps:
            start = len(tokens)
            step, chances, ended = self._step(draft, tokens, draws)
            text = self._texts(step)
            escalate = False
            if text.strip() or ended:
                steps = [*split_steps(self._texts(tokens), self.sep)[: len(writers)], text.removesuffix(self.sep)]
                escalate = self.router.score(problem, steps, [*writers, 0], chances) > self.tau
                self.lengths.append(len(step))
                self.escalated.append(escalate)
            if escalate:
                if target is None:
                    target = Stream(self.target, own_prompt(self.target, request))
                if missed := tokens[target.count :]:
                    target.read(missed)
                step, chances, ended = self._step(target, tokens, draws)
                draft.cut(start)
                draft.read(step)
                theirs += len(step)
            elif not ended and draft.count < start + len(step):
                draft.read(step[draft.count - start :])
            tokens += step
            logprobs += chances
            writers.append(int(escalate))
        self.target_tokens += theirs
        finish = "stop" if ended else "length"
        return Response(request.tag, member, tokens, logprobs, finish, {"large_tokens": float(theirs)})  # type: ignore[arg-type]

    def _step(self, stream: Stream, before: Sequence[int], draws: Draws) -> tuple[list[int], list[float], bool]:
        """Tokens of one step behind `before`, their log-probs, and whether the response ends with it. The stream has
        read all of them but the last."""
        step: list[int] = []
        chances: list[float] = []
        while True:
            place = len(before) + len(step)
            token, chance = draws.draw(stream.logits(), place)
            step.append(token)
            chances.append(chance)
            ended = draws.ends(token, place)
            if ended or place + 1 >= draws.limit or self.sep in self._texts(step):
                return step, chances, ended
            stream.read([token])

    def report(self) -> dict[str, float]:
        """Tokens, seconds, share of tokens by the target, and what was accepted by tokens and by steps."""
        by_tokens, by_steps = acceptance(self.lengths, self.escalated)
        return {
            **super().report(),
            "large_share": self.target_tokens / max(1, self.tokens),
            "token_acceptance": by_tokens,
            "step_acceptance": by_steps,
            "steps": len(self.escalated),
        }

    def alone(self) -> Mapping[str, StepSpeculator]:
        """Each model alone, through the same loop."""
        never = ScriptedRouter(0.0)
        return {
            "draft": StepSpeculator(self.draft, self.target, never, self.sep, 1.0, self.max_steps),
            "target": StepSpeculator(self.target, self.target, never, self.sep, 1.0, self.max_steps, anew=True),
        }
