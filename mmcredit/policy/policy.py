"""The policy: a model with its tokenizer and processor, and everything that is asked of them but sampling."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmcredit.data.media import MediaLimits, content_key, load_image
from mmcredit.data.sample import Sample
from mmcredit.data.videos.base import video_loader
from mmcredit.policy import agreement, batching, own_forward
from mmcredit.policy.adapters import record_base
from mmcredit.policy.batching import MicroBatch, check_rollouts
from mmcredit.policy.chat_templates import save_ends, stop_strings
from mmcredit.policy.config import ModelConfig
from mmcredit.policy.costs import Costs
from mmcredit.policy.encode import PromptEncoder
from mmcredit.policy.forward import Body, EmbeddedPrompt, LayoutName
from mmcredit.policy.load import load_model, take_over
from mmcredit.policy.passes import CLEAN, Pass
from mmcredit.policy.prompt import Prompt
from mmcredit.policy.runner import Runner, Scores
from mmcredit.policy.save import save_adapter, save_model, write_aside
from mmcredit.policy.shown import MakePrompt
from mmcredit.policy.vision import items
from mmcredit.rollouts import Rollouts
from mmcredit.world import ALONE, World

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmcredit.policy.scope import Scope


class Policy:
    """A model that answers, and the only way to its scores.

    `suppressed_ids` have probability 0 in every score, and an engine must never sample them. `reference` is a frozen
    model for views with ``weights="reference"`` (a `Body`; with LoRA none is needed: the adapters are switched off).
    `view_prompts` makes, by view name, the prompt that a view other than clean and blind shows, or None where there is
    none (no hint for a teacher): outputs of its responses are NaN then. `costs` counts every forward of this process.
    `world`: the processes that share out its passes. `scope`: a training engine that spreads its weights over them.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        processor: Any = None,
        config: ModelConfig | None = None,
        media_limits: MediaLimits | None = None,
    ) -> None:
        """Wrap a model that is in memory, adapters in place (`load` reads one from disk)."""
        self.config = config or ModelConfig(path="in memory")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.processor = processor
        self.adapters = hasattr(model, "disable_adapter")
        body = Body(self._inner(), self.config.vision_cache_mb * 2**20)
        # A media placeholder in a response has no media behind it.
        self.suppressed_ids: tuple[int, ...] = tuple(sorted(set(body.kinds.values())))
        self.costs = Costs()
        self._runner = Runner(self.model, body, self.config, self.costs, self.suppressed_ids, self.adapters)
        self.media_limits = media_limits or MediaLimits()
        self.encoder = PromptEncoder(
            tokenizer,
            processor,
            self.body.base,
            self.config.template_variables,
            self.config.pixel_cache_mb * 2**20,
            lambda media: load_image(media, self.media_limits),
            content_key,
            self.config.path,
        )
        self.encoder.find_video = lambda: video_loader(self.media_limits)
        self.eos_token_ids: tuple[int, ...] = self._eos()
        self.stop_strings: tuple[str, ...] = stop_strings(self._inner())  # end a response too
        self.world: World = ALONE
        self.scope: Scope | None = None
        self._layout = None if self.config.layout == "shared" else "padded"

    @classmethod
    def load(cls, config: ModelConfig, seed: int = 0, media_limits: MediaLimits | None = None) -> Policy:
        """The policy of a config's `model` part. `seed` initialises adapters. Raises ValueError as `load_model`."""
        model, tokenizer, processor = load_model(config, seed)
        return cls(model, tokenizer, processor, config, media_limits)

    def _inner(self) -> Any:
        model: Any = self.model
        return model.get_base_model() if self.adapters else model

    def _eos(self) -> tuple[int, ...]:
        generation = getattr(self._inner(), "generation_config", None)
        named = getattr(generation, "eos_token_id", None)
        ids = set(named if isinstance(named, list | tuple) else [named]) | {self.tokenizer.eos_token_id}
        return tuple(sorted(int(i) for i in ids if i is not None))

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.body.device

    @property
    def tower(self) -> nn.Module | None:
        """The vision tower, None for a text model."""
        return None if self.body.vision is None else self.body.vision.tower

    @property
    def body(self) -> Body:
        """The model, taken apart."""
        return self._runner.body

    @body.setter
    def body(self, body: Body) -> None:
        self._runner.body = body

    @property
    def _layout(self) -> LayoutName | None:
        """The layout in use; None before the first pass."""
        return self._runner.layout

    @_layout.setter
    def _layout(self, layout: LayoutName | None) -> None:
        self._runner.layout = layout

    @property
    def reference(self) -> Body | None:
        """The frozen model of views with ``weights="reference"``."""
        return self._runner.reference

    @reference.setter
    def reference(self, body: Body | None) -> None:
        self._runner.reference = body

    @property
    def view_prompts(self) -> dict[str, MakePrompt]:
        """By view name, what makes the prompt that it shows."""
        return self._runner.view_prompts

    # Input ------------------------------------------------------------------------------------------------------------

    def encode(self, sample: Sample, max_tokens: int | None = None) -> Prompt:
        """The prompt of a sample, on the CPU. Raises ValueError naming the sample (see `PromptEncoder`), and
        `UnsupportedModel` where sampling and scores could not read the media of this model."""
        prompt = self.encoder(sample, max_tokens)
        if prompt.media_keys:
            items(prompt)
        return prompt

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a response, without special tokens and without the stop string of the chat layout at its end."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        ends = [at for stop in self.stop_strings if (at := text.rfind(stop)) >= 0]
        return text[: min(ends)] if ends else text

    @torch.no_grad()
    def embed(self, prompts: Sequence[Prompt]) -> list[EmbeddedPrompt]:
        """Input embeddings of prompts with vision features in place, for an engine's own prefill. No gradient."""
        self._mode(training=False)
        return self.body.embedded(prompts, "policy", self.costs.sampling())

    # Scores -----------------------------------------------------------------------------------------------------------

    def layout(self, prompts: Sequence[Prompt], rollouts: Rollouts) -> LayoutName:
        """The layout in use. On first use of `shared` it is compared with `padded` on a few of these responses; if they
        differ, or the architecture refuses, `padded` is used from then on and a warning says why."""
        if self._layout is None:
            self._mode(training=False)
            with self._whole():
                reason = self.world.from_first(lambda: self._compare_layouts(prompts, rollouts))
            self._layout = "shared" if reason is None else "padded"
            if reason is not None:
                warnings.warn(
                    f"model.layout=shared cannot be used with {type(self.body.model).__name__}: {reason}; using padded",
                    stacklevel=2,
                )
        return self._layout

    @torch.no_grad()
    def _compare_layouts(self, prompts: Sequence[Prompt], rollouts: Rollouts) -> str | None:
        chosen = agreement.probe_rows(rollouts.group.tolist(), rollouts.valid.sum(1).tolist(), prompts)
        rows = self._runner.rows(prompts, rollouts, chosen)
        wanted = {CLEAN: frozenset({"logprobs"})}
        return agreement.difference(
            self.body,
            rows,
            lambda states, tokens: self._runner.read({CLEAN: states}, tokens, wanted, 1.0, None)[CLEAN]["logprobs"],
        )

    @torch.no_grad()
    def check_family(self, prompts: Sequence[Prompt]) -> None:
        """Compare a pass with the model's own forward on one of these prompts with media and one without.

        Raises UnsupportedModel where they differ: scores of this model would be wrong, whatever is trained on.
        """
        self._mode(training=False)
        with self._whole():
            for seen in (True, False):
                for prompt in prompts:
                    if bool(prompt.media_keys) == seen and own_forward.check(self.body, self.encoder, prompt):
                        break

    def micro_batches(
        self, prompts: Sequence[Prompt], rollouts: Rollouts, *, budget: int, layout: LayoutName | None = None
    ) -> list[MicroBatch]:
        """Cut the responses into micro-batches of at most `budget` tokens, visual ones included (see `batching`)."""
        layout, lengths = self._worth_running(prompts, rollouts, layout)
        return batching.micro_batches(prompts, rollouts.group.tolist(), lengths, budget=budget, layout=layout)

    def own_micro_batches(
        self, prompts: Sequence[Prompt], rollouts: Rollouts, *, budget: int, in_step: bool = False
    ) -> list[tuple[MicroBatch, bool]]:
        """This rank's share of the micro-batches, and whether each counts. `in_step`: every rank gets as many; one that
        has run out goes through one of another rank's once more, for nothing."""
        layout, lengths = self._worth_running(prompts, rollouts, None)
        groups, size = rollouts.group.tolist(), self.world.size
        shares = batching.shared_out(prompts, groups, lengths, budget=budget, layout=layout, size=size)
        own = [(micro, True) for micro in shares[self.world.rank]]
        if in_step:
            fullest = max(shares, key=len)
            own += [(micro, False) for micro in fullest[len(own) :]]
        return own

    def _worth_running(
        self, prompts: Sequence[Prompt], rollouts: Rollouts, layout: LayoutName | None
    ) -> tuple[LayoutName, list[int]]:
        """The layout in use, and the length of each response, 0 for one that needs no forward."""
        check_rollouts(prompts, rollouts, self.suppressed_ids)
        layout = layout or self.layout(prompts, rollouts)
        # A response that bears no credit (left out by a strategy, or filtered as overlong) is not worth a forward.
        return layout, (rollouts.valid.sum(1) * rollouts.mask.any(1)).tolist()

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[Prompt],
        rollouts: Rollouts,
        passes: Sequence[Pass],
        *,
        temperature: float,
        budget: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        """Run no-gradient passes over all responses. ``prompts[i]`` belongs to the responses with ``group == i``.

        Returns [B,T] float32 per view and output (`head_input` [B,T,d]) on the device of the rollouts, 0 where a token
        is not valid and in responses without a token that may carry credit. All passes share micro-batches of `budget`
        tokens (default `model.score_tokens`); `progress` is told the responses done. Raises ValueError for an unknown
        view or output.
        """
        device = rollouts.tokens.device
        b, t = rollouts.tokens.shape
        self._mode(training=False)
        out: Scores = {}
        wanted = self._runner.wanted(passes)
        with self._whole():
            for batch, _ in self.own_micro_batches(prompts, rollouts, budget=budget or self.config.score_tokens):
                found, places = self._runner.run(prompts, rollouts, batch.rows, wanted, temperature)
                flat = (torch.tensor(batch.rows)[places[0]] * t + places[1]).to(device)
                for view, outputs in found.items():
                    for name, values in outputs.items():
                        whole = out.setdefault(view, {}).get(name)
                        if whole is None:
                            whole = torch.zeros(b * t, *values.shape[1:], dtype=torch.float32, device=device)
                            out[view][name] = whole
                        whole.index_copy_(0, flat, values.to(device))
                if progress is not None:
                    progress(len(batch.rows))
        for view, names in wanted.items():
            outputs = out.setdefault(view, {})
            for name in names:
                tail = (int(self.body.config.hidden_size),) if name == "head_input" else ()
                whole = outputs.get(name)
                outputs[name] = torch.zeros(b, t, *tail, device=device) if whole is None else whole.view(b, t, *tail)
            out[view] = self.world.totals(outputs)
        return out

    def _whole(self) -> AbstractContextManager[None]:
        return nullcontext() if self.scope is None else self.scope.whole()

    def forward(
        self,
        prompts: Sequence[Prompt],
        rollouts: Rollouts,
        rows: Sequence[int],
        passes: Sequence[Pass],
        *,
        temperature: float,
    ) -> Scores:
        """Run passes with gradient over one micro-batch: the responses `rows`.

        Returns [b,T] float32 per view and output, in the order of `rows`, 0 where a token is not valid, on the model's
        device. Views of the reference carry no gradient. Raises ValueError for an unknown view or output.
        """
        check_rollouts(prompts, rollouts, self.suppressed_ids)
        self.layout(prompts, rollouts)
        t = rollouts.tokens.shape[1]
        self._mode(training=True)

        def run() -> tuple[Scores, tuple[Tensor, Tensor]]:
            return self._runner.run(prompts, rollouts, rows, self._runner.wanted(passes), temperature, self.scope)

        found, places = run() if self.scope is None else self.scope.forward(run)
        flat = (places[0] * t + places[1]).to(self.device)
        return {
            view: {
                name: values.new_zeros(len(rows) * t, *values.shape[1:])
                .index_copy(0, flat, values)
                .view(len(rows), t, *values.shape[1:])
                for name, values in outputs.items()
            }
            for view, outputs in found.items()
        }

    def _mode(self, training: bool) -> None:
        """Train mode where it means something: checkpointing of activations, dropout of adapters. It lasts until the
        next pass without gradient, since a checkpointed backward runs the layers once more."""
        lora = self.config.lora
        training = training and (self.config.gradient_checkpointing or (lora is not None and lora.dropout > 0))
        if self.model.training != training:
            self.model.train(training)

    # Weights ----------------------------------------------------------------------------------------------------------

    def keep_reference(self) -> None:
        """Keep a frozen copy of the present weights as `reference`."""
        model = copy.deepcopy(self._inner()).requires_grad_(False).eval()
        self.reference = Body(model, self.config.vision_cache_mb * 2**20)
        if self.body.vision is not None and self.body.vision.frozen:
            self.reference.vision = self.body.vision  # the same tower: its features are remembered once

    def weights_changed(self) -> None:
        """To be called after every optimizer step and every loading of weights: drops features of a trained tower."""
        if self.body.vision is not None:
            self.body.vision.weights_changed()

    def drop_caches(self) -> None:
        """Forget every vision feature, those of a frozen tower too. A run does so at each checkpoint: features encoded
        again in other company can differ in the last bit, and a resumed run has to encode them again."""
        for body in (self.body, self.reference):
            if body is not None and body.vision is not None:
                body.vision.clear()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, for all that are trained."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """The trained parameters, by name, detached (the others are those of `model.path`)."""
        return {name: p.detach() for name, p in self.trainable_parameters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ValueError naming missing, unknown or misshapen parameters."""
        take_over(self.trainable_parameters(), state)
        self.weights_changed()

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and processor as `from_pretrained` reads them, aside and renamed.

        Weights have the dtype of the source (`model.save_dtype`: another). With LoRA only the adapter is written, as it
        is trained, and beside it what base it belongs to.
        """
        model: Any = self.model
        dtype = None if self.config.save_dtype is None else getattr(torch, self.config.save_dtype)

        def write(aside: Path) -> None:
            if self.adapters:
                save_adapter(model, aside, dtype)
                name, resolved = getattr(model, "base_of", (self.config.path, self.config.path))
                record_base(aside, name, resolved)
                save_ends(self._inner(), aside)
            else:
                save_model(model, aside, dtype or getattr(model, "source_dtype", None))
            (self.processor or self.tokenizer).save_pretrained(aside)

        write_aside(Path(folder), write)

    @property
    def starts_at_base(self) -> bool:
        """Whether the reference, the weights as loaded, are there with the adapter off: not where an adapter that was
        trained before is trained further."""
        return self.adapters and not getattr(self.model, "continues", False)
