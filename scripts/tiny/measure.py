"""What a tiny model does: samples, graded."""

import re
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tiny.batches import Pixels, model_inputs

RESPONSE = re.compile(r"<think>[^<>]+</think>\s*<answer>([^<>]+)</answer>")


def answer_of(response: str) -> str | None:
    """The answer of a well-formed response, else None."""
    match = RESPONSE.fullmatch(response.strip())
    return match.group(1).strip() if match else None


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    pixels: Pixels | None,
    images: list[int],
    temperature: float,
    max_new_tokens: int,
    batch: int = 250,
) -> list[str]:
    """One response a prompt; temperature 0 is greedy. The media placeholders are never sampled."""
    model.eval()
    suppressed = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    texts = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        inputs = model_inputs(model, prompts[part], pixels, images[part], left=True)
        out = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_k=0 if temperature else None,
            suppress_tokens=suppressed,
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def measure(
    respond: Callable[[list[int], float], list[str]], answers: list[str], groups: int, group_size: int = 8
) -> dict[str, float]:
    """Greedy accuracy on all prompts; accuracy, format and mixed groups at temperature 1 on the first `groups`.

    `respond(indices, temperature)` gives one response for each prompt index.
    """
    greedy = [answer_of(text) for text in respond(list(range(len(answers))), 0.0)]
    sampled_indices = [i for i in range(min(groups, len(answers))) for _ in range(group_size)]
    sampled = [answer_of(text) for text in respond(sampled_indices, 1.0)]
    right = torch.tensor([a == answers[i] for a, i in zip(sampled, sampled_indices, strict=True)]).float()
    share = right.view(-1, group_size).mean(1)
    return {
        "greedy_accuracy": sum(a == b for a, b in zip(greedy, answers, strict=True)) / len(answers),
        "greedy_format": sum(a is not None for a in greedy) / len(answers),
        "greedy_n": len(answers),
        "sampled_accuracy": right.mean().item(),
        "sampled_format": sum(a is not None for a in sampled) / len(sampled),
        "mixed_groups": ((share > 0) & (share < 1)).float().mean().item(),
        "sampled_groups": len(share),
        "group_size": group_size,
    }
