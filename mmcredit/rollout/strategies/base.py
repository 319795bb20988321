"""What a sampling strategy is: a layer around plain sampling that may change what is asked and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mmcredit.components import Component

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.answers.item import RewardItem
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollout.engine import Request, Response, RolloutEngine, Sampling
    from mmcredit.rollout.reaction import Reaction
    from mmcredit.rollout.volume import Volume
    from mmcredit.rollouts import Rollouts


class Stage(Protocol):
    """What the rollout stage of a step offers its strategies. Everything asked through it is counted as cost."""

    step: int  # of the run, from 0
    total_steps: int
    group: int  # responses per prompt the run asks for
    seed: int  # of the run
    policy: Policy
    engine: RolloutEngine
    sampling: Sampling
    max_prompt_tokens: int | None  # prompts over it are refused by `encode`
    reward_names: tuple[str, ...]  # parts of the reward, in the order of the config

    @property
    def epochs(self) -> float:
        """Passes over the training prompts so far."""
        ...

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        ...

    def take(self, count: int) -> list[tuple[Sample, Prompt]]:
        """The next `count` usable prompts of the run's order."""
        ...

    def encode(self, sample: Sample) -> Prompt:
        """The prompt of a sample. Raises ValueError if it cannot be used."""
        ...

    def asks(self, pairs: Sequence[tuple[Sample, Prompt]], group: int | None = None) -> list[Ask]:
        """An ask per prompt with `group` fresh seeds each (default: the run's)."""
        ...

    def seeds(self, *purpose: int | str, count: int) -> tuple[int, ...]:
        """Seeds derived from the run's seed, the step and `purpose`."""
        ...

    def sample(self, asks: Sequence[Ask], sampling: Sampling | None = None) -> Batch:
        """Responses to `asks`, in order, with rewards of the whole response (prefix included), on the policy's device.

        Asks of one prompt (the same object) are one group. Rows whose sampler saw another prompt (`Ask.shown`) carry
        NaN as `sampler_logprobs`: they are the log-probs of another input.
        """
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling | None = None) -> list[Response]:
        """Bare responses without rewards, for probes."""
        ...

    def score(self, items: Sequence[RewardItem]) -> list[float]:
        """Total rewards of texts, for probes and replay."""
        ...

    def judge(self, items: Sequence[RewardItem]) -> tuple[list[float], Mapping[str, list[float]]]:
        """Total rewards of texts, and their parts by name."""
        ...

    def measure(
        self, name: str, prompts: Sequence[Prompt], rollouts: Rollouts, outputs: Sequence[str], temperature: float
    ) -> Mapping[str, Tensor]:
        """[B,T] f32 per output of one no-gradient pass over texts of a strategy (see `Policy.score`).

        It is counted in cost.json as the pass `name` and timed as the stage `name`, apart from the run's own passes.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens skipped."""
        ...

    def note(self, name: str, value: float) -> None:
        """Log `value` as rollout/<name>; a second note of the name in one step is added to the first."""
        ...

    def spend(self, name: str, **amounts: float) -> None:
        """Extra work of the strategy `name` (responses, tokens, ...): added up in cost.json as the stage rollout/NAME,
        and noted for the step as rollout/NAME/AMOUNT."""
        ...

    def event(self, message: str) -> None:
        """Write a line into the run's log of events."""
        ...


Rest = Callable[[Sequence["Ask"]], "Batch"]


class Run(Protocol):
    """The blocks of a run config (`mmcredit.config.RunConfig`) that a strategy may look at when it is read."""

    rollout: Any
    rewards: Any
    credit: Any
    objective: Any
    train: Any


@dataclass(frozen=True)
class Window:
    """A stretch of a video that a response asks for, or that it should: drawn in the report."""

    name: str  # asked, gold, ...
    start: float  # seconds
    end: float
    rate: float | None = None  # frames a second
    status: str = ""  # what became of it
    at: int = -1  # first of the response's tokens that ask for it; -1: none do
    count: int = 0  # of these tokens


class Strategy(Component):
    """A layer around sampling. The first of the config's list is the outermost, plain sampling the innermost.

    `__call__(asks, rest, stage)` gets what is asked and `rest`, which samples and rewards asks through the layers
    inside. It may ask more (dynamic sampling), ask differently (noised images), choose from what comes back (D3S), or
    attach signals that cost extra rollouts (prefix continuations). It runs before any score pass, so what it leaves
    out costs none.
    """

    gives: ClassVar[tuple[str, ...]] = ()  # signals it attaches; "segments" for Rollouts.segments
    replaces_sampling: ClassVar[bool] = False  # never calls `rest`: must stand last
    plain_first: ClassVar[bool] = False  # hands on the asks that it gets, unchanged, first of all (`rollout.ahead`)

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        """The batch of this layer."""
        raise TypeError(f"{type(self).__name__} does not implement __call__(asks, rest, stage)")

    def check(self, run: Run) -> None:
        """Called when the config is read. Raises ValueError for a run that this strategy cannot serve."""

    def volume(self, inner: Volume, run: Run) -> Volume:
        """What a step samples and trains on with this layer around one of `inner`; for `mmcredit check`."""
        return inner

    def reactions(self, policy: Policy) -> AbstractContextManager[Callable[[Sample], Reaction | None]] | None:
        """What inserts into the responses to a sample, inside the block: held-out answers are sampled with it, too.
        None: nothing does."""
        return None

    def windows(
        self, rollouts: Rollouts, row: int, sample: Sample, decode: Callable[[Sequence[int]], str]
    ) -> Sequence[Window]:
        """What a response asks of the sample's video and what it should, for the table of samples."""
        return ()

    def observe(self, rollouts: Rollouts, stage: Stage) -> None:
        """Told the scored batch (with the signals of `needs()`), before the update."""

    def state_dict(self) -> dict[str, Any]:
        """Memory across steps: JSON values and tensors, by name. The checkpoint carries it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class ReactingEngine:
    """An engine whose responses get what a strategy inserts, by the sample that a request's prompt was made from."""

    def __init__(self, inner: RolloutEngine, reaction: Callable[[Sample], Reaction | None]) -> None:
        self.inner, self.reaction = inner, reaction

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Response]:
        """As `RolloutEngine.generate`."""
        asked = [
            replace(request, reaction=self.reaction(request.prompt.sample))
            if request.reaction is None and request.prompt.sample is not None
            else request
            for request in requests
        ]
        return self.inner.generate(asked, sampling, progress)

    def sync(self) -> None:
        """As `RolloutEngine.sync`."""
        self.inner.sync()

    def close(self) -> None:
        """As `RolloutEngine.close`."""
        self.inner.close()


@contextmanager
def reacting(engine: RolloutEngine, strategies: Sequence[Strategy], policy: Policy) -> Iterator[RolloutEngine]:
    """The engine as it is to answer outside of training: with what the run's strategies insert into responses."""
    for strategy in strategies:
        if (found := strategy.reactions(policy)) is not None:
            with found as reaction:
                yield ReactingEngine(engine, reaction)
            return
    yield engine
