"""Stage 1: teach the vision tower to see, as published vision-language models do before they meet a language model."""

import random

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tiny.batches import Pixels
from tiny.progress import Progress
from tiny.scenes import DenseProbe, SceneTask
from tiny.vqa import COLORS, SHAPES


class _Probe(torch.nn.Module):
    """A throw-away classifier: attention pooling over the image tokens, then colour and shape logits."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = torch.nn.Linear(hidden, 1)
        self.classes = torch.nn.Linear(hidden, len(COLORS) + len(SHAPES))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features: [N, tokens, hidden]; returns colour logits [N, 8] and shape logits [N, 3]."""
        pooled = (torch.softmax(self.attention(features), 1) * features).sum(1)
        color, shape = self.classes(pooled).split((len(COLORS), len(SHAPES)), -1)
        return color, shape


def image_features(model: PreTrainedModel, pixels: Pixels, images: list[int]) -> torch.Tensor:
    """What the language model receives for these images [N, tokens, hidden], deep-stack features added."""
    out = model.model.get_image_features(**pixels.inputs(images), return_dict=True)
    features = torch.stack(list(out.pooler_output))
    for level in getattr(out, "deepstack_features", None) or ():
        features = features + (level if torch.is_tensor(level) else torch.cat(list(level))).view_as(features)
    return features


def train_tower(
    model: PreTrainedModel,
    pixels: Pixels,
    scenes: dict[int, tuple[str, str]],
    held_out: dict[int, tuple[str, str]],
    seed: int,
    steps: int,
    multi: SceneTask | None,
    batch: int = 48,
    multi_batch: int = 24,
    learning_rate: float = 2e-3,
) -> dict[str, float]:
    """Train `model.model.visual` to name colour and shape of `scenes`, and what stands where in those of `multi`.

    Returns the accuracy on `held_out` and on the validation pictures of `multi`.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    probe = _Probe(model.config.text_config.hidden_size)
    dense = DenseProbe(model.config.text_config.hidden_size)
    weights = [*model.model.visual.parameters(), *probe.parameters(), *dense.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    # Linear warm-up over 30 steps, linear decay over the last 30 %: the decay is worth 3 points of shape accuracy.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30, (steps - step) / (0.3 * steps))
    )
    progress = Progress("vision tower", steps)
    images = sorted(scenes)

    def logits_and_labels(chosen: list[int], truth: dict[int, tuple[str, str]]) -> tuple:
        logits = probe(image_features(model, pixels, chosen))
        colors = torch.tensor([COLORS.index(truth[i][0]) for i in chosen])
        shapes = torch.tensor([SHAPES.index(truth[i][1]) for i in chosen])
        return logits, (colors, shapes)

    for step in range(steps):
        logits, labels = logits_and_labels(rng.sample(images, batch), scenes)
        loss = sum(cross_entropy(row, label) for row, label in zip(logits, labels, strict=True))
        if multi is not None:
            chosen = rng.sample(range(len(multi.train.questions)), multi_batch)
            graphs = [multi.train.questions[i].scene for i in chosen]
            loss = loss + dense.loss(image_features(model, multi.train.pixels, chosen), graphs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        progress.show(step + 1, loss=loss.item())
    with torch.no_grad():
        logits, labels = logits_and_labels(sorted(held_out), held_out)
        seen = {}
        if multi is not None:
            few = list(range(200))
            graphs = [multi.validation.questions[i].scene for i in few]
            seen = dense.accuracy(image_features(model, multi.validation.pixels, few), graphs)
    right = [(row.argmax(-1) == label).float().mean().item() for row, label in zip(logits, labels, strict=True)]
    accuracy = {"probe_color_accuracy": right[0], "probe_shape_accuracy": right[1]}
    return accuracy | {f"probe_scene_{name}_accuracy": value for name, value in seen.items()}
