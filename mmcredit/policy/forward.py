"""The only code that runs the model for scores: rows in, hidden states at response positions out.

Two layouts give the same numbers. `shared` packs each prompt once (see `layout`); `padded` repeats the prompt for each
response and pads to a rectangle, with the model's own attention and masks: it is the reference the other is checked
against, and what architectures get whose attention cannot be split.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmcredit.policy import attention
from mmcredit.policy.costs import ViewCost
from mmcredit.policy.families import decoder_name, sees_both_ways, vision_encoder
from mmcredit.policy.layout import Row, build_layout, shown
from mmcredit.policy.prompt import Prompt
from mmcredit.policy.seeing import allowed, images, is_hybrid, masks
from mmcredit.policy.vision import KINDS, Feature, media_kinds, prompt_feature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmcredit.policy.attention_entropy import Recorder
    from mmcredit.policy.scope import Scope

LayoutName = Literal["shared", "padded"]
NO_PACKING = "its layers of linear attention would read the packed row as one text"


@dataclass(frozen=True)
class EmbeddedPrompt:
    """A prompt as the language model takes it, vision features in place."""

    embeds: Tensor  # [P,d]
    positions: Tensor  # [P] or [3,P] int64
    visual: Tensor  # [P] bool
    deepstack: tuple[Tensor, ...]  # [M,d] per layer, M visual tokens (Qwen3-VL)


class Body:
    """One model, taken apart: embeddings, vision tower, language model, head."""

    def __init__(self, model: Any, vision_cache_bytes: int) -> None:
        """`model` is a causal language model or an image-text-to-text model of transformers, adapters in place.

        Raises ValueError if its parts cannot be found.
        """
        base: Any = getattr(model, "model", None)
        head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if base is None or head is None:
            raise ValueError(
                f"{type(model).__name__} has no `.model` and output head; give a causal language model or an "
                "image-text-to-text model of transformers (model.path)"
            )
        self.model = model
        self.base = base
        decoder = decoder_name(base)
        self.language_model: nn.Module = base if decoder is None else getattr(base, decoder)
        self.head = head
        self.config: Any = self.language_model.config
        self.vision = vision_encoder(base, vision_cache_bytes)
        self.both_ways = self.vision is not None and sees_both_ways(model)
        self.hybrid = is_hybrid(self.config)
        config: Any = model.config
        self.kinds = {
            kind: int(token)
            for kind in ("image", "video")
            if (token := getattr(config, f"{kind}_token_id", None)) is not None
        }
        self.config._attn_implementation = attention.NAME
        self.embed: Any = model.get_input_embeddings()
        self.vocabulary, self.head_size = int(self.head.weight.shape[0]), int(self.head.weight.numel())
        self.size = sum(p.numel() for p in self.language_model.parameters()) - int(self.embed.weight.numel())

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        return self.embed.weight.device

    def hidden(
        self,
        rows: Sequence[Row],
        *,
        blind: bool,
        layout: LayoutName,
        weights: str,
        cost: ViewCost,
        backward: int = 3,
        recorder: Recorder | None = None,
        scope: Scope | None = None,
    ) -> Tensor:
        """[sum S, d]: the states that predict each scored token of each row, row after row. `backward`: cost factor of
        a forward whose graph is kept. A `recorder` has its `values` of the same positions afterwards. `scope`: all
        ranks are in this call, and run the vision tower if one of them has to."""
        started = time.perf_counter()
        run = self._shared if layout == "shared" else self._padded
        states, computed = run(rows, blind, weights, cost, recorder, scope)
        factor = backward if states.requires_grad else 1
        cost.forwards += 1
        cost.tokens += computed
        cost.positions += states.shape[0]
        cost.flops += 2.0 * factor * (self.size * computed + self.head_size * states.shape[0])
        cost.seconds += time.perf_counter() - started
        return states

    def embedded(self, prompts: Sequence[Prompt], weights: str, cost: ViewCost) -> list[EmbeddedPrompt]:
        """Input embeddings of whole prompts, for a prefill. Without gradient the features are remembered."""
        features = self._features(prompts, weights, cost)
        out = []
        for prompt in prompts:
            embeds = self.embed(prompt.tokens.to(self.device))
            deepstack: tuple[Tensor, ...] = ()
            if prompt.media_keys:
                feature = prompt_feature(prompt, features, self.kinds)
                places = prompt.visual.nonzero()[:, 0].to(self.device)
                embeds = embeds.index_copy(0, places, feature.embeds.to(embeds.dtype))
                deepstack = feature.deepstack
            out.append(EmbeddedPrompt(embeds, prompt.positions, prompt.visual, deepstack))
        return out

    def _features(
        self, prompts: Sequence[Prompt], weights: str, cost: ViewCost, kinds: Sequence[str] = ()
    ) -> dict[str, Feature]:
        with_media = [p for p in prompts if p.media_keys]
        if not with_media and not kinds:
            return {}
        if self.vision is None:
            raise ValueError(
                f"sample {with_media[0].sample_id} has images or videos, but {type(self.model).__name__} has no vision "
                "tower; set model.path to a vision-language model"
            )
        return self.vision.features(with_media, weights, cost, kinds)

    def _insert(
        self,
        embeds: Tensor,
        prompts: Sequence[Prompt],
        places: Tensor,
        weights: str,
        cost: ViewCost,
        scope: Scope | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Put the features of `prompts`, one after the other, at rows `places` of embeds [N,d].

        With a `scope`, a trained tower is run by every rank or by none, so that its weights and gradients can be
        exchanged: where other ranks have a kind of media that this one has not, it sees a blank that adds 0.
        """
        prompts = [p for p in prompts if p.media_keys]
        kinds: list[str] = []
        if scope is not None and self.vision is not None and not self.vision.frozen:
            own = {kind for prompt in prompts for kind in media_kinds(prompt)}
            anyone = scope.any([kind in own for kind in KINDS])
            kinds = [kind for kind, run in zip(KINDS, anyone, strict=True) if run]
        features = self._features(prompts, weights, cost, kinds)
        for blank in (features.pop(kind) for kind in KINDS if kind in features):
            embeds = embeds + 0 * blank.embeds.sum().to(embeds.dtype)
        if not prompts:
            return embeds, ()
        done: dict[int, Feature] = {}
        for p in prompts:
            if id(p) not in done:
                done[id(p)] = prompt_feature(p, features, self.kinds)
        parts = [done[id(p)] for p in prompts]
        embeds = embeds.index_copy(0, places, torch.cat([f.embeds for f in parts]).to(embeds.dtype))
        return embeds, tuple(torch.cat(list(layer)) for layer in zip(*(f.deepstack for f in parts), strict=True))

    def _run(
        self, embeds: Tensor, positions: Tensor, mask: Any, places: Tensor, deepstack: Any, **extra: Any
    ) -> Tensor:
        """embeds [b,L,d] -> [b,L,d]; `places` index the visual rows of the flattened [b*L]."""
        if deepstack:
            visual = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
            visual.view(-1)[places] = True
            extra |= {"visual_pos_masks": visual, "deepstack_visual_embeds": list(deepstack)}
        out = self.language_model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False, **extra
        )
        return out.last_hidden_state

    def _shared(
        self, rows: Sequence[Row], blind: bool, weights: str, cost: ViewCost, recorder: Recorder | None,
        scope: Scope | None,
    ) -> tuple[Tensor, int]:  # fmt: skip
        if self.hybrid:
            raise NotImplementedError(NO_PACKING)
        layout = build_layout(rows, blind, self.device, self.both_ways)
        embeds = self.embed(layout.tokens)
        deepstack: tuple[Tensor, ...] = ()
        if not blind:
            embeds, deepstack = self._insert(embeds, layout.shown, layout.visual, weights, cost, scope)
        # A 4-D mask passes through mask creation untouched, and the split attention does not look at it.
        mask = masks(self.config, torch.ones(1, 1, 1, dtype=torch.bool, device=embeds.device))
        positions = layout.positions[..., None, :]
        extra = {} if recorder is None else {"recorder": recorder}
        states = self._run(embeds[None], positions, mask, layout.visual, deepstack, shared=layout, **extra)
        if recorder is not None:
            recorder.harvest(layout.source)
        return states[0].index_select(0, layout.source), len(layout)

    def _padded(
        self, rows: Sequence[Row], blind: bool, weights: str, cost: ViewCost, recorder: Recorder | None,
        scope: Scope | None,
    ) -> tuple[Tensor, int]:  # fmt: skip
        device = self.device
        # A state that is carried along the row cannot leave a token out: it must not be there.
        shows = [shown(r.prompt, blind and self.hybrid) for r in rows]
        lengths = [(kept.shape[0], r.tokens.shape[0]) for (kept, _), r in zip(shows, rows, strict=True)]
        width = max(p + t - 1 for p, t in lengths)
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        positions = torch.zeros(*rows[0].prompt.positions.shape[:-1], len(rows), width, dtype=torch.int64)
        real = torch.zeros(len(rows), width, dtype=torch.bool)
        visual = torch.zeros(len(rows), width, dtype=torch.bool)
        source = []
        for i, (row, (kept, at), (p, t)) in enumerate(zip(rows, shows, lengths, strict=True)):
            tokens[i, :p], tokens[i, p : p + t - 1] = kept, row.tokens[:-1]
            positions[..., i, :p] = at
            positions[..., i, p : p + t - 1] = row.positions[..., :-1]
            real[i, : p + t - 1] = True
            visual[i, p : p + t - 1] = row.visual[:-1]
            if not (blind and self.hybrid):
                visual[i, :p] = row.prompt.visual
            source.append((torch.arange(p - 1, p + t - 1) + i * width)[row.scored])
        if blind and self.hybrid and bool(visual.any()):
            raise NotImplementedError("media inside a response cannot be hidden from layers of linear attention")
        places = visual.view(-1).nonzero()[:, 0].to(device)
        embeds = self.embed(tokens.to(device))
        deepstack: tuple[Tensor, ...] = ()
        if not blind:
            pieces = [piece for r in rows for piece in (r.prompt, *r.shown)]
            flat, deepstack = self._insert(embeds.flatten(0, 1), pieces, places, weights, cost, scope)
            embeds = flat.view(embeds.shape)
        mask = self._mask(real, visual, blind)
        extra: dict[str, Any] = {}
        if recorder is not None:
            recorder.spans = [(p - 1, p + t - 1) for p, t in lengths]
            recorder.seen = (real & ~visual if blind else real).to(device)
            extra["recorder"] = recorder
        states = self._run(embeds, positions.to(device), mask, places, deepstack, **extra)
        if recorder is not None:
            said = torch.cat([r.scored for r in rows])
            recorder.harvest(None if bool(said.all()) else said.nonzero()[:, 0].to(device))
        return states.flatten(0, 1).index_select(0, torch.cat(source).to(device)), tokens.numel()

    def _mask(self, real: Tensor, visual: Tensor, blind: bool) -> Any:
        """The mask of the padded layout for real, visual [b,L] bool: the model's own wherever that says it all."""
        if (blind and not self.hybrid) or (self.both_ways and bool(visual.any())):
            seen = real & ~visual if blind else real
            place, image = torch.arange(real.shape[1]), None if blind else images(visual)
            return masks(self.config, (allowed(place, place, None, image, image) & seen[:, None]).to(self.device))
        return real.to(self.device)
