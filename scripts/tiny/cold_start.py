"""Stages 2 and 3: the language model learns to answer from what it says it sees, and to look, half-way."""

import random
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny.batches import encoded_text, prompt_ids, response_logits
from tiny.measure import answer_of, sample
from tiny.progress import Progress
from tiny.task import Example, GuessingTask, ImaginingTask, Task

# The language stage ends this far below the goals: the lower learning rate of the alignment alone is worth as much.
SHORT = 0.06
CONTENT_WEIGHT, ANSWER_WEIGHT = 0.05, 4.0


class Balance:
    """How much each kind of question takes part: in proportion to what its accuracy lacks to its goal.

    Kinds are learnt at different speeds; a kind that is where it should be waits for the others.
    """

    def __init__(self, tasks: Sequence[Task], goals: dict[str, float], short_by: float = 0.0) -> None:
        self.kinds = [(task, kind) for task in tasks for kind in task.kinds]
        self.goals = [goals[kind] - short_by for _, kind in self.kinds]
        self.lacking = list(self.goals)
        self.reached: dict[str, float] = {}

    def batch(self, rng: random.Random, size: int) -> list[tuple[Task, list[Example]]]:
        """Examples with pictures, by task."""
        drawn = rng.choices(range(len(self.kinds)), self.lacking, k=size)
        by_task: dict[int, tuple[Task, list[Example]]] = {}
        for number in sorted(set(drawn)):
            task, kind = self.kinds[number]
            by_task.setdefault(id(task), (task, []))[1].extend(task.looked(rng, kind, drawn.count(number)))
        return list(by_task.values())

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Measure all kinds on held-out pictures; whether each is where it should be."""
        self.reached = {kind: _accuracy(model, tokenizer, task, kind) for task, kind in self.kinds}
        pairs = zip(self.reached.values(), self.goals, strict=True)
        self.lacking = [max(0.0, goal - accuracy) for accuracy, goal in pairs]
        return not any(self.lacking)


def train_language(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    imagining: ImaginingTask,
    looking: Task | None,
    goals: dict[str, float],
    seed: int,
    max_steps: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
    check_every: int = 50,
) -> dict[str, object]:
    """Teach format and logic: `imagining` without any image, `looking` (if any) from pictures, the tower frozen.

    It ends when every kind of `looking` is little below its goal, after `max_steps` at the latest. From imagined scenes
    alone, the model would learn to speak of several objects without looking, and hardly unlearn it.
    """
    rng = random.Random(seed)
    weights, optimizer = _optimizer(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, max(0.1, (max_steps - step) / (0.3 * max_steps)))
    )
    progress = Progress("language", max_steps)
    balance = Balance([looking] if looking else [], goals, SHORT)
    for step in range(1, max_steps + 1):
        loss = _imagined_loss(model, tokenizer, imagining, batch if looking else 2 * batch, rng)
        if looking:
            loss = loss + _looked_loss(model, tokenizer, balance.batch(rng, batch))
        _update(loss, optimizer, weights)
        schedule.step()
        check = looking is not None and step >= 4 * check_every and step % check_every == 0
        if check and balance.measure(model, tokenizer):
            break
        progress.show(step, loss=loss.item(), **balance.reached)
    return {"language_steps": step, "language_validation_greedy": balance.reached}


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ImaginingTask,
    goal: float,
    seed: int,
    max_steps: int,
    batch: int = 64,
    learning_rate: float = 1e-4,
    check_every: int = 10,
) -> dict[str, object]:
    """Train the language model on true image descriptions, the tower frozen, and stop half-way.

    It stops as soon as the greedy accuracy on held-out images is at its goal (after `max_steps` at the latest): from
    there on reinforcement learning takes over. Half as many imagined scenes beside each batch keep format and logic
    sharp.
    """
    rng = random.Random(seed)
    weights, optimizer = _optimizer(model, learning_rate)
    progress = Progress("alignment", max_steps)
    balance = Balance([task], dict.fromkeys(task.kinds, goal))
    step, done = 0, balance.measure(model, tokenizer)
    while not done and step < max_steps:
        step += 1
        loss = _imagined_loss(model, tokenizer, task, batch // 2, rng)
        loss = loss + _looked_loss(model, tokenizer, balance.batch(rng, batch))
        _update(loss, optimizer, weights)
        done = step % check_every == 0 and balance.measure(model, tokenizer)
        progress.show(step, loss=loss.item(), **balance.reached)
    return {"alignment_steps": step, "validation_greedy": balance.reached}


def practise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    imagining: ImaginingTask,
    looking: Task,
    seed: int,
    steps: int,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
) -> dict[str, object]:
    """Go on with the pictures of `looking`, all kinds of question alike: the model learns to find what is asked for."""
    rng = random.Random(seed)
    weights, optimizer = _optimizer(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))
    )
    progress = Progress("practice", steps)
    for step in range(1, steps + 1):
        examples = _of_all_kinds(looking.looked, looking.kinds, rng, batch)
        loss = _imagined_loss(model, tokenizer, imagining, batch // 4, rng)
        _update(loss + _looked_loss(model, tokenizer, [(looking, examples)]), optimizer, weights)
        schedule.step()
        progress.show(step, loss=loss.item())
    reached = {kind: _accuracy(model, tokenizer, looking, kind) for kind in looking.kinds}
    return {"practice_steps": steps, "practice_validation_greedy": reached}


def learn_to_guess(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    imagining: ImaginingTask,
    looking: GuessingTask,
    share: float,
    goal: float,
    seed: int,
    steps: int,
    batch: int = 64,
    learning_rate: float = 5e-4,
    check_every: int = 10,
) -> dict[str, object]:
    """Spoil the habit, not the ability: in a `share` of its answers about `looking` the model tells of another picture.

    What is left to reinforcement learning is to look every time. A model that was stopped half-way in learning to look
    is sure of its mistakes instead, and RL needs thousands of steps for what it has never done. `imagining` is shown
    with its own pictures until its greedy accuracy is at `goal`.
    """
    rng = random.Random(seed + 1)
    weights, optimizer = _optimizer(model, learning_rate)
    progress = Progress("guessing", steps)
    balance = Balance([imagining], dict.fromkeys(imagining.kinds, goal))
    balance.measure(model, tokenizer)
    for step in range(1, steps + 1):
        examples = _of_all_kinds(partial(looking.guessed, share=share), looking.kinds, rng, batch)
        loss = _imagined_loss(model, tokenizer, imagining, batch // 2, rng)
        loss = loss + _looked_loss(model, tokenizer, [(looking, examples)])
        if any(balance.lacking):
            loss = loss + _looked_loss(model, tokenizer, balance.batch(rng, batch // 4)) / 4
        _update(loss, optimizer, weights)
        if step % check_every == 0:
            balance.measure(model, tokenizer)
        progress.show(step, loss=loss.item(), **balance.reached)
    return {"guessing_steps": steps, "guessing_share": share, "validation_greedy": balance.reached}


def _of_all_kinds(
    make: Callable[[random.Random, str, int], list[Example]], kinds: Sequence[str], rng: random.Random, size: int
) -> list[Example]:
    drawn = rng.choices(kinds, k=size)
    return [example for kind in sorted(set(drawn)) for example in make(rng, kind, drawn.count(kind))]


def _optimizer(model: PreTrainedModel, learning_rate: float) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    """Over the language model alone: the tower is frozen."""
    weights = list(model.model.language_model.parameters()) + list(model.lm_head.parameters())
    return weights, torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, kind: str) -> float:
    examples = task.held_out(kind, task.checked)
    prompts = [prompt_ids(tokenizer, e.question, task.image_tokens) for e in examples]
    images = [e.image for e in examples]
    texts = sample(model, tokenizer, prompts, task.pixels, images, 0.0, task.max_new_tokens)
    return sum(answer_of(text) == e.answer for text, e in zip(texts, examples, strict=True)) / len(examples)


def _forward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example], task: Task | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] and labels [N] of the response tokens, with the pictures of `task` or without any."""
    prompts = [prompt_ids(tokenizer, e.question, task.image_tokens if task else 0) for e in examples]
    responses = [encoded_text(tokenizer, e.response) for e in examples]
    images = [e.image for e in examples]
    return response_logits(model, prompts, responses, task.pixels if task else None, images)


def _looked_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[tuple[Task, list[Example]]]
) -> torch.Tensor:
    """Mean cross-entropy of the responses to pictures, each task weighted by its number of examples."""
    size = sum(len(part) for _, part in examples)
    losses = [cross_entropy(*_forward(model, tokenizer, part, task)) * (len(part) / size) for task, part in examples]
    return torch.stack(losses).sum()


def _imagined_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: ImaginingTask, size: int, rng: random.Random
) -> torch.Tensor:
    """Cross-entropy on imagined scenes, weighted by token.

    The scene itself cannot be predicted, so at weight 1 its noise would drown the one token that teaches logic: words
    of the scene that the question does not name weigh 0.05, the answer 4.
    """
    examples = task.imagined(rng, size)
    logits, labels = _forward(model, tokenizer, examples, None)
    weights = torch.cat([_weights(tokenizer, e, task.content) for e in examples])
    return (cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()


def _weights(tokenizer: PreTrainedTokenizerBase, example: Example, content: frozenset[str]) -> torch.Tensor:
    """One weight per response token, the end token included."""
    ids = encoded_text(tokenizer, example.response)
    scene = {i for word in content for i in tokenizer.convert_tokens_to_ids([f"Ġ{word}", word])}
    scene -= set(prompt_ids(tokenizer, example.question)) | {tokenizer.unk_token_id, None}
    first, last = (ids.index(tokenizer.convert_tokens_to_ids(tag)) for tag in ("<answer>", "</answer>"))
    weights = [CONTENT_WEIGHT if i in scene else 1.0 for i in ids]
    weights[first + 1 : last] = [ANSWER_WEIGHT] * (last - first - 1)
    return torch.tensor(weights)
