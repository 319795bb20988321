"""Cutting a list of requests into waves that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mmcredit.policy.prompt import Prompt
from mmcredit.rollout.engine import Request


@dataclass
class Wave:
    """Prompts, distinct beginnings of responses ("stems"), and rows, sampled together. All in ascending order."""

    prompts: list[Prompt] = field(default_factory=list)
    stems: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)  # (prompt, prefix ids)
    rows: list[tuple[int, int]] = field(default_factory=list)  # (stem, number of the response in the whole list)
    new_tokens: int = 0  # the largest limit among the rows
    room: int = 0  # tokens that may be inserted into a row, at most


def plan_waves(requests: Sequence[Request], max_rows: int, max_tokens: int, new_tokens: int) -> Iterator[Wave]:
    """Waves of at most `max_rows` responses whose cache holds at most `max_tokens` tokens.

    A wave's cache holds its prompts once, padded to the longest, and for every row the longest prefix + the largest
    limit (`new_tokens` unless a request has its own) + the most that may be inserted. Longest prompts go first, so that
    the largest wave is met at once, and a prompt's prefixes from short to long, so that neighbours are of like length.
    Requests on the same `Prompt` object share it; those with the same prefix share that too. A wave of one row is
    always allowed.
    """
    prompts: dict[int, Prompt] = {}
    # per prompt: (prefix, response number, limit, room)
    rows: dict[int, list[tuple[tuple[int, ...], int, int, int]]] = {}
    number = 0
    for request in requests:
        key = id(request.prompt)
        prompts[key] = request.prompt
        prefix = tuple(int(i) for i in request.prefix)
        for _ in request.seeds:
            rows.setdefault(key, []).append((prefix, number, request.new_tokens(new_tokens), request.room))
            number += 1

    wave, width, longest = Wave(), 0, 0
    for key in sorted(rows, key=lambda k: len(prompts[k]), reverse=True):
        open_prompt, stems = False, dict[tuple[int, ...], int]()
        for prefix, response, limit, room in sorted(rows[key], key=lambda row: (len(row[0]), row)):
            own = max(longest, len(prefix)) + max(wave.new_tokens, limit) + max(wave.room, room)
            count = len(wave.prompts) + (not open_prompt)
            total = count * max(width, len(prompts[key])) + (len(wave.rows) + 1) * own
            if wave.rows and (len(wave.rows) >= max_rows or total > max_tokens):
                yield wave
                wave, width, longest = Wave(), 0, 0
                open_prompt, stems = False, {}
            longest, wave.new_tokens = max(longest, len(prefix)), max(wave.new_tokens, limit)
            wave.room = max(wave.room, room)
            if not open_prompt:
                open_prompt, width = True, max(width, len(prompts[key]))
                wave.prompts.append(prompts[key])
            if prefix not in stems:
                stems[prefix] = len(wave.stems)
                wave.stems.append((len(wave.prompts) - 1, prefix))
            wave.rows.append((stems[prefix], response))
    if wave.rows:
        yield wave
