"""Micro-batches by a token budget that counts visual tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mmcredit.policy.prompt import Prompt
from mmcredit.rollouts import Rollouts


@dataclass(frozen=True)
class MicroBatch:
    """Whole responses that are run together."""

    rows: tuple[int, ...]
    tokens: int  # what the layout computes for them: rows of the packed row, or the padded area
    responses: int  # response tokens among them


def micro_batches(
    prompts: Sequence[Prompt],
    groups: Sequence[int],
    lengths: Sequence[int],
    *,
    budget: int,
    layout: Literal["shared", "padded"],
    setting: str = "train.token_budget (or model.score_tokens)",
) -> list[MicroBatch]:
    """Cut responses into micro-batches of at most `budget` tokens.

    `groups[i]` is the prompt of response i, `lengths[i]` its real tokens; responses without tokens are left out. A
    group stays whole where it fits into one micro-batch and is split where it does not (its prompt is then computed
    once per part). A lone response over the budget runs alone, with a warning that names its sample and `setting`.
    """
    if budget < 1:
        raise ValueError(f"{setting} must be at least 1, got {budget}")
    members: dict[int, list[int]] = {}
    for row, (group, length) in enumerate(zip(groups, lengths, strict=True)):
        if length > 0:
            members.setdefault(group, []).append(row)

    def cost(rows: Sequence[int]) -> int:
        if layout == "shared":
            return sum(len(prompts[g]) for g in {groups[r] for r in rows}) + sum(lengths[r] for r in rows)
        return len(rows) * max((len(prompts[groups[r]]) + lengths[r] for r in rows), default=0)

    def finished(rows: Sequence[int]) -> MicroBatch:
        return MicroBatch(tuple(rows), cost(rows), sum(lengths[r] for r in rows))

    done: list[MicroBatch] = []
    current: list[int] = []
    for rows in members.values():
        if cost(current + rows) <= budget:
            current = current + rows
            continue
        if current and cost(rows) <= budget:
            done.append(finished(current))
            current = list(rows)
            continue
        for row in rows:
            if current and cost([*current, row]) > budget:
                done.append(finished(current))
                current = []
            current = [*current, row]
            if cost([row]) > budget:
                prompt = prompts[groups[row]]
                warnings.warn(
                    f"sample {prompt.sample_id}: prompt ({len(prompt)} tokens) and response ({lengths[row]}) exceed "
                    f"{setting}={budget} and run alone; raise {setting} or lower data.max_prompt_tokens",
                    stacklevel=2,
                )
    if current:
        done.append(finished(current))
    return done


def shared_out(
    prompts: Sequence[Prompt],
    groups: Sequence[int],
    lengths: Sequence[int],
    *,
    budget: int,
    layout: Literal["shared", "padded"],
    size: int,
) -> list[list[MicroBatch]]:
    """Micro-batches of `size` ranks, of about the same work each.

    Groups stay whole, so that a prompt is computed on one rank, unless there are fewer groups than ranks.
    """
    if size == 1:
        return [micro_batches(prompts, groups, lengths, budget=budget, layout=layout)]
    units: dict[int, list[int]] = {}
    for row, (group, length) in enumerate(zip(groups, lengths, strict=True)):
        if length > 0:
            units.setdefault(group, []).append(row)
    pieces = list(units.values())
    if len(pieces) < size:
        pieces = [[row] for rows in pieces for row in rows]
    repeated = layout == "padded"

    def work(rows: Sequence[int]) -> int:
        return sum(lengths[r] for r in rows) + len(prompts[groups[rows[0]]]) * (len(rows) if repeated else 1)

    # Longest first onto the least loaded rank.
    loads, mine = [0] * size, [set[int]() for _ in range(size)]
    for rows in sorted(pieces, key=lambda rows: (-work(rows), rows[0])):
        rank = loads.index(min(loads))
        loads[rank] += work(rows)
        mine[rank].update(rows)
    shares = []
    for chosen in mine:
        own = [length if row in chosen else 0 for row, length in enumerate(lengths)]
        shares.append(micro_batches(prompts, groups, own, budget=budget, layout=layout))
    return shares


def check_rollouts(prompts: Sequence[Prompt], rollouts: Rollouts, suppressed: Sequence[int]) -> None:
    """Raise ValueError unless the responses belong to these prompts and none of them sampled a `suppressed` id."""
    if len(rollouts) and not 0 <= int(rollouts.group.min()) <= int(rollouts.group.max()) < len(prompts):
        raise ValueError(
            f"group must index the prompts: got numbers {int(rollouts.group.min())}..{int(rollouts.group.max())} "
            f"for {len(prompts)} prompts"
        )
    valid = rollouts.valid
    assert not bool((valid[:, 1:] & ~valid[:, :-1]).any()), "valid must be a prefix of every row"
    if suppressed:
        hidden = torch.tensor(suppressed, device=rollouts.tokens.device)
        # Of rollouts that say what was inserted, every other placeholder is one without media.
        unknown = rollouts.mask if rollouts.inserted is None else rollouts.valid.clone()
        for row, own in enumerate(rollouts.inserted or ()):
            for one in own:
                unknown[row, one.at : one.end] = False
        bad = torch.isin(rollouts.tokens, hidden) & unknown
        if bool(bad.any()):
            row, column = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"response {row} claims to have sampled token {int(rollouts.tokens[row, column])} at {column}, a "
                f"media placeholder; the rollout engine must suppress the ids {list(suppressed)}"
            )
