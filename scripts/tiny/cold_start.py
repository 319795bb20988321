"""Stages 2 and 3: the language model learns to answer from what it says it sees, then, briefly, to look."""

import random
import re
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny import vqa
from tiny.batches import Pixels, encoded_text, prompt_ids, response_logits
from tiny.measure import answer_of, sample
from tiny.progress import Progress
from tiny.vqa import COLORS, SHAPES, Question

IMAGE_TOKENS = 16


@dataclass
class VqaCorpus:
    """The train split as the cold start sees it; `validation` images take no part in any gradient."""

    questions: list[Question]
    scenes: dict[int, tuple[str, str]]
    validation: list[Question]
    pixels: Pixels


def imagined_scene(text: str, rng: random.Random) -> tuple[str, str]:
    """A random scene, such that half of the yes/no questions name something that is in it.

    Without the balance, 7 of 8 colour questions have one answer and the model settles for that.
    """
    color, shape = vqa.random_scene(rng)
    if not text.startswith("what") and rng.random() < 0.5:
        named = next(word for word in re.findall(r"\w+", text) if word in SHAPES + COLORS)
        return (named, shape) if named in COLORS else (color, named)
    return color, shape


def train_language(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: VqaCorpus,
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
        questions = rng.sample(corpus.questions, batch)
        loss = _imagined_loss(model, tokenizer, questions, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        progress.show(step + 1, loss=loss.item())


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: VqaCorpus,
    seed: int,
    stop_at: float,
    max_steps: int = 400,
    batch: int = 48,
    learning_rate: float = 1e-4,
    check_every: int = 5,
) -> dict[str, float]:
    """Train the language model on true image descriptions, the tower frozen, and stop half-way.

    It stops as soon as the greedy accuracy on the open validation questions reaches `stop_at`: from there on
    reinforcement learning takes over. Half of each batch are imagined scenes, which keep format and logic sharp.
    """
    rng = random.Random(seed)
    model.model.visual.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    progress = Progress("alignment", max_steps)
    open_questions = [q for q in corpus.validation if q.text.startswith("what")]
    reached = 0.0
    for step in range(1, max_steps + 1):
        questions = rng.sample(corpus.questions, batch)
        texts = [vqa.response(q.text, *corpus.scenes[q.image]) for q in questions]
        prompts = [prompt_ids(tokenizer, q.text, IMAGE_TOKENS) for q in questions]
        responses = [encoded_text(tokenizer, text) for text in texts]
        logits, labels = response_logits(model, prompts, responses, corpus.pixels, [q.image for q in questions])
        loss = cross_entropy(logits, labels) + _imagined_loss(model, tokenizer, questions, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % check_every == 0:
            prompts = [prompt_ids(tokenizer, q.text, IMAGE_TOKENS) for q in open_questions]
            images = [q.image for q in open_questions]
            answers = sample(model, tokenizer, prompts, corpus.pixels, images, 0.0, 16)
            right = [answer_of(text) == q.answer for text, q in zip(answers, open_questions, strict=True)]
            reached = sum(right) / len(right)
            progress.show(step, loss=loss.item(), validation=reached)
            if reached >= stop_at:
                break
    else:
        raise RuntimeError(f"the alignment ended at {reached:.3f} < {stop_at} after {max_steps} steps")
    model.model.visual.requires_grad_(True)
    return {"alignment_steps": step, "validation_open_greedy": reached, "validation_n": len(open_questions)}


def _imagined_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question], rng: random.Random
) -> torch.Tensor:
    """Cross-entropy on imagined scenes, weighted by token.

    The scene itself cannot be predicted (log 24 nats), so at weight 1 its noise would drown the one token that
    teaches logic: scene words weigh 0.05, the answer 4.
    """
    texts = [vqa.response(q.text, *imagined_scene(q.text, rng)) for q in questions]
    prompts = [prompt_ids(tokenizer, q.text) for q in questions]
    logits, labels = response_logits(model, prompts, [encoded_text(tokenizer, text) for text in texts], None, [])
    words = tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in SHAPES + COLORS])
    answers = tokenizer.convert_tokens_to_ids([*SHAPES, *COLORS, "yes", "no"])
    weights = torch.ones(len(labels))
    weights[torch.isin(labels, torch.tensor(words))] = 0.05
    weights[torch.isin(labels, torch.tensor(answers))] = 4.0
    return (cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
