"""The text model's task: reasoning-gym's `chain_sum`, worked out from left to right."""

import random
import re

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmcredit.data.sources.reasoning_gym import ReasoningGym
from tiny.batches import encoded_text, prompt_ids, response_logits
from tiny.measure import answer_of, sample
from tiny.progress import Progress

SETTINGS = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2}
MAX_NEW_TOKENS = 48


def load_problems(split: str, size: int, seed: int) -> list[tuple[str, str]]:
    """(question, answer) pairs of mmcredit's own split: a hash of the question decides, so the splits share none."""
    rows = ReasoningGym(task="chain_sum", settings=SETTINGS, size=size, seed=seed, split=split).rows()
    return [(row["question"], row["answer"]) for row in map(rows.read, range(len(rows)))]


def response(question: str) -> str:
    """The cold-start response: one partial sum after the other, then the answer."""
    expression = question.rsplit(":", 1)[1].rstrip("= ").strip()
    first, *rest = re.findall(r"[+-] \d+|\d+", expression)
    total, steps = int(first), []
    for term in rest:
        sign, number = term.split()
        result = total + int(number) if sign == "+" else total - int(number)
        steps.append(f"{total} {sign} {number} = {result}")
        total = result
    return f"<think>{', '.join(steps)}</think><answer>{total}</answer>"


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[tuple[str, str]],
    validation: list[tuple[str, str]],
    seed: int,
    stop_at: float,
    max_steps: int = 3000,
    batch: int = 128,
    learning_rate: float = 1e-3,
    check_every: int = 25,
) -> dict[str, float]:
    """Answer-only training that stops as soon as the greedy accuracy on `validation` reaches `stop_at`."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    progress = Progress("arithmetic", max_steps)
    checks = [prompt_ids(tokenizer, question) for question, _ in validation]
    reached = 0.0
    for step in range(1, max_steps + 1):
        questions = [question for question, _ in rng.sample(problems, batch)]
        prompts = [prompt_ids(tokenizer, question) for question in questions]
        responses = [encoded_text(tokenizer, response(question)) for question in questions]
        loss = cross_entropy(*response_logits(model, prompts, responses, None, []))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % check_every == 0:
            texts = sample(model, tokenizer, checks, None, [], 0.0, MAX_NEW_TOKENS)
            right = [answer_of(text) == answer for text, (_, answer) in zip(texts, validation, strict=True)]
            reached = sum(right) / len(right)
            progress.show(step, loss=loss.item(), validation=reached)
            if reached >= stop_at:
                return {"steps": step, "validation_greedy": reached, "validation_n": len(validation)}
    raise RuntimeError(f"the cold start ended at {reached:.3f} < {stop_at} after {max_steps} steps")
