"""The questions of an evaluation, answered on clean and on corrupted images, in blocks of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcredit.corruptions.base import check_severity
from mmcredit.corruptions.suite import evaluation_draw
from mmcredit.data.dropped import reason_of
from mmcredit.rollout.engine import Request

if TYPE_CHECKING:
    from mmcredit.corruptions.base import Corruption
    from mmcredit.data.sample import Sample
    from mmcredit.policy.pixels import Pixels
    from mmcredit.policy.policy import Policy
    from mmcredit.policy.prompt import Prompt
    from mmcredit.rollout.engine import Response, RolloutEngine, Sampling

BATCH = 64  # prompts answered at a time
HELD_TOKENS = 65_536  # prompt tokens whose pixels are held at a time: 1.2 GB of patches in Qwen2.5-VL


@dataclass(frozen=True)
class Cell:
    """A column of a robustness table: the clean images, or one operator at one severity."""

    operator: Corruption | None = None
    severity: int = 0

    def __post_init__(self) -> None:
        if self.operator is not None:
            check_severity(self.severity)
        elif self.severity != 0:
            raise ValueError(f"clean images have severity 0, got {self.severity}")

    @property
    def label(self) -> str:
        """``clean``, or such as ``jpeg:3``."""
        return "clean" if self.operator is None else f"{self.operator.title}:{self.severity}"


CLEAN = Cell()


@dataclass(frozen=True)
class Answer:
    """One response to one question in one cell."""

    number: int  # place of the question
    sample: Sample
    cell: Cell
    response: Response  # `member` is the attempt, from 0
    text: str
    seconds: float  # wall time of its batch, shared equally among the responses of the batch


@dataclass(frozen=True)
class Skipped:
    """A question that cannot be answered, in one cell or (cell None) in any."""

    number: int
    id: str
    cell: Cell | None
    reason: str  # kind of trouble, for the count
    message: str


def shown_in(prompt: Prompt, cell: Cell, pixels: Pixels, seed: int) -> Prompt:
    """The prompt as a cell shows it; itself if it has no media.

    The pixels depend on (seed, sample id, operator, severity) and the size at which the model sees the image, and on
    nothing else: the same for every model compared that resizes alike, in any order, process and machine.
    """
    if cell.operator is None:
        return prompt
    draw = evaluation_draw(seed, prompt.sample_id, cell.operator, cell.severity)
    return pixels.edited(prompt, draw.frames, f"{draw.label}:{draw.seed}")


def answer_cells(
    policy: Policy,
    engine: RolloutEngine,
    samples: Sequence[Sample],
    cells: Sequence[Cell],
    *,
    sampling: Sampling,
    seeds: Callable[[str], Sequence[int]],
    seed: int = 0,
    max_prompt_tokens: int | None = None,
    batch: int = BATCH,
    done: Callable[[int, str], bool] = lambda number, label: False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[list[Answer | Skipped]]:
    """Answer every question in every cell; a list per batch, answers and skipped questions in order.

    The order is fixed: blocks of `batch` questions; in a block cell by cell, in a cell question by question, attempt by
    attempt. What `done(number, cell label)` says is left out, so that a stopped evaluation goes on where it stopped.
    `seeds(sample id)` gives a seed per attempt, the same in every cell; `seed` is that of the corruptions. Samples are
    read when their block is due, and prompts are kept for the block up to `HELD_TOKENS`. `progress` is told the
    responses done.

    A question that cannot be read, encoded, corrupted or sampled is `Skipped` with its reason. Raises ValueError if no
    question of the first block can be answered in some cell: then it is not the question's fault.
    """
    from mmcredit.policy.retiled import pixels_of

    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    labels = [cell.label for cell in cells]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"{twice[0]} stands twice among the cells; give one of the operators another label")
    pixels = pixels_of(policy)
    for first in range(0, len(samples), batch):
        block = range(first, min(first + batch, len(samples)))
        todo = [(cell, i) for cell in cells for i in block if not done(i, cell.label)]
        if not todo:
            continue
        run = _Block(policy, engine, pixels, samples, sampling, seeds, seed, max_prompt_tokens, progress)
        failed: dict[str, Skipped] = {}
        answered = {label for label in labels if any(done(i, label) for i in block)}
        for found in run.answers(todo, batch):
            for item in found:
                if isinstance(item, Answer):
                    answered.add(item.cell.label)
                else:
                    for label in labels if item.cell is None else [item.cell.label]:
                        failed.setdefault(label, item)
            yield found
        if first == 0:
            for label, item in failed.items():
                if label not in answered:
                    raise ValueError(
                        f"none of the first {len(block)} questions can be answered in cell {label}; {item.message}"
                    )


class _Block:
    """One block of questions."""

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        pixels: Pixels,
        samples: Sequence[Sample],
        sampling: Sampling,
        seeds: Callable[[str], Sequence[int]],
        seed: int,
        max_prompt_tokens: int | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.policy, self.engine, self.pixels, self.samples = policy, engine, pixels, samples
        self.sampling, self.seeds, self.seed, self.max_prompt_tokens = sampling, seeds, seed, max_prompt_tokens
        self.progress = progress
        self._kept: dict[int, tuple[Sample, Prompt]] = {}
        self._held = 0
        self._unusable: set[int] = set()

    def answers(self, todo: Sequence[tuple[Cell, int]], batch: int) -> Iterator[list[Answer | Skipped]]:
        """What became of each (cell, question), in batches of at most `batch` prompts and `HELD_TOKENS` tokens."""
        ready: list[_Task] = []
        skipped: list[tuple[int, Skipped]] = []  # place among `ready`, and what was skipped there
        tokens = 0
        for cell, number in todo:
            if number in self._unusable:
                continue
            task = self._task(cell, number)
            if isinstance(task, Skipped):
                skipped.append((len(ready), task))
                continue
            if ready and (len(ready) == batch or tokens + len(task.shown) > HELD_TOKENS):
                yield self._run(ready, skipped)
                ready, skipped, tokens = [], [], 0
            ready.append(task)
            tokens += len(task.shown)
        if ready or skipped:
            yield self._run(ready, skipped)

    def _task(self, cell: Cell, number: int) -> _Task | Skipped:
        name = _name(self.samples, number)
        try:
            if number in self._kept:
                sample, prompt = self._kept[number]
            else:
                sample = self.samples[number]
                name = sample.id
                prompt = self.policy.encode(sample, self.max_prompt_tokens)
        except ValueError as error:
            self._unusable.add(number)
            return Skipped(number, name, None, reason_of(error, "not usable"), str(error))
        if number not in self._kept and self._held + len(prompt) <= HELD_TOKENS:
            self._held += len(prompt)
            self._kept[number] = sample, prompt
        try:
            return _Task(cell, number, sample, prompt, shown_in(prompt, cell, self.pixels, self.seed))
        except ValueError as error:
            return Skipped(number, sample.id, cell, "cannot be corrupted", str(error))

    def _run(self, tasks: Sequence[_Task], skipped: Sequence[tuple[int, Skipped]]) -> list[Answer | Skipped]:
        started = time.perf_counter()
        requests = [Request(t.shown, tuple(self.seeds(t.sample.id)), tag=i) for i, t in enumerate(tasks)]
        responses = self._generate(requests)
        seconds = (time.perf_counter() - started) / max(1, sum(len(r) for r in responses if isinstance(r, list)))
        self._forget(tasks)
        out: list[Answer | Skipped] = []
        waiting = list(skipped)
        for i, (task, found) in enumerate(zip(tasks, responses, strict=True)):
            while waiting and waiting[0][0] <= i:
                out.append(waiting.pop(0)[1])
            if isinstance(found, str):
                out.append(Skipped(task.number, task.sample.id, task.cell, "cannot be sampled", found))
                continue
            for response in found:
                text = self.policy.decode(response.tokens)
                out.append(Answer(task.number, task.sample, task.cell, response, text, seconds))
        return [*out, *(item for _, item in waiting)]

    def _generate(self, requests: Sequence[Request]) -> list[list[Response] | str]:
        """The responses to each request, or why there are none: an engine refuses a whole batch for one request that
        it cannot take, so the batch is halved until that one is alone."""
        if not requests:
            return []
        try:
            found = self.engine.generate(requests, self.sampling, self.progress)
        except ValueError as error:
            if len(requests) == 1:
                return [str(error)]
            half = len(requests) // 2
            return self._generate(requests[:half]) + self._generate(requests[half:])
        responses: dict[int, list[Response]] = {request.tag: [] for request in requests}
        for response in found:
            responses[response.tag].append(response)
        return [responses[request.tag] for request in requests]

    def _forget(self, tasks: Sequence[_Task]) -> None:
        """Drop the vision features of corrupted images: no other question will ask for them."""
        vision: Any = self.policy.body.vision
        if vision is not None:
            keys = {key for t in tasks for key in t.shown.media_keys if key not in t.clean.media_keys}
            if keys:
                vision.forget(keys)


@dataclass(frozen=True)
class _Task:
    cell: Cell
    number: int
    sample: Sample
    clean: Prompt
    shown: Prompt


def _name(samples: Sequence[Sample], number: int) -> str:
    """What to call a question that may not be readable."""
    name = getattr(samples, "id", None)
    return str(name(number)) if callable(name) else f"number {number}"


__all__ = ["CLEAN", "Answer", "Cell", "Skipped", "answer_cells", "shown_in"]
