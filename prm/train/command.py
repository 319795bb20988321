"""`mmcredit prm-train CONFIG`: data, filters, training, and the card of a verifier."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from mmcredit.components import build, explain, load_plugin
from mmcredit.config_files import override
from mmcredit.data.media import MediaLimits, content_key
from mmcredit.policy.config import ModelConfig
from mmcredit.rollout.engine import Sampling
from mmcredit.seeds import derive
from mmcredit.verifiers.base import RunContext
from prm.datasets.base import LabelledSpan, SpanSample
from prm.datasets.spans_jsonl import save_spans
from prm.evaluate import exchanged, judge, measures
from prm.local import LocalVerifier
from prm.oracles import easy_vqa_facts
from prm.parse import Verification
from prm.ticker import Ticker
from prm.train.annotate import Example, annotate, ideal_and_edits, roll_out
from prm.train.edits import EASY_VQA, SCENES
from prm.train.filters import balanced, keep_sound
from prm.train.sft import SFTConfig, prepare, steps_of, train
from prm.verifier import Query, ScriptedVerifier

if TYPE_CHECKING:
    from mmcredit.data.sample import Sample
    from prm.verifier import Verifier

console = Console(markup=False)
TRAIN, TEST = "train.jsonl", "test.jsonl"


class DataBlock(BaseModel):
    """Where the examples come from."""

    model_config = ConfigDict(extra="forbid")

    train: Any = Field(description="source of the training questions")
    test: Any = Field(description="source of the held-out questions; their pictures are kept out of training")
    questions: int = Field(2000, ge=1, description="training questions, the first of a seeded shuffle")
    test_questions: int = Field(300, ge=1, description="held-out questions")
    rollouts: int = Field(3, ge=0, description="responses of the policy per question (paper: 3)")
    edits: int = Field(1, ge=0, description="minimal edits of the ideal response per question")
    temperature: float = Field(1.0, gt=0, description="of the rollouts")
    max_new_tokens: int = Field(64, ge=1, description="longest response")


class PrmTrainConfig(BaseModel):
    """A verifier's training, as a YAML file says it."""

    model_config = ConfigDict(extra="forbid")

    output: Path = Field(description="folder of the verifier")
    seed: int = 0
    model: ModelConfig | str = Field(description="weights that training starts from")
    policy: ModelConfig | str | None = Field(None, description="whose responses are verified; default the model")
    annotator: Any = Field(description="verifier that annotates: scene_oracle, easy_vqa_oracle, prm_endpoint")
    ideal: Literal["scenes", "easy_vqa"] | None = Field(None, description="task whose true responses are added, edited")
    layout: Literal["full", "short"] = Field("short", description="instructions and example, or the bare question")
    longest: int = Field(16384, ge=1, description="tokens of an example; longer ones are dropped")
    max_new_tokens: int = Field(256, ge=1, description="longest verification at test time")
    data: DataBlock
    sft: SFTConfig = Field(default_factory=SFTConfig)  # type: ignore[arg-type]


def run(options: Namespace) -> int:
    """Make the data, train, test, write the card."""
    for path in options.plugin:
        load_plugin(path)
    config = read_config(options.config, options.overrides)
    if (config.output / "model.safetensors").exists():
        raise ValueError(f"output {config.output} holds a verifier already; give another folder")
    config.output.mkdir(parents=True, exist_ok=True)
    from mmcredit.policy.policy import Policy
    from mmcredit.prepare import seed_everything

    seed_everything(config.seed)
    policy = Policy.load(_model(config.model), derive(config.seed, "model") % 2**32)
    writer = policy if config.policy is None else Policy.load(_model(config.policy), 0)
    train_samples, test_samples = (_samples(config, name) for name in ("train", "test"))
    context = RunContext(policy.tokenizer, config.output, config.seed, MediaLimits())
    annotator = build("verifier", config.annotator).backend(context)  # type: ignore[attr-defined]
    forbidden = {content_key(image) for sample in test_samples for image in sample.media}
    console.print("writing responses and annotating them", highlight=False)
    examples, dropped = _examples(config, train_samples, writer, annotator, forbidden)
    tests, _ = _examples(config, test_samples, writer, annotator, ())
    # The answers of an annotator may be dear; they are also what RL on the verifier is trained on.
    save_spans(as_span_samples(examples), config.output / TRAIN)
    save_spans(as_span_samples(tests), config.output / TEST)
    if options.data_only:
        console.print(f"{len(examples)} examples, dropped {dict(dropped)}; {len(tests)} to test on", highlight=False)
        console.print(f"annotated responses: {config.output / TRAIN}", highlight=False, soft_wrap=True)
        return 0
    taught, refused = prepare(examples, policy, config.layout, config.longest)
    dropped.update({name: count for name, count in refused.items() if count})
    console.print(f"{len(taught)} examples, dropped {dict(dropped)}; {len(tests)} to test on", highlight=False)
    ticker = Ticker(console, "step", steps_of(len(taught), config.sft))
    with (config.output / "loss.jsonl").open("w", encoding="utf-8") as log:

        def tell(step: int, loss: float) -> None:
            log.write(json.dumps({"step": step, "loss": loss}) + "\n")
            log.flush()
            ticker(1, f"loss {loss:.4f}")

        losses = train(taught, policy, config.sft, config.seed, tell)
    policy.save(config.output)
    results = _test(config, policy, tests)
    card = {
        "command": " ".join(["mmcredit prm-train", options.config, *options.overrides]),
        "config": config.model_dump(mode="json"),
        "examples": len(taught),
        "flagged": sum(example.flagged for example in examples) / max(1, len(examples)),
        "origins": dict(Counter(example.origin for example in examples)),
        "dropped": dict(dropped),
        "steps": len(losses),
        "last_loss": losses[-1],
        "test": results,
    }
    (config.output / "card.json").write_text(json.dumps(card, indent=1))
    from prm.evaluate_command import table

    console.print(table(results))
    console.print(f"verifier: {config.output}", highlight=False, soft_wrap=True)
    return 0


def read_config(path: str, overrides: Sequence[str]) -> PrmTrainConfig:
    """The checked config of a file with dotted overrides. Raises ValueError."""
    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(plain, dict):
        raise ValueError(f"{path}: a mapping is wanted")
    override(plain, overrides)
    try:
        return PrmTrainConfig(**plain)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, PrmTrainConfig)}") from None


def _model(model: ModelConfig | str) -> ModelConfig:
    return ModelConfig(path=model) if isinstance(model, str) else model


def _samples(config: PrmTrainConfig, name: str) -> list[Sample]:
    import random

    entry = getattr(config.data, name)
    samples = build("source", entry).load(MediaLimits())  # type: ignore[attr-defined]
    count = config.data.questions if name == "train" else config.data.test_questions
    order = list(range(len(samples)))
    random.Random(derive(config.seed, "prm data", name)).shuffle(order)
    return [samples[i] for i in order[:count]]


def _examples(
    config: PrmTrainConfig, samples: Sequence[Sample], writer: Any, annotator: Verifier, forbidden: Any
) -> tuple[list[Example], Counter[str]]:
    data = config.data
    queries: list[tuple[Query, str]] = []
    if data.rollouts:
        engine = build("engine", "hf").open(writer)  # type: ignore[attr-defined]
        sampling = Sampling(temperature=data.temperature, max_new_tokens=data.max_new_tokens)
        ticker = Ticker(console, "responses", len(samples) * data.rollouts)
        written = roll_out(samples, writer, engine, data.rollouts, sampling, config.seed, ticker)
        queries += [(query, "rollout") for query in written]
    if config.ideal is not None:
        make, kinds = IDEAL[config.ideal]
        queries += ideal_and_edits(samples, make, kinds, data.edits, config.seed)
    thoughts = None if config.ideal is None else _thoughts(config.ideal, {s.id: s for s in samples})
    found, dropped = keep_sound(annotate(queries, annotator, thoughts), forbidden)
    kept, more = balanced(found, config.seed)
    return kept, dropped + more


def _scene_ideal(sample: Sample) -> str | None:
    return sample.meta.get("response")


def _vqa_ideal(sample: Sample) -> str | None:
    facts = easy_vqa_facts(sample.meta["split"]).get(sample.meta["image_id"], {})
    if len(facts) < 2:
        return None
    return f"<think>The image shows a {facts['color']} {facts['shape']}.</think><answer>{sample.answer}</answer>"


IDEAL: dict[str, tuple[Callable[[Sample], str | None], tuple[tuple[str, ...], ...]]] = {
    "scenes": (_scene_ideal, SCENES),
    "easy_vqa": (_vqa_ideal, EASY_VQA),
}


def _thoughts(task: str, samples: dict[str, Sample]) -> Callable[[Query], str]:
    """What the verifier shall think: the true statements about the picture, which it then compares."""

    def think(query: Query) -> str:
        ideal = IDEAL[task][0](samples[query.sample_id])
        return "" if ideal is None else ideal.partition("<think>")[2].partition("</think>")[0]

    return think


def as_span_samples(examples: Sequence[Example]) -> list[SpanSample]:
    """Annotated examples as samples to test on."""
    out = []
    for number, example in enumerate(examples):
        query, said = example.query, example.said
        places = said.places or tuple((at, at + len(s)) for s in said.strings for at in [query.response.find(s)])
        spans = tuple(LabelledSpan(a, b, query.response[a:b]) for a, b in places)
        image = query.images[0] if query.images else None
        out.append(
            SpanSample(
                f"{query.sample_id}/{number}", image, query.question, query.response, spans, bool(spans),
                example.origin, "test", {k: v for k, v in query.meta.items() if k in ("scene", "split", "image_id")},
            )
        )  # fmt: skip
    return out


def _test(config: PrmTrainConfig, policy: Any, tests: Sequence[Example]) -> dict[str, dict[str, Any]]:
    """The verifier, the same with exchanged pictures, and the baselines that flag nothing or everything."""
    samples = as_span_samples(tests)
    local = LocalVerifier(policy, "trained", layout=config.layout, max_new_tokens=config.max_new_tokens)
    nothing = ScriptedVerifier(lambda query: Verification())
    everything = ScriptedVerifier(lambda query: Verification((query.response,), "flagged"))
    return {
        "verifier": measures(judge(samples, local)),
        "exchanged pictures": measures(judge(exchanged(samples, config.seed), local)),
        "flags nothing": measures(judge(samples, nothing)),
        "flags everything": measures(judge(samples, everything)),
    }
