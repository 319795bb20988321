"""Everything of this package that a config can name. The entry point `mmcredit.components` loads this module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from mmcredit.components import build, register
from mmcredit.policy.builtin import add_home
from mmcredit.policy.config import ModelConfig
from mmcredit.verifiers.base import Verifier
from prm.endpoint_config import EndpointConfig
from prm.perceval import Perceval
from prm.train.queries import AnnotatedResponses
from prm.train.reward import SpanIoU

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from mmcredit.verifiers.base import RunContext
    from prm.checking import PerceptionChecker
    from prm.verifier import Verifier as Backend

__all__ = [
    "AnnotatedResponses",
    "EasyVqaOracleVerifier",
    "EndpointVerifierComponent",
    "LocalVerifierComponent",
    "PerceptionVerifier",
    "Perceval",
    "RandomSpansVerifier",
    "SceneOracleVerifier",
    "SpanIoU",
]

add_home(Path(__file__).parent / "assets")


class PerceptionVerifier(Verifier):
    """A verifier whose flagged strings are looked for in the response; gives the signal `hallucinated`.

    Parity with the public release: `mode: retokenize`, `occurrence: first`, `ladder: [exact]`, `zone: all`.
    """

    mode: Literal["sampled", "retokenize"] = Field(
        "sampled", description="token places from the sampled ids, or from the text tokenised again (the release)"
    )
    occurrence: Literal["first", "all", "first_after_previous"] = Field(
        "first", description="which place of a string that stands in the response several times"
    )
    ladder: tuple[Literal["exact", "trimmed", "normalised", "casefolded", "fuzzy"], ...] = Field(
        ("exact", "trimmed", "normalised", "casefolded"), min_length=1, description="ways to find a string, in turn"
    )
    zone: Literal["all", "think"] = Field("all", description="part of the response in which spans may lie")
    max_mask_frac: float = Field(1.0, gt=0, le=1, description="verifications that flag a larger share are dropped")
    where: dict[str, list[Any]] = Field(
        default_factory=dict, description="only samples whose meta has one of these values; the others are skipped"
    )

    def backend(self, context: RunContext) -> Backend:
        """What answers the queries. Raises ValueError for what the config gets wrong."""
        raise TypeError(f"{type(self).__name__} does not implement backend(context)")

    def refuses(self) -> Callable[[Sample], str]:
        """Says why a sample is not for this verifier, or nothing."""
        from prm.checking import needs_image

        return needs_image

    def open(self, context: RunContext) -> PerceptionChecker:
        from prm.checking import PerceptionChecker, SpanSettings, only_where

        settings = SpanSettings(self.mode, self.occurrence, self.ladder, self.zone, self.max_mask_frac)
        refuses = only_where(self.where, self.refuses())
        return PerceptionChecker(self.backend(context), context.tokenizer, settings, refuses)


@register("verifier", "scene_oracle")
class SceneOracleVerifier(PerceptionVerifier):
    """The scene graph of the source `scenes` as an exact verifier: every claim that the graph contradicts is flagged.

    What counts as a claim: `mmcredit.data.scenes.claims`. Claims on which two people could differ are left alone, and
    samples without a scene graph are skipped. It costs no model call.
    """

    flags: Literal["claim", "word"] = Field(
        "claim", description="the whole false claim, or the word at which it becomes false"
    )

    def backend(self, context: RunContext) -> Backend:
        from prm.oracles import SceneOracle

        return SceneOracle(self.flags)

    def refuses(self) -> Callable[[Sample], str]:
        from prm.checking import needs_meta

        return needs_meta("scene")


@register("verifier", "easy_vqa_oracle")
class EasyVqaOracleVerifier(PerceptionVerifier):
    """Colour and shape of every easy-VQA picture as an exact verifier: every false colour or shape word is flagged.

    The facts are those of the package's own questions and answers. It costs no model call.
    """

    answers: bool = Field(False, description="also flag words of the answer block, which the reward judges anyway")

    def backend(self, context: RunContext) -> Backend:
        from prm.oracles import EasyVqaOracle

        return EasyVqaOracle(self.answers)

    def refuses(self) -> Callable[[Sample], str]:
        from prm.checking import needs_meta

        return needs_meta("image_id", "split")


class CachedVerifierComponent(PerceptionVerifier):
    """A verifier model, whose answers are kept on disk by content."""

    cache: Path | None = Field(None, description="SQLite file of known answers; default prm-cache.sqlite of the run")
    cache_mb: int = Field(256, ge=0, description="limit of that file's answers, MiB; 0 = keep none")

    def model_backend(self, context: RunContext) -> Backend:
        """The backend that calls the model."""
        raise TypeError(f"{type(self).__name__} does not implement model_backend(context)")

    def backend(self, context: RunContext) -> Backend:
        from prm.cache import CachedVerifier

        model = self.model_backend(context)
        if not self.cache_mb:
            return model
        return CachedVerifier(model, self.cache or context.run_dir / "prm-cache.sqlite", self.cache_mb * 2**20)


@register("verifier", "prm_endpoint")
class EndpointVerifierComponent(CachedVerifierComponent):
    """A process reward model behind an OpenAI-compatible address, such as vLLM's server (`mmcredit prm-serve`).

    Concurrent requests with a deadline each, retries with back-off, several replicas (queries about one image go to
    one of them), and a circuit breaker: a server that fails again and again is left alone for a while, its responses
    are `prm_error` (no penalty, counted), and it is tried again. The model gets image, question and response and
    answers with a think block and a list of exact substrings, or "The response is correct".
    """

    endpoint: EndpointConfig = Field(description="address, model, limits")

    def model_backend(self, context: RunContext) -> Backend:
        from prm.endpoint import EndpointVerifier

        return EndpointVerifier(self.endpoint, context.media)


@register("verifier", "prm_local")
class LocalVerifierComponent(CachedVerifierComponent):
    """A process reward model in this process, on the rollout engine `hf`: for small models and for tests."""

    model: ModelConfig | str = Field(description="model folder, builtin:NAME, or a model section")
    layout: Literal["full", "short"] = Field("short", description="instructions and example, or the bare question")
    max_new_tokens: int = Field(256, ge=1, description="longest verification")
    batch: int = Field(64, ge=1, description="responses verified at a time")

    @field_validator("model")
    @classmethod
    def _as_config(cls, model: ModelConfig | str) -> ModelConfig | str:
        return ModelConfig(path=model) if isinstance(model, str) else model

    def model_backend(self, context: RunContext) -> Backend:
        from prm.local import LocalVerifier

        assert isinstance(self.model, ModelConfig)
        return LocalVerifier.load(
            self.model,
            context.media,
            layout=self.layout,
            max_new_tokens=self.max_new_tokens,
            batch=self.batch,
        )


@register("verifier", "random_spans")
class RandomSpansVerifier(PerceptionVerifier):
    """The control: as many spans of the same lengths (in words) as another verifier flags, at random places.

        verifiers:
          - random_spans: {like: {easy_vqa_oracle: {}}, seed: 0}

    A method that gains as much by it as by the verifier itself does not gain by what was flagged.
    """

    like: dict[str, Any] | str = Field(description="the verifier whose numbers and lengths of spans are taken")
    seed: int = Field(0, ge=0, description="other seeds give other places")
    flagged: float | None = Field(
        None, ge=0, le=1, description="draw the status too: this share of the responses is flagged (default: as `like`)"
    )

    @model_validator(mode="after")
    def _is_a_verifier(self) -> RandomSpansVerifier:
        self._inner()
        return self

    def _inner(self) -> PerceptionVerifier:
        return verifier_of(self.like)

    def backend(self, context: RunContext) -> Backend:
        from prm.control import RandomSpans

        return RandomSpans(self._inner().backend(context), self.seed, self.zone, self.flagged)

    def refuses(self) -> Callable[[Sample], str]:
        return self._inner().refuses()


def verifier_of(entry: Any) -> PerceptionVerifier:
    """The verifier that a command line or a config names: a component, or a model folder. Raises ValueError."""
    spec = entry
    if isinstance(entry, str):
        is_model = Path(entry).is_dir() or entry.startswith("builtin:")
        spec = {"prm_local": {"model": entry}} if is_model else yaml.safe_load(entry)
    found = build("verifier", spec)
    if not isinstance(found, PerceptionVerifier):
        raise ValueError(f"a verifier of the package prm is wanted, {entry!r} is none")
    return found
