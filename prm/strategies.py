"""Ways to spend compute at test time, side by side on the same questions: one JSON row per question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmcredit.policy.offsets import TokenOffsets
from mmcredit.rollout.engine import Request, Sampling
from mmcredit.seeds import derive
from prm.answers import answer_key, fewest_flags, majority
from prm.checking import find
from prm.refine import Ask, Chain, Outcome, RefineSettings, Spent, Written, outcome, refine, verifier_cost

if TYPE_CHECKING:
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import RolloutEngine
    from prm.parse import Verification
    from prm.verifier import Query, Verifier

STRATEGIES = {
    "greedy": "one response, no verifier",
    "vote": "k responses, the commonest answer",
    "best_of": "k responses, the one with the fewest flagged spans",
    "regenerate": "cut before the first flagged token and go on, at most k times",
    "reflect": "the same, with a note where it was cut",
    "regenerate_vote": "several chains of `regenerate`, the commonest answer",
    "reflect_vote": "several chains of `reflect`, the commonest answer",
}


class EngineWriter:
    """A policy behind a rollout engine, for a list of questions. Prompts and prefixes are handed over as tokens."""

    def __init__(self, policy: Policy, engine: RolloutEngine, prompts: Sequence[Prompt], top_p: float = 1.0) -> None:
        self.policy, self.engine, self.prompts, self.top_p = policy, engine, prompts, top_p
        self.tokenizer = policy.tokenizer

    def write(self, asks: Sequence[Ask]) -> list[Written]:
        """Continuations in the order of the asks; one call of the engine per temperature."""
        out: list[Written | None] = [None] * len(asks)
        for temperature in sorted({ask.temperature for ask in asks}):
            chosen = [i for i, ask in enumerate(asks) if ask.temperature == temperature]
            requests = [
                Request(self.prompts[asks[i].question], (asks[i].seed,), asks[i].prefix, tag=i, limit=asks[i].limit)
                for i in chosen
            ]
            sampling = Sampling(
                temperature=temperature,
                top_p=self.top_p if temperature else 1.0,
                max_new_tokens=max(asks[i].limit for i in chosen),
            )
            for response in self.engine.generate(requests, sampling):
                ask = asks[response.tag]
                read = len(self.prompts[ask.question]) + len(ask.prefix)
                out[response.tag] = Written(tuple(response.tokens), read)
        assert all(each is not None for each in out)
        return [each for each in out if each is not None]


@dataclass(frozen=True)
class Plan:
    """What is compared: strategies, budgets, chains per vote, and how chains run."""

    strategies: tuple[str, ...] = tuple(STRATEGIES)
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    chains: int = 4
    refine: RefineSettings = field(default_factory=RefineSettings)

    def __post_init__(self) -> None:
        for name in self.strategies:
            if name not in STRATEGIES:
                raise ValueError(f"unknown strategy {name!r}; known: all, {', '.join(STRATEGIES)}")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"k must be whole numbers from 1, got {list(self.ks)}")
        if self.chains < 1:
            raise ValueError(f"chains must be at least 1, got {self.chains}")

    def need_no_verifier(self) -> None:
        """Raises ValueError naming the strategies that cannot do without a verifier."""
        if wants := [s for s in self.strategies if s not in ("greedy", "vote")]:
            raise ValueError(f"strategies {', '.join(wants)} need a verifier: give --prm")


@dataclass(frozen=True)
class Result:
    """What one strategy gives for one question at one budget."""

    strategy: str
    k: int
    text: str
    answer: str | None
    stop: str
    cycles: float
    spent: Spent


def run_plan(
    queries: Sequence[Query], writer: EngineWriter | Any, verifier: Verifier | None, plan: Plan
) -> list[tuple[list[Result], list[dict[str, Any]]]]:
    """Per question: a result per strategy and k, and the traces of its chains (plain data).

    A strategy is run once, at its largest k; smaller budgets are read off. Best-of and vote share their samples.
    Raises ValueError if a strategy needs a verifier and there is none.
    """
    if verifier is None:
        plan.need_no_verifier()
    results: list[list[Result]] = [[] for _ in queries]
    traces: list[list[dict[str, Any]]] = [[] for _ in queries]
    most = max(plan.ks)
    if "greedy" in plan.strategies:
        settings = replace(plan.refine, k=0, first_temperature=0.0)
        for i, chain in enumerate(refine(queries, writer, _none(), settings)):
            results[i].append(_result("greedy", 0, outcome(chain, 0, settings)))
    if {"vote", "best_of"} & set(plan.strategies):
        _sampled(queries, writer, verifier, plan, results)
    for mode in ("regenerate", "reflect"):
        settings = replace(plan.refine, k=most, reflect=mode == "reflect")
        number = plan.chains if f"{mode}_vote" in plan.strategies else int(mode in plan.strategies)
        if not number:
            continue
        assert verifier is not None
        chains: list[list[Chain]] = []
        for c in range(number):
            # The first chain is the strategy's own; the others must differ from the start.
            one = settings if c == 0 else replace(settings, first_temperature=settings.temperature)
            chains.append(refine(queries, writer, verifier, one, name=f"{mode} {c}"))
        for i in range(len(queries)):
            if mode in plan.strategies:
                results[i] += [_result(mode, k, outcome(chains[0][i], k, settings)) for k in plan.ks]
            if f"{mode}_vote" in plan.strategies:
                results[i] += [_voted(f"{mode}_vote", k, [c[i] for c in chains], settings) for k in plan.ks]
            traces[i].append({"mode": mode, "cycles": [asdict(cycle) for cycle in chains[0][i].trace]})
            traces[i][-1] |= {"stop": chains[0][i].stop, "texts": chains[0][i].texts}
    return list(zip(results, traces, strict=True))


def _sampled(
    queries: Sequence[Query], writer: Any, verifier: Verifier | None, plan: Plan, results: list[list[Result]]
) -> None:
    """Majority voting and best-of-N over the same samples."""
    s, most = plan.refine, max(plan.ks)
    asks = [
        Ask(i, (), derive(s.seed, "samples", query.sample_id, n), s.temperature, s.max_tokens)
        for i, query in enumerate(queries)
        for n in range(most)
    ]
    offsets = TokenOffsets(writer.tokenizer)
    written = writer.write(asks)
    texts = [offsets.text(w.tokens) for w in written]
    said: list[Verification] = []
    if "best_of" in plan.strategies:
        assert verifier is not None
        said = verifier.verify([replace(queries[a.question], response=t) for a, t in zip(asks, texts, strict=True)])
    for i in range(len(queries)):
        rows = range(i * most, (i + 1) * most)
        for k in plan.ks:
            part = list(rows)[:k]
            policy = sum((Spent(1, 0, len(written[r].tokens), written[r].read) for r in part), Spent())
            own = [texts[r] for r in part]
            if "vote" in plan.strategies:
                chosen = own[majority(own)]
                results[i].append(Result("vote", k, chosen, answer_key(chosen), "samples", 0, policy))
            if "best_of" in plan.strategies:
                flags = [_flags(said[r], offsets, written[r].tokens, s) for r in part]
                spent = policy + sum((verifier_cost(said[r]) for r in part), Spent())
                chosen = own[fewest_flags(flags)]
                results[i].append(Result("best_of", k, chosen, answer_key(chosen), "samples", 0, spent))


def _flags(said: Verification, offsets: TokenOffsets, ids: Sequence[int], settings: RefineSettings) -> float:
    if said.status not in ("clean", "flagged"):
        return float("inf")
    return float(len(find(said, offsets.sampled(ids), settings.spans).spans))


def _result(strategy: str, k: int, found: Outcome) -> Result:
    return Result(strategy, k, found.text, answer_key(found.text), found.stop, found.cycles, found.spent)


def _voted(strategy: str, k: int, chains: Sequence[Chain], settings: RefineSettings) -> Result:
    found = [outcome(chain, k, settings) for chain in chains]
    chosen = found[majority([each.text for each in found])]
    spent = sum((each.spent for each in found), Spent())
    cycles = sum(each.cycles for each in found) / len(found)
    return Result(strategy, k, chosen.text, answer_key(chosen.text), "vote", cycles, spent)


class _NoVerifier:
    version = "none"

    def verify(self, queries: Sequence[Query]) -> list[Verification]:
        raise AssertionError("a chain without cycles asks no verifier")

    def close(self) -> None:
        """Nothing is held."""


def _none() -> Verifier:
    return _NoVerifier()


def as_row(
    sample_id: str, reference: str | None, results: Sequence[Result], right: Callable[[str], bool]
) -> dict[str, Any]:
    """A question's JSON row."""
    return {
        "id": sample_id,
        "reference": reference,
        "results": [
            {
                "strategy": r.strategy,
                "k": r.k,
                "right": right(r.text),
                "answer": r.answer,
                "stop": r.stop,
                "cycles": r.cycles,
                "generated_tokens": r.spent.generated,
                **asdict(r.spent),
                "text": r.text,
            }
            for r in results
        ],
    }
