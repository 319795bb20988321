"""Would the rewards pay an ideal response? Each reference in the wanted format, through the real workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmcredit.answers.item import RewardItem
from mmcredit.data.columns import meant
from mmcredit.data.sample import last_text
from mmcredit.rewards.base import Reward
from mmcredit.rewards.format import Format
from mmcredit.rewards.ideal import USUAL, ideal_responses, judges, wrapping

if TYPE_CHECKING:
    from mmcredit.rewards.pool import RewardPool
    from mmcredit.train.preflight.samples import Read

LONG = 200  # characters from which a reference is taken for a text and not an answer
MOST_WAYS = 8  # of writing an ideal response that are tried before a reference counts as not paid


@dataclass(frozen=True)
class Paid:
    """An ideal response and what it earns."""

    read: Read
    reference: str
    response: str
    values: dict[str, float | None]  # by reward part, before its weight; None: not applicable
    total: float


@dataclass
class Unpaid:
    """References for whose ideal response a reward does not pay, and what to change."""

    part: str
    count: int
    example: Paid
    advice: str


@dataclass
class Payment:
    """What the rewards say to the ideal responses of one set."""

    judged: int = 0  # samples with a reference that a reward compares with
    unpaid: list[Unpaid] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)  # sample ids: not applicable, left out
    meant: str | None = None  # a column of such a sample that may hold its reference
    shown: Paid | None = None  # the first of them
    scored: int = 0  # ideal responses that were scored
    failed: dict[str, int] = field(default_factory=dict)  # part: errors and timeouts on them
    errors: list[str] = field(default_factory=list)  # the first of those, in full
    asked: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # part: (label, prompts that ask, all)
    other: dict[str, tuple[str, int, str]] = field(default_factory=dict)  # part: (what is asked instead, count, sample)

    @property
    def not_paid(self) -> int:
        """References that cannot be paid for."""
        return sum(u.count for u in self.unpaid)


def pay(pool: RewardPool, reads: Sequence[Read], count_tokens: Callable[[str], int]) -> Payment:
    """Score an ideal response for each sample. Errors of rewards are part of the result, however many there are."""
    found = Payment()
    pool.max_error_share = 1.0
    _prompts(found, pool, reads)
    todo: list[tuple[Read, RewardItem, list[str]]] = []
    for read in reads:
        item = _item(read)
        try:
            ways = ideal_responses(pool.rewards, item)[:MOST_WAYS]
        except ValueError as error:
            found.failed["reference"] = found.failed.get("reference", 0) + 1
            found.errors.append(f"sample {read.sample.name}: {error}")
            continue
        if ways:
            todo.append((read, item, ways))
        else:
            found.without_reference.append(read.sample.name)
            found.meant = found.meant or meant("answer", read.sample.meta)
    first: dict[str, Paid] = {}
    for turn in range(MOST_WAYS):
        now = [(read, item, ways) for read, item, ways in todo if turn < len(ways)]
        if not now:
            break
        scored = _score(found, pool, [_written(item, ways[turn], count_tokens) for _, item, ways in now])
        if scored is None:
            return found
        paid_now = set()
        for (read, _, ways), (values, total) in zip(now, scored, strict=True):
            result = Paid(read, _reference(read), ways[turn], values, total)
            first.setdefault(read.sample.id, result)
            if not _failing(pool, result):
                first[read.sample.id] = result
                paid_now.add(read.sample.id)
        todo = [one for one in todo if one[0].sample.id not in paid_now]
    _sort(found, pool, first)
    return found


def _score(
    found: Payment, pool: RewardPool, items: Sequence[RewardItem]
) -> list[tuple[dict[str, float | None], float]] | None:
    try:
        result = pool.score(items)
    except (RuntimeError, ValueError) as error:  # a worker cannot start, a sample cannot be written as JSON
        found.failed["rewards"] = len(items)
        found.scored = max(found.scored, len(items))
        found.errors.append(str(error))
        return None
    if not found.scored:  # the other ways to write the same responses say nothing new
        found.scored = len(items)
        found.errors += result.first_errors
        for name in pool.names:
            if count := result.counts[f"{name}/error"] + result.counts[f"{name}/timeout"]:
                found.failed[name] = count
    return [
        ({name: result.parts[name][i] if result.applies[name][i] else None for name in pool.names}, result.total[i])
        for i in range(len(items))
    ]


def _failing(pool: RewardPool, paid: Paid) -> list[tuple[str, Reward]]:
    """Rewards that should give 1 and do not; those that compare with the reference first."""
    wrong = [
        (name, reward)
        for name, reward in zip(pool.names, pool.rewards, strict=True)
        if judges(reward) and (value := paid.values[name]) is not None and value < 1 - 1e-6
    ]
    return sorted(wrong, key=lambda pair: isinstance(pair[1], Format))


def _sort(found: Payment, pool: RewardPool, results: dict[str, Paid]) -> None:
    answers = [n for n, r in zip(pool.names, pool.rewards, strict=True) if judges(r) and not isinstance(r, Format)]
    groups: dict[tuple[str, str], Unpaid] = {}
    for paid in results.values():
        found.shown = found.shown or paid
        found.judged += 1
        wrong = _failing(pool, paid)
        if answers and all(paid.values[part] is None for part in answers):
            wrong = [pair for pair in zip(pool.names, pool.rewards, strict=True) if pair[0] == answers[0]]
        if wrong:
            part, reward = wrong[0]
            advice = _advice(part, reward, paid)
            group = groups.setdefault((part, advice), Unpaid(part, 0, paid, advice))
            group.count += 1
    found.unpaid = sorted(groups.values(), key=lambda group: -group.count)


def _advice(part: str, reward: Reward, paid: Paid) -> str:
    """The setting to change."""
    if isinstance(reward, Format):
        return (
            f"reward {part} accepts no way of writing the answer where the other rewards look for it: make its preset "
            "or pattern and their extract agree"
        )
    if len(paid.reference) > LONG or "\n" in paid.reference.strip():
        return "the reference is a whole text: name the column of the final answer in the source's columns.answer"
    other = {
        "number": "the reference holds no number: use exact_answer or math",
        "option": "the reference names no option: give the choices in meta['choices'], or use exact_answer",
        "iou": "the reference is no box: give x1, y1, x2, y2, or another answer reward",
    }.get(reward.name)
    if other is not None:
        return other
    return f"change rewards.{reward.name}.extract, take another answer reward, or another column (columns.answer)"


def _prompts(found: Payment, pool: RewardPool, reads: Sequence[Read]) -> None:
    """Whether the prompts ask for what the rewards look for."""
    wrappings = {
        name: where
        for name, reward in zip(pool.names, pool.rewards, strict=True)
        if (where := wrapping(reward)) is not None
    }
    for name, where in wrappings.items():
        asked = [where.asked(read.text) for read in reads]
        found.asked[name] = (where.label, sum(asked), len(reads))
        for other in USUAL:
            if other.label in {w.label for w in wrappings.values()}:
                continue
            instead = [r for r, own in zip(reads, asked, strict=True) if not own and other.asked(r.text)]
            if instead:
                found.other[name] = (other.label, len(instead), instead[0].sample.name)


def _item(read: Read) -> RewardItem:
    sample = read.sample
    return RewardItem(
        response="", answer=sample.answer, prompt=last_text(sample), sample_id=sample.id, meta=dict(sample.meta)
    )


def _written(item: RewardItem, response: str, count_tokens: Callable[[str], int]) -> RewardItem:
    return RewardItem(response, item.answer, item.prompt, count_tokens(response), False, item.sample_id, item.meta)


def _reference(read: Read) -> str:
    return read.sample.answer if read.sample.answer is not None else "(in meta)"
