"""What `mmcredit check` prints, in 80 columns as well as in more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from mmcredit.train.preflight.look import Preflight
    from mmcredit.train.preflight.payment import Paid, Payment
    from mmcredit.train.preflight.samples import SetReport

MOST_TEXT = 1200  # characters of a prompt that are shown; its middle is left out beyond


def show(found: Preflight, console: Console) -> None:
    """Print everything."""
    _sample(found, console)
    _refusals(found, console)
    console.print(_numbers(found))
    for line in found.volume.lines if found.volume is not None else ():
        console.print(Text(f"  {line}"))
    if found.memory is not None:
        console.print(_memory(found))
    if found.remedies:
        console.print(_remedies(found))
    for note in found.notes:
        console.print(Text.assemble(("note: ", "cyan"), note))
    for warning in found.warnings:
        console.print(Text.assemble(("warning: ", "yellow"), warning))
    for error in found.errors:
        console.print(Text.assemble(("error: ", "red"), error))
    if not found.errors and not found.warnings:
        console.print("nothing to complain about", highlight=False)


def _sample(found: Preflight, console: Console) -> None:
    """One prompt as the model reads it, and what the rewards pay for an ideal response to it."""
    for report in found.sets:
        payment = found.payments.get(report.setting)
        paid = None if payment is None else payment.shown
        if paid is None and report.usable:
            _prompt(report.usable[0].sample.name, report, report.usable[0].text, console)
            console.print("reference: none\n", highlight=False)
            return
        if paid is not None and payment is not None:
            _prompt(paid.read.sample.name, report, paid.read.text, console)
            _paid(paid, payment, console)
            return


def _prompt(name: str, report: SetReport, text: str, console: Console) -> None:
    console.print(Text(f"sample {name} of {report.setting}, as the model reads it", style="bold"))
    console.print(Text(shortened(text.rstrip("\n"))))
    console.print()


def _paid(paid: Paid, payment: Payment, console: Console) -> None:
    console.print(Text.assemble(("reference: ", "bold"), shortened(paid.reference, 300)))
    console.print(Text.assemble(("an ideal response: ", "bold"), shortened(paid.response, 300)))
    parts = []
    for part, value in paid.values.items():
        parts.append(f"{part} {'not applicable' if value is None else f'{value:g}'}")
    console.print(Text.assemble(("its reward: ", "bold"), f"{paid.total:g} ({', '.join(parts)})"))
    for part, (label, asked, of) in payment.asked.items():
        console.print(Text(f"  {part} looks for {label}; {asked or 'none'} of {of} prompts mention it"))
    console.print()


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """The text with its middle left out beyond `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def _refusals(found: Preflight, console: Console) -> None:
    for report in found.sets:
        for refusal in report.refusals:
            more = f" (also {', '.join(refusal.names[1:])})" if refusal.names[1:] else ""
            console.print(
                Text.assemble(
                    (f"refused, {refusal.count} of {report.read} of {report.setting}: ", "red"), refusal.message, more
                )
            )


def _numbers(found: Preflight) -> Table:
    table = Table("preflight", *(report.setting for report in found.sets))
    rows: list[tuple[str, list[str]]] = [
        ("samples", [f"{r.total}, {r.read} read" for r in found.sets]),
        ("usable", [f"{len(r.usable)} of {r.read}" for r in found.sets]),
        ("prompt tokens", [_spread([u.tokens for u in r.usable]) for r in found.sets]),
        ("visual tokens", [_spread([u.visual for u in r.usable]) for r in found.sets]),
        ("references paid for", [_payment(found, r) for r in found.sets]),
    ]
    for name, values in rows:
        table.add_row(name, *values)
    rest = [""] * (len(found.sets) - 1)
    volume = found.volume
    if volume is not None:
        table.add_row("a step samples", _range(volume.responses, volume.most_responses) + " responses", *rest)
        table.add_row("", f"of {_range(volume.prompts, volume.most_prompts)} prompts", *rest)
        table.add_row("", f"at most {volume.most_tokens:,} tokens", *rest)
        table.add_row("and trains on", f"at most {volume.rows:,} responses", *rest)
    table.add_row("free disk", f"{found.disk_free_mb:,.0f} MiB", *rest)
    return table


def _payment(found: Preflight, report: SetReport) -> str:
    payment = found.payments.get(report.setting)
    if payment is None or not payment.judged:
        return "-"
    return f"{payment.judged - payment.not_paid} of {payment.judged}"


def _spread(values: list[int]) -> str:
    return f"mean {sum(values) / len(values):.0f}, most {max(values)}" if values else "-"


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _memory(found: Preflight) -> Table:
    assert found.memory is not None
    table = Table(f"memory at most ({found.memory.phase})", "MiB")
    table.columns[1].justify = "right"
    for name, mib in found.memory.rows.items():
        table.add_row(name, f"{mib:,.0f}")
    table.add_section()
    table.add_row("total", f"{found.memory.total:,.0f}")
    table.add_row("not held by this process yet", f"{found.memory.total - found.memory.held:,.0f}")
    if found.free is not None:
        table.add_row(f"free ({found.free.of})", f"{found.free.mib:,.0f}")
    return table


def _remedies(found: Preflight) -> Table:
    table = Table("settings that lower it", "by MiB", "")
    table.columns[0].no_wrap = True
    table.columns[1].justify = "right"
    for remedy in found.remedies[:4]:
        table.add_row(remedy.setting, f"{remedy.saves:,.0f}", remedy.note)
    return table
