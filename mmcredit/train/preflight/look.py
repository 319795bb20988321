"""A look at everything that a run would use, before it: both sets, the rewards, the memory, the volume of a step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mmcredit.components import build
from mmcredit.data.audit import Audit, unread_media
from mmcredit.evaluate.usable import check_share
from mmcredit.policy.vision import UnsupportedModel
from mmcredit.prepare import held_out_samples, load_samples, make_pool
from mmcredit.rollout.volume import Volume, sampled
from mmcredit.train.preflight import fit, memory
from mmcredit.train.preflight.activations import measure
from mmcredit.train.preflight.machine import MIB, Free, free_memory, held_memory
from mmcredit.train.preflight.memory import Estimate, Remedy
from mmcredit.train.preflight.payment import Payment, pay
from mmcredit.train.preflight.samples import SetReport, read_set

if TYPE_CHECKING:
    from mmcredit.config import RunConfig
    from mmcredit.data.sample import Sample
    from mmcredit.policy.policy import Policy

Start = Callable[[str, int | None], Callable[[int], None]]  # (what begins, how many items) -> how many more are done


@dataclass
class Preflight:
    """What was found. `errors` stop a run or make it useless, `warnings` do not."""

    train: SetReport
    held_out: SetReport | None
    payments: dict[str, Payment] = field(default_factory=dict)  # by the setting of the set
    volume: Volume | None = None
    memory: Estimate | None = None
    remedies: list[Remedy] = field(default_factory=list)
    free: Free | None = None
    disk_free_mb: float = 0.0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was decided or repeats: no trouble

    @property
    def sets(self) -> list[SetReport]:
        """The sets of the run."""
        return [self.train] if self.held_out is None else [self.train, self.held_out]

    @property
    def ok(self) -> bool:
        """Whether a run can start and learn."""
        return not self.errors


def look(config: RunConfig, policy: Policy, limit: int, start: Start | None = None) -> Preflight:
    """Read up to `limit` samples of each set, evenly spread, and say what a run would drop, pay, take and trip over."""
    found = Preflight(*_sets(config, policy, limit, start))
    for report in found.sets:
        if report.error is not None:
            found.errors.append(report.error)
    found.warnings += fit.model_words(config, policy)
    _family(policy, found)
    _across(found)
    for report in found.sets:
        _set_words(config, policy, report, found)
    if any(report.usable for report in found.sets):
        _rewards(config, policy, found, start)
    found.volume = sampled(config)
    if found.train.usable:
        _memory(config, policy, found, start)
    found.disk_free_mb = _disk_free(config)
    return found


def _sets(config: RunConfig, policy: Policy, limit: int, start: Start | None) -> tuple[SetReport, SetReport | None]:
    def begin(setting: str) -> Callable[[int], Callable[[int], None]] | None:
        return None if start is None else lambda total: start(f"reading {setting}", total)

    def read(setting: str, load: Callable[[], Sequence[Sample]]) -> SetReport:
        return read_set(setting, load, policy, limit, config.data.max_prompt_tokens, begin(setting))

    train = read("data.train", lambda: load_samples(config, config.data.train))
    if config.data.evaluate is None:
        return train, None
    return train, read("data.evaluate", lambda: held_out_samples(config))


def _family(policy: Policy, found: Preflight) -> None:
    """The model against its own forward, as a run does at its first step."""
    prompts = [report.richest for report in found.sets if report.richest is not None]
    for report in found.sets:
        prompts += [policy.encode(r.sample) for r in report.usable if not r.sample.media][:1]
    try:
        policy.check_family(prompts)
    except UnsupportedModel as error:
        found.errors.append(str(error))


def _across(found: Preflight) -> None:
    """What only several samples together show."""
    audit = Audit()
    for report in found.sets:
        for read in report.usable:
            audit.add(read.sample, held_out=report is found.held_out)
    found.warnings += audit.warnings()
    found.notes += audit.notes()


def _set_words(config: RunConfig, policy: Policy, report: SetReport, found: Preflight) -> None:
    """What is to be said about a set that can be read."""
    if not report.usable:
        return
    if report.refused:
        share = report.refused / report.read
        what = "dropped" if report.setting == "data.train" else "left out of the accuracy"
        found.warnings.append(
            f"{report.refused} of {report.read} samples of {report.setting} ({share:.1%}) would be {what}: the reasons "
            "stand above"
        )
    if report is found.held_out:
        messages = [refusal.message for refusal in report.refusals]
        try:
            check_share(report.refused, report.read, config.check.max_unusable_held_out, messages)
        except ValueError as error:
            found.errors.append(f"{error}: the run would stop")
    if report.while_reading:
        found.warnings.append(f"left out while reading {report.setting}: {report.while_reading}")
    looks_like = unread_media(read.sample for read in report.usable)
    found.warnings += fit.media_words(config, policy, report.with_media, len(report.usable), report.setting, looks_like)
    longest = report.longest + config.rollout.sampling.max_new_tokens
    if report.setting == "data.train" and longest > config.train.token_budget:
        found.warnings.append(
            f"prompt and response can reach {longest} tokens, over train.token_budget {config.train.token_budget}: "
            "such a response makes a micro-batch of its own"
        )


def _rewards(config: RunConfig, policy: Policy, found: Preflight, start: Start | None) -> None:
    """Pay an ideal response for every usable sample."""
    if start is not None:
        start("paying ideal responses", None)

    def count(text: str) -> int:
        return len(policy.tokenizer(text, add_special_tokens=False)["input_ids"])

    with make_pool(config) as pool:
        for report in found.sets:
            if report.usable:
                found.payments[report.setting] = pay(pool, report.usable, count)
    for setting, payment in found.payments.items():
        _payment_words(setting, payment, found, config.check.max_reward_error_share)


def _payment_words(setting: str, payment: Payment, found: Preflight, share: float) -> None:
    for part, count in payment.failed.items():
        stops = count > share * payment.scored
        (found.errors if stops else found.warnings).append(
            f"reward {part} failed on {count} of {payment.scored} ideal responses to {setting}"
            + (f", more than check.max_reward_error_share {share:g}: the run would stop" if stops else "")
            + f"; the first: {payment.errors[0]}"
        )
    if payment.judged and payment.not_paid == payment.judged:
        level, whole = found.errors, "none of the"
    else:
        level, whole = found.warnings, f"{payment.not_paid} of the"
    if payment.not_paid:
        first = payment.unpaid[0]
        value = first.example.values[first.part]
        earns = "is not applicable to it" if value is None else f"gives an ideal response {value:g}"
        paid = "can be paid for" if level is found.errors else "cannot be paid for"
        level.append(
            f"{whole} {payment.judged} references of {setting} {paid}: reward {first.part} {earns} (sample "
            f"{first.example.read.sample.name}, reference {_short(first.example.reference)!r}, response "
            f"{_short(first.example.response, tail=True)!r}); {first.advice}"
        )
    if payment.without_reference:
        count, some = len(payment.without_reference), ", ".join(payment.without_reference[:3])
        guess = f": did you mean {payment.meant!r}?" if payment.meant else ""
        found.warnings.append(
            f"{count} samples of {setting} have no reference answer ({some}): answer rewards are not applicable to "
            "them, they earn nothing and are left out of the accuracy; name the column in the source's columns.answer"
            + guess
        )
    for part, (label, count, sample) in payment.other.items():
        wanted = payment.asked[part][0]
        found.warnings.append(
            f"{count} prompts of {setting} ask for {label} (sample {sample}), but reward {part} looks for {wanted}: a "
            f"response that does as it is told earns nothing; set its extract, or change the source's template"
        )


def _short(text: str, most: int = 60, tail: bool = False) -> str:
    if len(text) <= most:
        return text
    return "..." + text[-most:] if tail else text[:most] + "..."


def _memory(config: RunConfig, policy: Policy, found: Preflight, start: Start | None) -> None:
    """Measure what the model keeps per token, and estimate the largest moment of a step."""
    assert found.volume is not None
    if start is not None:
        start("measuring memory", None)
    held = held_memory(policy.device)
    kept = measure(policy, found.train.richest)
    graphs, reference = memory.planned(config)
    asked = config.run.steps * found.volume.most_prompts  # prompts that the whole run reads, at most
    seen = {"data.train": min(found.train.total, asked)}
    pixels = sum(r.pixel_bytes / max(1, r.read) * seen.get(r.setting, r.total) for r in found.sets)
    remembered = policy.encoder.pixels.held
    shape = memory.shape_of(
        config,
        policy,
        found.volume,
        longest=found.train.longest,
        patches=found.train.patches,
        pixel_bytes=pixels,
        graphs=graphs,
        reference=reference,
        shared=kept.shared,
    )
    sizes = memory.model_of(policy, kept, max(0.0, held - remembered / MIB))
    found.memory = memory.estimate(shape, sizes)
    found.remedies = memory.remedies(shape, sizes, config)
    found.free = free_memory(policy.device)
    if build("train_engine", config.train.engine).name != "local":
        found.notes.append(
            "the memory is that of one process that shares nothing: ZeRO divides the optimizer state, and with its "
            "stages gradients and weights, by the number of processes"
        )
    word = memory.verdict(found.memory, found.free, found.remedies)
    if word is not None:
        found.warnings.append(word)


def _disk_free(config: RunConfig) -> float:
    folder = Path(config.run.dir)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / MIB
