"""The four tags of a retrieval call as tokens: added to a tokenizer, and their rows of the model initialised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import AddedToken

from video.retrieval import TAGS

if TYPE_CHECKING:
    from torch import Tensor

Init = Literal["subtokens", "mean"]


@dataclass(frozen=True)
class TagIds:
    """Ids of the tags; each tag is one token."""

    span: int
    span_end: int
    fps: int
    fps_end: int

    @classmethod
    def of(cls, tokenizer: Any) -> TagIds:
        """The ids that `tokenizer` knows. Raises ValueError if a tag is not one token of it, or is a special one.

        Special tokens vanish when a response is decoded, and rewards read the tags in the decoded text.
        """
        ids = []
        for tag in TAGS:
            found = tokenizer.encode(tag, add_special_tokens=False)
            if len(found) != 1 or tokenizer.convert_tokens_to_ids(tag) != found[0]:
                raise ValueError(
                    f"{tag} is {len(found)} tokens of this tokenizer; retrieval needs one: add the tags with "
                    "video.tags.add_tags and save model and tokenizer"
                )
            if tokenizer.decode(found, skip_special_tokens=True).strip() != tag:
                raise ValueError(f"{tag} is a special token of this tokenizer and would vanish from decoded responses")
            ids.append(found[0])
        return cls(*ids)


def add_tags(tokenizer: Any, model: Any = None, init: Init = "subtokens", seed: int = 0) -> TagIds:
    """Add the tags to `tokenizer` as ordinary added tokens, and give their rows of `model` a start.

    `subtokens`: the mean of the embeddings of the pieces that the tag's text had before; `mean`: the mean of all
    existing rows plus noise N(0, 1/sqrt(d)) from `seed`. Input embeddings and, where they are not tied to them, the
    output rows are set, also where the matrix had spare rows (Qwen3-VL has 151936 for 151669 tokens: the spare ones
    hold whatever they were left with). The matrix grows only if it is too small. Tags that the tokenizer knows already
    keep their rows. Returns the ids. Raises ValueError if a tag does not become one ordinary token.
    """
    known = tokenizer.get_vocab()
    new = [tag for tag in TAGS if tag not in known]
    pieces = {tag: tokenizer.encode(tag, add_special_tokens=False) for tag in new}
    used = len(tokenizer)
    if new:
        tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in new])
    ids = TagIds.of(tokenizer)
    if model is not None and new:
        if model.get_input_embeddings().weight.shape[0] < len(tokenizer):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        places = {tag: tokenizer.convert_tokens_to_ids(tag) for tag in new}
        for matrix in _matrices(model):
            _initialise(matrix, {places[tag]: pieces[tag] for tag in new}, used, init, seed)
    return ids


def _matrices(model: Any) -> list[Tensor]:
    """The input embedding and, where it is another tensor, the output matrix: [V, d] each; a head's bias is left."""
    inner = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    if head is None or head.weight.data_ptr() == inner.data_ptr():
        return [inner]
    return [inner, head.weight]


def _initialise(matrix: Tensor, pieces: dict[int, list[int]], used: int, init: Init, seed: int) -> None:
    """Set rows `pieces` of `matrix` [V, d]; rows below `used` are those of known tokens."""
    generator = torch.Generator().manual_seed(seed)
    matrix = matrix.detach()  # the same memory, without a graph
    middle = matrix[:used].float().mean(0)
    for row, parts in sorted(pieces.items()):
        if init == "subtokens":
            value = matrix[torch.tensor(parts, device=matrix.device)].float().mean(0)
        else:
            noise = torch.randn(matrix.shape[1], generator=generator) / matrix.shape[1] ** 0.5
            value = middle + noise.to(middle.device)
        matrix[row] = value.to(matrix.dtype)
