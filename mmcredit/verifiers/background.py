"""Verifiers at work beside the trainer: asked as soon as responses exist, waited for where credit needs the answer."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.verifiers.base import STATUSES, Verdict, Verifier, VerifyItem

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.data.sample import Sample
    from mmcredit.rollouts import Rollouts
    from mmcredit.verifiers.base import Checker, RunContext

Key = tuple[str, tuple[int, ...]]  # sample id, token ids: equal responses to one prompt are verified once


@dataclass
class Job:
    """One call of `Checker.verify`, on its way through the thread."""

    items: Sequence[VerifyItem]
    verdicts: Sequence[Verdict] | None = None
    error: str = ""
    seconds: float = 0.0  # of the verifier
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Verified:
    """What came of a batch: signals for `Rollouts`, and per verifier a verdict for each of the B responses."""

    signals: dict[str, Tensor]
    verdicts: dict[str, list[Verdict]]
    metrics: dict[str, float]  # verify/...: counts and shares of this batch
    spent: dict[str, float]  # for cost.json: responses, busy_seconds, and the verdicts' usage
    alarms: list[str]


class _Desk:
    """One opened verifier, its thread, and what it was asked in this step."""

    def __init__(self, verifier: Verifier, checker: Checker) -> None:
        self.verifier, self.checker = verifier, checker
        self.jobs: dict[Key, tuple[Job, int]] = {}
        self.waiting: list[Job] = []  # jobs of this step
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # A daemon: a checker that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"verifier-{verifier.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            began = time.perf_counter()
            try:
                job.verdicts = list(self.checker.verify(job.items))
            except Exception as error:  # what other people's code raises is a status, not the end of the run
                job.error = f"{type(error).__name__}: {error}"
            job.seconds = time.perf_counter() - began
            job.done.set()
        self.checker.close()

    def begin(self) -> None:
        self.jobs, self.waiting = {}, []

    def ask(self, items: Iterable[VerifyItem]) -> None:
        """Hand over what was not asked in this step yet."""
        new = {key: item for item in items if (key := _key(item)) not in self.jobs}
        if new:
            job = Job(list(new.values()))
            self.jobs |= {key: (job, place) for place, key in enumerate(new)}
            self.waiting.append(job)
            self._queue.put(job)

    def wait(self) -> None:
        """Until all jobs of this step are done, or `timeout` has passed."""
        until = time.monotonic() + self.verifier.timeout
        for job in self.waiting:
            job.done.wait(max(0.0, until - time.monotonic()))

    def verdict(self, item: VerifyItem) -> Verdict:
        """The answer, or what became of it. Raises RuntimeError for a checker that breaks its contract."""
        job, place = self.jobs[_key(item)]
        if not job.done.is_set():
            return Verdict("prm_error", reason="timeout", detail=f"no answer after {self.verifier.timeout:g} s")
        if job.verdicts is None:
            return Verdict("prm_error", reason="exception", detail=job.error)
        if len(job.verdicts) != len(job.items):
            raise RuntimeError(
                f"verifier {self.verifier.name!r} gave {len(job.verdicts)} verdicts for {len(job.items)} responses"
            )
        return job.verdicts[place]

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=5.0)


def _key(item: VerifyItem) -> Key:
    return item.sample.id, item.tokens


class Verifying:
    """The verifiers of a run. `begin` a step, `ask` about batches as they come, `collect` the answers for the last one.

    Equal responses to one prompt are asked about once in a step. Nothing is kept from step to step: a resumed run asks
    what the other one would have asked.
    """

    def __init__(self, verifiers: Sequence[Verifier], context: RunContext) -> None:
        self._desks: list[_Desk] = []
        try:
            with torch.random.fork_rng(devices=[]):  # loading a verifier leaves the run's generators alone
                for verifier in verifiers:
                    self._desks.append(_Desk(verifier, verifier.open(context)))
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self._desks)

    def begin(self) -> None:
        """Forget the last step."""
        for desk in self._desks:
            desk.begin()

    def ask(self, rollouts: Rollouts, samples: Sequence[Sample], texts: Sequence[str]) -> None:
        """Have responses with rewards verified; returns at once. `samples` by `rollouts.group`, `texts` by row."""
        if self._desks:
            self._ask(_items(rollouts, samples, texts), _unequal(rollouts))

    def _ask(self, items: Sequence[VerifyItem], unequal: Sequence[bool]) -> None:
        for desk in self._desks:
            every = desk.verifier.groups == "all"
            desk.ask(item for item, differs in zip(items, unequal, strict=True) if every or differs)

    def collect(self, rollouts: Rollouts, samples: Sequence[Sample], texts: Sequence[str]) -> Verified:
        """Verdicts and signals of a batch; waits for what is not answered yet, and asks what was not asked."""
        if not self._desks:
            return Verified({}, {}, {}, {}, [])
        items, unequal = _items(rollouts, samples, texts), _unequal(rollouts)
        self._ask(items, unequal)
        out = Verified({}, {}, {}, {}, [])
        for desk in self._desks:
            desk.wait()
            every = desk.verifier.groups == "all"
            verdicts = [
                desk.verdict(item) if every or differs else Verdict("skipped", reason="equal rewards")
                for item, differs in zip(items, unequal, strict=True)
            ]
            out.verdicts[desk.verifier.name] = verdicts
            out.signals.update(desk.verifier.signals(verdicts, rollouts))
            _account(desk, out)
        _measure(out, rollouts)
        return out

    def close(self) -> None:
        """End the threads and close the checkers; one that is busy is left to itself after 5 seconds."""
        for desk in self._desks:
            desk.close()
        self._desks = []


def _items(rollouts: Rollouts, samples: Sequence[Sample], texts: Sequence[str]) -> list[VerifyItem]:
    # Plain lists: indexing a tensor row by row takes longer than an oracle takes to answer.
    tokens, valid, mask = rollouts.tokens.tolist(), rollouts.valid.tolist(), rollouts.mask.tolist()
    groups, rewards, truncated = rollouts.group.tolist(), rollouts.rewards.tolist(), rollouts.truncated.tolist()
    return [
        VerifyItem(
            samples[group],
            texts[row],
            tuple(compress(tokens[row], valid[row])),
            tuple(compress(mask[row], valid[row])),
            rewards[row],
            bool(truncated[row]),
        )
        for row, group in enumerate(groups)
    ]


def _unequal(rollouts: Rollouts) -> list[bool]:
    """[B] whether the rewards of the response's group differ."""
    seen: dict[int, set[float]] = {}
    groups, rewards = rollouts.group.tolist(), rollouts.rewards.tolist()
    for group, reward in zip(groups, rewards, strict=True):
        seen.setdefault(group, set()).add(reward)
    return [len(seen[group]) > 1 for group in groups]


def _account(desk: _Desk, out: Verified) -> None:
    """What the calls of this step took, answers that were not used in the end included."""
    for job in desk.waiting:
        amounts = [("responses", float(len(job.items)))]
        amounts.append(("busy_seconds", job.seconds if job.done.is_set() else desk.verifier.timeout))
        for verdict in job.verdicts or ():
            # `seconds` of cost.json are those that the step waited; those of single answers run beside each other.
            amounts += [(f"answer_{n}" if n == "seconds" else n, value) for n, value in verdict.usage.items()]
        for name, value in amounts:
            out.spent[name] = out.spent.get(name, 0.0) + float(value)
    verdicts = out.verdicts[desk.verifier.name]
    asked = [v for v in verdicts if v.status != "skipped"]
    broken = [v for v in asked if not v.known]
    if asked and len(broken) > desk.verifier.alarm_error_share * len(asked):
        reasons = ", ".join(f"{count} {what}" for what, count in _reasons(broken).most_common())
        example = next((v.detail for v in broken if v.detail), "")
        out.alarms.append(
            f"verifier {desk.verifier.name!r}: {len(broken)} of {len(asked)} responses have no verdict ({reasons})"
            + (f"; one of them: {example[:200]}" if example else "")
        )


def _reasons(verdicts: Iterable[Verdict]) -> Counter[str]:
    return Counter(f"{v.status}/{v.reason}" if v.reason else v.status for v in verdicts)


def _measure(out: Verified, rollouts: Rollouts) -> None:
    found: dict[str, Any] = out.metrics
    several = len(out.verdicts) > 1
    for name, verdicts in out.verdicts.items():
        at = f"verify/{name}/" if several else "verify/"
        counts = Counter(v.status for v in verdicts)
        found |= {at + status: float(counts[status]) for status in STATUSES}
        found |= {at + key: float(n) for key, n in _reasons(v for v in verdicts if v.reason).items()}
        known = counts["clean"] + counts["flagged"]
        if known:
            found[at + "flagged_rate"] = counts["flagged"] / known
        spans = [span for v in verdicts for span in v.spans]
        found[at + "spans"] = float(len(spans))
        fates = Counter(span.fate for span in spans if not span.located)
        if known:
            found[at + "spans_per_response"] = len(spans) / known
        if spans:
            found[at + "not_found_rate"] = fates["not_found"] / len(spans)
        if said := known + counts["parse_error"]:
            found[at + "parse_error_rate"] = counts["parse_error"] / said
        if times := sorted(v.usage["seconds"] for v in verdicts if "seconds" in v.usage):
            found |= {f"{at}seconds_p{p}": times[min(len(times) - 1, p * len(times) // 100)] for p in (50, 95)}
        found |= {f"{at}unplaced/{fate}": float(n) for fate, n in fates.items()}
        found[at + "flagged_unplaced"] = float(
            sum(v.status == "flagged" and not any(s.located for s in v.spans) for v in verdicts)
        )
    credited = rollouts.mask.sum()
    for name, value in out.signals.items():
        if value.dtype == torch.bool and value.shape == rollouts.mask.shape and bool(credited):
            found[f"verify/share_{name}"] = float((value & rollouts.mask).sum() / credited)
