"""Test-time refinement: cut a response before its first flagged token, let the policy go on, ask again.

Both variants of arXiv 2604.24583, section 3.3: truncate-and-regenerate keeps the verified prefix; truncate-and-reflect
also puts a short note there. The authors published no code; everything but the loop is our choice. All chains of a
call advance together, so the policy and the verifier work in batches; a chain's outcome depends on its own seed alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mmcredit.answers.extract import last_boxed, last_tag
from mmcredit.policy.offsets import Offsets, TokenOffsets
from mmcredit.seeds import derive
from prm.checking import SpanSettings, find
from prm.reflection import OPENERS, reflection
from prm.spans import INFERENCE

if TYPE_CHECKING:
    from prm.parse import Verification
    from prm.verifier import Query, Verifier

Stop = Literal["clean", "prm_error", "unlocatable", "budget", "length"]
_SENTENCE_END = re.compile(r"[.!?。！？][\"')\]]*(?=\s|<|$)|\n|<(?:think|answer)>")


@dataclass(frozen=True)
class RefineSettings:
    """How chains run. `k` counts cycles (cuts); with `budget: samples` it counts policy calls, the first included."""

    k: int = 4
    reflect: bool = False
    budget: Literal["cycles", "samples"] = "cycles"
    returns: Literal["last", "fewest_flags"] = "last"  # what a chain gives that is still flagged at the end
    max_tokens: int = 64  # of a whole response
    first_temperature: float = 0.0
    temperature: float = 0.8  # greedy would write the flagged words again
    heating: float = 0.1  # added when the same cut comes again
    most_heating: float = 0.5
    openers: tuple[str, ...] = OPENERS
    spans: SpanSettings = field(default_factory=lambda: SpanSettings(ladder=INFERENCE))
    seed: int = 0

    @property
    def cycles(self) -> int:
        """Cuts at most."""
        return self.k if self.budget == "cycles" else max(0, self.k - 1)


@dataclass(frozen=True)
class Ask:
    """A wish for a continuation of `prefix` in answer to question number `question`."""

    question: int
    prefix: tuple[int, ...]
    seed: int
    temperature: float
    limit: int  # tokens


@dataclass(frozen=True)
class Written:
    """What the policy wrote after the prefix, and the tokens that it read for it."""

    tokens: tuple[int, ...]
    read: int = 0


class Writer(Protocol):
    """The policy: continuations in token space."""

    tokenizer: Any

    def write(self, asks: Sequence[Ask]) -> list[Written]:
        """One continuation per ask, in order."""
        ...


@dataclass(frozen=True)
class Spent:
    """What was paid so far."""

    policy_calls: int = 0
    prm_calls: int = 0
    policy_new_tokens: int = 0
    policy_prefill_tokens: int = 0
    prm_new_tokens: int = 0
    prm_prefill_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def generated(self) -> int:
        """Tokens generated in all, the verifier's included."""
        return self.policy_new_tokens + self.prm_new_tokens


@dataclass(frozen=True)
class Cycle:
    """One look of the verifier at the text after `cycle` cuts, and the cut that followed, if any."""

    cycle: int
    text: str
    status: str
    flagged: tuple[str, ...] = ()
    fates: tuple[str, ...] = ()
    think: str = ""
    cut: int | None = None  # character
    claim: str = ""  # the earliest flagged string
    kept: str = ""
    note: str = ""
    temperature: float | None = None  # of the continuation
    moved_back: int = 0  # sentences


@dataclass
class Chain:
    """One refined response to one question."""

    question: int
    query: Query  # response left open
    name: str = "0"  # distinguishes chains of one question; enters the seeds
    ids: tuple[int, ...] = ()
    injected: list[tuple[int, int]] = field(default_factory=list)  # token ranges of notes
    texts: list[str] = field(default_factory=list)  # after 0, 1, ... cycles
    spent: Spent = field(default_factory=Spent)
    written: list[Spent] = field(default_factory=list)  # when texts[i] was written
    verified: list[Spent] = field(default_factory=list)  # when it had been verified
    flags: list[float] = field(default_factory=list)  # located spans of texts[i]; infinity: not known
    trace: list[Cycle] = field(default_factory=list)
    stop: Stop | None = None
    cuts: Counter[tuple[int, str]] = field(default_factory=Counter)
    heat: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a chain gives under a budget."""

    text: str
    stop: Stop
    cycles: int
    spent: Spent


def refine(
    queries: Sequence[Query], writer: Writer, verifier: Verifier, settings: RefineSettings, name: str = "0"
) -> list[Chain]:
    """Run one chain per query to its end; `outcome` reads off what it gives at k or any smaller budget."""
    offsets = TokenOffsets(writer.tokenizer)
    chains = [Chain(i, query, name) for i, query in enumerate(queries)]
    _write(chains, [settings.first_temperature] * len(chains), writer, offsets, settings)
    live = chains
    for cycle in range(settings.cycles):
        said = _verify(live, verifier)
        cut: list[Chain] = []
        for chain, verification in zip(live, said, strict=True):
            if _cut(chain, cycle, verification, offsets, settings):
                cut.append(chain)
        temperatures = [min(settings.temperature + chain.heat, 2.0) for chain in cut]
        _write(cut, temperatures, writer, offsets, settings)
        live = [chain for chain in cut if chain.stop is None]
        if not live:
            break
    left = [chain for chain in chains if chain.stop is None]
    if settings.returns == "fewest_flags" and settings.cycles:
        for chain, verification in zip(left, _verify(left, verifier), strict=True):
            found = find(verification, offsets.sampled(chain.ids), settings.spans, _protected(chain, offsets))
            _look(chain, len(chain.texts) - 1, verification, [c.fate for c in found.claims], len(found.spans))
    for chain in left:
        chain.stop = "budget"
    return chains


def outcome(chain: Chain, k: int, settings: RefineSettings) -> Outcome:
    """What the chain gives with a budget of `k`, k at most the budget it ran with.

    A text without an answer block falls back to the most recent one that has it, else to "" (no answer). With
    `fewest_flags` the text with the fewest located flags, the latest among equals; the look at the last one is paid.
    """
    cycles = min(replace(settings, k=k).cycles, settings.cycles)
    looked = len(chain.verified)
    made = len(chain.texts) - 1
    assert chain.stop is not None
    ended = chain.stop != "budget" and made + 1 <= cycles and looked == made + 1
    if chain.stop == "length" and made < cycles:
        ended = True
    last = made if ended else min(cycles, made)
    spent = chain.spent if ended else chain.written[last]
    chosen = last
    if settings.returns == "fewest_flags" and not ended and cycles and last < looked:
        spent = chain.verified[last]
        chosen = min(range(last + 1), key=lambda i: (chain.flags[i], -i))
    text = chain.texts[chosen]
    if not _complete(text):
        text = next((t for t in reversed(chain.texts[: last + 1]) if _complete(t)), "")
    return Outcome(text, chain.stop if ended else "budget", last, spent)


def _complete(text: str) -> bool:
    """Whether a response has its answer: a whole answer block or box, or no such form at all."""
    if last_tag(text) is not None or last_boxed(text) is not None:
        return True
    return "<think>" not in text and "<answer>" not in text and "\\boxed" not in text


def _write(
    chains: Sequence[Chain], temperatures: Sequence[float], writer: Writer, offsets: TokenOffsets, s: RefineSettings
) -> None:
    """Continue every chain after its present ids."""
    asks, open_ = [], []
    for chain, temperature in zip(chains, temperatures, strict=True):
        limit = s.max_tokens - len(chain.ids)
        if limit < 1:
            chain.stop = "length"
            continue
        seed = derive(s.seed, "refine", chain.query.sample_id, chain.name, len(chain.texts))
        asks.append(Ask(chain.question, chain.ids, seed, temperature, limit))
        open_.append(chain)
    for chain, ask, written in zip(open_, asks, writer.write(asks) if asks else [], strict=True):
        chain.ids = (*ask.prefix, *written.tokens)
        chain.texts.append(offsets.text(chain.ids))
        chain.spent += Spent(policy_calls=1, policy_new_tokens=len(written.tokens), policy_prefill_tokens=written.read)
        chain.written.append(chain.spent)


def _verify(chains: Sequence[Chain], verifier: Verifier) -> list[Verification]:
    """A verification per chain; one that could not be had or read is asked for once more."""
    queries = [replace(chain.query, response=chain.texts[-1]) for chain in chains]
    found = verifier.verify(queries) if queries else []
    again = [i for i, said in enumerate(found) if said.status in ("parse_error", "prm_error")]
    for chain, said in zip(chains, found, strict=True):
        _pay(chain, said)
    if again:
        second = verifier.verify([replace(queries[i], attempt=queries[i].attempt + 1) for i in again])
        for i, said in zip(again, second, strict=True):
            found[i] = said
            _pay(chains[i], said)
    return found


def verifier_cost(said: Verification) -> Spent:
    """What a verification costs a strategy on its own: one from the cache as much as when it was made."""
    usage = said.usage

    def tokens(name: str) -> int:
        return int(usage.get(name, 0) + usage.get(f"cached_{name}", 0))

    return Spent(prm_calls=1, prm_new_tokens=tokens("new_tokens"), prm_prefill_tokens=tokens("prompt_tokens"))


def _pay(chain: Chain, said: Verification) -> None:
    chain.spent += verifier_cost(said)


def _look(chain: Chain, cycle: int, said: Verification, fates: Sequence[str], located: int, **more: Any) -> None:
    known = said.status in ("clean", "flagged")
    chain.flags.append(located if known else float("inf"))
    chain.verified.append(chain.spent)
    text = chain.texts[cycle]
    chain.trace.append(Cycle(cycle, text, said.status, said.strings, tuple(fates), said.think, **more))


def _cut(chain: Chain, cycle: int, said: Verification, offsets: TokenOffsets, settings: RefineSettings) -> bool:
    """Look at a chain's text; if it is flagged, cut it (and put the note in). False if the chain ends here."""
    if said.status != "flagged":
        chain.stop = "clean" if said.status == "clean" else "prm_error"
        _look(chain, cycle, said, (), 0)
        return False
    places = offsets.sampled(chain.ids)
    found = find(said, places, settings.spans, _protected(chain, offsets))
    fates = [claim.fate for claim in found.claims]
    if not found.spans:
        chain.stop = "unlocatable"
        _look(chain, cycle, said, fates, 0)
        return False
    first = min(found.spans, key=lambda span: (span.start, span.end))
    claim = places.text[first.start : first.end]
    chain.cuts[(first.start, claim)] += 1
    times = chain.cuts[(first.start, claim)]
    if times > 1:
        chain.heat = min(chain.heat + settings.heating, settings.most_heating)
    cut, back = first.start, max(0, times - 2)
    for _ in range(back):
        cut = previous_sentence(places.text, cut)
    kept = cut_tokens(places, cut)
    chain.ids = chain.ids[:kept]
    chain.injected = [(a, min(b, kept)) for a, b in chain.injected if a < kept]
    note = ""
    if settings.reflect:
        opener = settings.openers[cycle % len(settings.openers)]
        note = " " + reflection(claim, said.think, opener)
        added = tuple(offsets.tokenizer(note, add_special_tokens=False)["input_ids"])
        chain.injected.append((kept, kept + len(added)))
        chain.ids += added
    _look(
        chain, cycle, said, fates, len(found.spans), cut=cut, claim=claim, kept=offsets.text(chain.ids[:kept]),
        note=note, temperature=settings.temperature + chain.heat, moved_back=back,
    )  # fmt: skip
    return True


def cut_tokens(offsets: Offsets, cut: int) -> int:
    """Number of tokens kept before character `cut`: all that end there or before, without white space at the end."""
    kept = next((i for i, (a, b) in enumerate(offsets.spans) if a < b and b > cut), len(offsets))
    while kept and not offsets.text[slice(*offsets.spans[kept - 1])].strip():
        kept -= 1
    return kept


def previous_sentence(text: str, cut: int) -> int:
    """Where the sentence before `cut` begins; 0 if there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, cut)]
    here = len(text[:cut].rstrip())
    return next((end for end in reversed(ends) if end < here), 0)


def _protected(chain: Chain, offsets: TokenOffsets) -> list[tuple[int, int]]:
    """Character ranges of the notes."""
    if not chain.injected:
        return []
    spans = offsets.sampled(chain.ids).spans
    return [(spans[a][0], spans[b - 1][1]) for a, b in chain.injected if a < b]
