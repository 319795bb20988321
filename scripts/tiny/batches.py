"""Encoded examples, padded batches and the forward pass of the cold start."""

from dataclasses import dataclass

import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


@dataclass(frozen=True)
class Pixels:
    """Images of one size after the image processor: `values` [N, patches, features], `grid` [3]."""

    values: torch.Tensor
    grid: torch.Tensor

    def inputs(self, images: list[int]) -> dict[str, torch.Tensor]:
        """The model inputs for the images with these indices, in this order."""
        values = self.values[images].flatten(0, 1).float()
        return {"pixel_values": values, "image_grid_thw": self.grid.expand(len(images), 3)}


def encode_images(processor: ProcessorMixin, images: list[Image.Image]) -> Pixels:
    """Run the image processor once over all images, which must have one size; kept in float16 to save memory."""
    out = processor.image_processor(images=images, return_tensors="pt")
    grids = out["image_grid_thw"]
    if not (grids == grids[0]).all():
        raise ValueError(f"the images differ in size: grids {grids.unique(dim=0).tolist()}")
    return Pixels(out["pixel_values"].view(len(images), -1, out["pixel_values"].shape[-1]).half(), grids[0])


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str, image_tokens: int = 0) -> list[int]:
    """The ids of one user turn as the chat template renders it, the image placeholder expanded."""
    content = [{"type": "image"}] * bool(image_tokens) + [{"type": "text", "text": text}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return tokenizer(rendered.replace("<|image_pad|>", "<|image_pad|>" * max(image_tokens, 1)))["input_ids"]


def encoded_text(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """The ids of a response, the end token included."""
    return [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]


def pad(rows: list[list[int]], value: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad `rows` to one length; returns ids and attention mask, both [B, L]."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), value)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, where] = torch.tensor(row)
        mask[i, where] = 1
    return ids, mask


def model_inputs(
    model: PreTrainedModel, rows: list[list[int]], pixels: Pixels | None, images: list[int], left: bool
) -> dict[str, torch.Tensor]:
    """Everything that `model(...)` or `model.generate(...)` needs for `rows`, one image a row if there are pixels."""
    ids, mask = pad(rows, model.generation_config.pad_token_id, left)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if pixels is not None:
        # Qwen2.5-VL computes wrong M-RoPE positions without mm_token_type_ids, and does not complain.
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
        inputs |= pixels.inputs(images)
    return inputs


def response_logits(
    model: PreTrainedModel,
    prompts: list[list[int]],
    responses: list[list[int]],
    pixels: Pixels | None,
    images: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] and labels [N] of all response tokens of the batch; prompts are never trained on."""
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    inputs = model_inputs(model, rows, pixels, images, left=False)
    labels, _ = pad([[-100] * len(p) + r for p, r in zip(prompts, responses, strict=True)], -100, left=False)
    hidden = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    kept = labels[:, 1:] != -100
    return model.lm_head(hidden[kept]), labels[:, 1:][kept]
