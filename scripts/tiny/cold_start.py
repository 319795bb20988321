"""Stages 2 and 3: the language model learns to answer from what it says it sees, then, briefly, to look."""

import random
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny.batches import encoded_text, prompt_ids, response_logits
from tiny.measure import answer_of, sample
from tiny.progress import Progress
from tiny.task import Example, Task

CONTENT_WEIGHT, ANSWER_WEIGHT = 0.05, 4.0
CHECKED = 100  # held-out questions of a kind


def train_language(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    seed: int,
    steps: int,
    batch: int = 128,
    learning_rate: float = 2e-3,
) -> None:
    """Teach the format, and the answer that follows from what was said, on imagined scenes without any image."""
    rng = random.Random(seed)
    weights = list(model.model.language_model.parameters()) + list(model.lm_head.parameters())
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
    )
    progress = Progress("language", steps)
    for step in range(steps):
        loss = _imagined_loss(model, tokenizer, tasks, batch, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        progress.show(step + 1, loss=loss.item())


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    seed: int,
    stop_at: float,
    max_steps: int,
    batch: int = 64,
    learning_rate: float = 1e-4,
    check_every: int = 20,
) -> dict[str, object]:
    """Train the language model on true image descriptions, the tower frozen, and stop half-way.

    Kinds of question are learnt at different speeds. Every `check_every` steps the greedy accuracy of each kind is
    measured on held-out images, and a kind takes part in the next batches in proportion to what it lacks to `stop_at`,
    not at all beyond it. It ends as soon as every kind has been there: from there on reinforcement learning takes
    over. Beside each batch of images, half as many imagined scenes keep format and logic sharp.
    """
    rng = random.Random(seed)
    model.model.visual.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress("alignment", max_steps)
    kinds = [(task, kind) for task in tasks for kind in task.kinds]
    lacking = [stop_at] * len(kinds)
    reached: dict[str, float] = {}
    for step in range(1, max_steps + 1):
        drawn = rng.choices(range(len(kinds)), lacking, k=batch)
        loss = _imagined_loss(model, tokenizer, tasks, batch // 2, rng)
        for task in tasks:
            examples = [e for i in sorted(set(drawn)) if kinds[i][0] is task
                        for e in task.looked(rng, kinds[i][1], drawn.count(i))]  # fmt: skip
            if examples:
                logits, labels = _forward(model, tokenizer, examples, task)
                loss = loss + cross_entropy(logits, labels) * (len(examples) / batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % check_every == 0:
            reached = {kind: _accuracy(model, tokenizer, task, kind) for task, kind in kinds}
            lacking = [max(0.0, stop_at - accuracy) for accuracy in reached.values()]
            progress.show(step, loss=loss.item(), **reached)
            if not any(lacking):
                break
    else:
        raise RuntimeError(f"the alignment ended at {reached}, below {stop_at}, after {max_steps} steps")
    model.model.visual.requires_grad_(True)
    return {"alignment_steps": step, "validation_greedy": reached, "validation_n": CHECKED}


def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, kind: str) -> float:
    examples = task.held_out(kind, CHECKED)
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


def _imagined_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], size: int, rng: random.Random
) -> torch.Tensor:
    """Cross-entropy on imagined scenes, the batch shared evenly by the tasks, weighted by token.

    The scene itself cannot be predicted, so at weight 1 its noise would drown the one token that teaches logic: words
    of the scene that the question does not name weigh 0.05, the answer 4.
    """
    total = torch.zeros(())
    for task in tasks:
        examples = task.imagined(rng, size // len(tasks))
        logits, labels = _forward(model, tokenizer, examples, None)
        weights = torch.cat([_weights(tokenizer, e, task.content) for e in examples])
        total = total + (cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    return total / len(tasks)


def _weights(tokenizer: PreTrainedTokenizerBase, example: Example, content: frozenset[str]) -> torch.Tensor:
    """One weight per response token, the end token included."""
    ids = encoded_text(tokenizer, example.response)
    scene = {i for word in content for i in tokenizer.convert_tokens_to_ids([f"Ġ{word}", word])}
    scene -= set(prompt_ids(tokenizer, example.question)) | {tokenizer.unk_token_id, None}
    first, last = (ids.index(tokenizer.convert_tokens_to_ids(tag)) for tag in ("<answer>", "</answer>"))
    weights = [CONTENT_WEIGHT if i in scene else 1.0 for i in ids]
    weights[first + 1 : last] = [ANSWER_WEIGHT] * (last - first - 1)
    return torch.tensor(weights)
