"""The run config: YAML, dotted overrides, and every check that can be made before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmcredit import yaml_values
from mmcredit.components import Needs, build, build_all, component_class, explain, lookup, names, nearest
from mmcredit.config_files import find, lay_over, override, read_yaml
from mmcredit.data.media import MediaLimits
from mmcredit.policy.config import ModelConfig
from mmcredit.rewards.pool import part_names
from mmcredit.rollout.engine import Sampling
from mmcredit.yaml_values import Kind

Entry = str | dict[str, Any]


class Block(BaseModel):
    """A block of the config: unknown keys are errors, values are checked when set."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


BlockType = TypeVar("BlockType", bound=Block)


class RunBlock(Block):
    """What the run is."""

    name: str = Field("run", description="name shown in the report")
    dir: Path = Field(Path("runs/run"), description="run directory; a new run needs a new or empty one")
    seed: int = Field(0, description="derives data order, sampling, corruptions and dropout")
    steps: int = Field(100, ge=1, description="number of rollout batches")
    threads: int | None = Field(None, ge=1, description="CPU threads of torch; none = torch's own choice")


class DataBlock(Block):
    """What is trained and tested on."""

    train: Annotated[Entry, Kind("source")] = Field(description="source of training prompts: a name or {name: fields}")
    evaluate: Annotated[Entry | None, Kind("source")] = Field(None, description="source of held-out prompts")
    media: MediaLimits = Field(default_factory=MediaLimits, description="where media may lie, and how big they may be")
    max_prompt_tokens: int | None = Field(2048, ge=1, description="prompts over it are dropped and counted, never cut")


class RolloutBlock(Block):
    """How responses are sampled."""

    engine: Annotated[Entry, Kind("engine")] = Field("hf", description="rollout engine")
    prompts: int = Field(16, ge=1, description="prompts per step")
    group: int = Field(8, ge=1, description="responses per prompt")
    ahead: int = Field(
        0, ge=0, le=1, description="1: a step's responses are sampled while the step before it trains; 0 = on-policy"
    )
    strategies: list[Annotated[Entry, Kind("strategy")]] = Field(
        default_factory=list, description="layers around sampling, outermost first"
    )
    sampling: Sampling = Field(default_factory=Sampling, description="temperature, limits, stops")


class RewardWorkerBlock(Block):
    """The processes that compute rewards."""

    count: int = Field(1, ge=1, description="worker processes")
    memory_limit_mb: int | None = Field(4096, ge=256, description="address space of a worker; none = no limit")
    keep_env: list[str] = Field(default_factory=list, description="credential variables handed to workers (judges)")


class ObjectiveBlock(Block):
    """The loss."""

    ratio: Annotated[Entry, Kind("ratio")] = "token"
    clip: Entry = Field(default_factory=lambda: {"low": 0.2, "high": 0.2})
    aggregate: Annotated[Entry, Kind("aggregate")] = "token_mean"
    regularizers: list[Annotated[Entry, Kind("regularizer")]] = Field(default_factory=list)
    mismatch: dict[str, Any] | None = Field(None, description="correction for rollout and training engines that differ")


class OptimizerBlock(Block):
    """How weights are changed: the training engine, its optimizer and its schedule."""

    engine: Annotated[Entry, Kind("train_engine")] = Field(
        "local", description="training engine: local, or deepspeed for several processes"
    )
    token_budget: int = Field(16384, ge=1, description="tokens of one micro-batch, visual ones included")
    learning_rate: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are scaled down to it; none = off")
    warmup_steps: int = Field(0, ge=0, description="optimizer steps of linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    min_learning_rate: float = Field(0.0, ge=0, description="where the schedule ends")
    max_skipped_updates: int = Field(5, ge=1, description="non-finite gradients in a row before the run stops")


class TrainBlock(OptimizerBlock):
    """The update."""

    mini_batches: int = Field(1, ge=1, description="optimizer steps per epoch over a rollout batch")
    epochs: int = Field(1, ge=1, description="times a rollout batch is gone through")


class CheckBlock(Block):
    """What stops or warns a run."""

    parity: bool = Field(True, description="compare sampler and trainer log-probs at the first step")
    max_mismatch_kl: float = Field(0.05, gt=0, description="nats per token; above it the run stops at the first step")
    image_probe: bool = Field(True, description="check at the first step that hiding the image moves the log-probs")
    min_image_sensitivity: float = Field(1e-6, ge=0, description="mean |change| of a log-prob when the image is hidden")
    zero_signal_alarm: float = Field(0.9, gt=0, le=1, description="share of groups without signal that raises an alarm")
    alarm_every: int = Field(50, ge=1, description="steps after which an alarm whose cause comes back is said again")
    stuck_reward_steps: int = Field(50, ge=2, description="steps of one constant mean reward that raise an alarm")
    max_unusable_held_out: float = Field(
        0.1, ge=0, le=1, description="share of held-out rows that cannot be used (at least two) that stops the run"
    )
    max_reward_error_share: float = Field(0.2, gt=0, le=1, description="share of reward errors that stops the run")


class LogBlock(Block):
    """What is written down."""

    samples_every: int = Field(10, ge=0, description="steps between sample tables; 0 = never")
    samples_groups: int = Field(4, ge=1, description="groups per sample table")
    signals: list[str] = Field(default_factory=list, description="further signals to compute and show, by name")
    rollouts_every: int = Field(0, ge=0, description="steps between frozen batches for `mmcredit replay`; 0 = never")
    tensorboard: bool = True
    wandb: str | None = Field(None, description="Weights & Biases project; none = off")


class CheckpointBlock(Block):
    """What survives a kill."""

    every: int = Field(50, ge=0, description="steps between checkpoints; 0 = only at the end")
    keep: int = Field(2, ge=1, description="newest checkpoints kept")
    final: bool = Field(True, description="save at the end of the run")


class EvaluateBlock(Block):
    """Held-out accuracy."""

    every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="steps between evaluations; auto = a quarter of the run (from 20 steps on); 0 = before and after",
    )
    limit: int | None = Field(None, ge=1, description="questions, the first ones of a seeded shuffle; none = all")
    temperature: float = Field(0.0, ge=0, description="0 = greedy")
    reward: str | None = Field(None, description="reward part that says right or wrong; none = the first one")
    samples: int = Field(1, ge=1, description="answers per question; several need a temperature above 0")
    k: list[int] | None = Field(
        None, description="k of pass@k and majority@k, above 1; none = powers of two up to samples"
    )

    def interval(self, steps: int) -> int:
        """Steps between the evaluations of a run of `steps`; 0 = only before and after."""
        return (-(-steps // 4) if steps >= 20 else 0) if self.every == "auto" else self.every

    @property
    def chosen_k(self) -> list[int]:
        """The values of k in use. Not 1: with one answer pass@k and majority@k are avg@samples itself."""
        powers = [2**i for i in range(1, self.samples.bit_length())]
        return [k for k in (powers if self.k is None else self.k) if k > 1]

    @model_validator(mode="after")
    def _several(self) -> EvaluateBlock:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"evaluate.samples is {self.samples}, but evaluate.temperature 0 is greedy: all answers to a question "
                "would be equal; set a temperature"
            )
        if too_many := [k for k in self.k or () if not 1 <= k <= self.samples]:
            raise ValueError(
                f"evaluate.k holds {too_many[0]}; every k must lie in 1..{self.samples} (evaluate.samples)"
            )
        return self


class RunConfig(Block):
    """Everything a run is."""

    run: RunBlock = Field(default_factory=RunBlock)
    model: ModelConfig
    data: DataBlock
    rollout: RolloutBlock = Field(default_factory=RolloutBlock)
    rewards: list[Annotated[Entry, Kind("reward")]] = Field(min_length=1)
    reward_workers: RewardWorkerBlock = Field(default_factory=lambda: RewardWorkerBlock())
    verifiers: list[Annotated[Entry, Kind("verifier")]] = Field(
        default_factory=list, description="judges of spans, asked beside the step"
    )
    credit: list[Annotated[Entry, Kind("credit")]] = Field(["grpo"])
    objective: ObjectiveBlock = Field(default_factory=ObjectiveBlock)
    train: TrainBlock = Field(default_factory=TrainBlock)
    check: CheckBlock = Field(default_factory=CheckBlock)
    log: LogBlock = Field(default_factory=LogBlock)
    checkpoint: CheckpointBlock = Field(default_factory=CheckpointBlock)
    evaluate: EvaluateBlock = Field(default_factory=EvaluateBlock)

    @model_validator(mode="after")
    def _components(self) -> RunConfig:
        """Build every named component once, so that a wrong name or field is found now."""
        build("source", self.data.train)
        if self.data.evaluate is not None:
            build("source", self.data.evaluate)
        if self.data.media.video is not None:
            build("video", self.data.media.video)
        if _name(self.rollout.engine) in names("decoding"):
            raise ValueError(
                f"rollout.engine {_name(self.rollout.engine)!r} is a way of decoding at test time: what it samples is "
                "not what the policy is scored with, so no rollout may come from it; use hf or vllm here, and "
                f"mmcredit evaluate --decoding {_name(self.rollout.engine)} for answers"
            )
        build("engine", self.rollout.engine)
        if self.model.visual_tokens is not None and _name(self.rollout.engine) != "hf":
            raise ValueError(
                f"model.visual_tokens pools features inside this process, which rollout.engine "
                f"{_name(self.rollout.engine)!r} cannot: it would sample from another model; set rollout.engine to hf"
            )
        rewards = build_all("reward", self.rewards)
        parts = part_names(rewards)  # type: ignore[arg-type]
        if self.evaluate.reward is not None and self.evaluate.reward not in parts:
            raise ValueError(f"evaluate.reward {self.evaluate.reward!r}; {nearest(self.evaluate.reward, parts)}")
        self._contract(set(parts))
        if self.rollout.ahead:
            self._asynchronous()
        if self.rollout.prompts % self.train.mini_batches:
            raise ValueError(
                f"train.mini_batches {self.train.mini_batches} must divide rollout.prompts {self.rollout.prompts}: "
                "a mini-batch holds whole groups"
            )
        return self

    def _contract(self, reward_names: set[str]) -> None:
        """What components need against what this run can give."""
        from mmcredit.credit import Pipeline

        pipeline = Pipeline(self.credit)
        objective = self.build_objective()
        chosen = "ratio" in self.objective.model_fields_set
        if pipeline.ratio is not None and chosen and pipeline.ratio != objective.ratio.name:
            raise ValueError(
                f"objective.ratio is {objective.ratio.name!r}, but a credit method fixes it to {pipeline.ratio!r}; "
                "leave objective.ratio out"
            )
        strategies = build_all("strategy", self.rollout.strategies)
        needs = pipeline.needs() | objective.needs()
        given: set[str] = set()
        for place, strategy in enumerate(strategies, 1):
            needs = needs | strategy.needs()
            given.update(strategy.gives)  # type: ignore[attr-defined]
            strategy.check(self)  # type: ignore[attr-defined]
            if strategy.replaces_sampling and place < len(strategies):  # type: ignore[attr-defined]
                raise ValueError(
                    f"rollout.strategies: {strategy.name!r} does the sampling itself and must stand last; "
                    f"{strategies[place].name!r} after it would never run"
                )
        first = pipeline.methods[0]
        acts = (*self.rollout.strategies, *self.verifiers, *self.objective.regularizers)
        if self.rollout.group == 1 and first.zero_for_equal and not acts:
            raise ValueError(
                f"rollout.group is 1, but {first.name!r} compares the responses of a group: every advantage would be "
                "0 and nothing learnt; sample at least 2 per prompt (8 is usual), or start from reinforce_pp"
            )
        self._verifiers(needs, given, first)
        for signal in (*needs.signals, *self.log.signals):
            if signal in given or signal in names("signal"):
                continue
            judges = [name for name in names("verifier") if signal in lookup("verifier", name).gives]  # type: ignore[attr-defined]
            if judges:
                raise ValueError(
                    f"signal {signal!r} is needed, which a verifier gives: add one to verifiers (known: "
                    f"{', '.join(judges)})"
                )
            makers = [name for name in names("strategy") if signal in lookup("strategy", name).gives]  # type: ignore[attr-defined]
            if makers:
                raise ValueError(
                    f"signal {signal!r} is needed; add {makers[0]!r} to rollout.strategies, which gives it"
                )
            raise ValueError(
                f"signal {signal!r} is needed, but nothing computes it; {nearest(signal, names('signal'))}"
            )
        for part in needs.reward_parts:
            if part not in reward_names:
                raise ValueError(f"a component reads reward part {part!r}; this run has {sorted(reward_names)}")
        if needs.segments and "segments" not in given:
            raise ValueError("a credit method reads segments, but no rollout strategy of this run produces them")

    def _asynchronous(self) -> None:
        """What sampling beside the training needs."""
        engine = build("engine", self.rollout.engine)
        if not getattr(engine, "beside", False):
            raise ValueError(
                f"rollout.ahead is {self.rollout.ahead}, but engine {engine.name!r} cannot sample while the policy "
                "trains; use rollout.engine=server"
            )
        if self.objective.mismatch is None:
            raise ValueError(
                f"rollout.ahead is {self.rollout.ahead}: responses come from weights one step old; correct for it with "
                "objective.mismatch (such as {kind: token_tis})"
            )
        for strategy in build_all("strategy", self.rollout.strategies):
            if not strategy.plain_first:  # type: ignore[attr-defined]
                raise ValueError(
                    f"rollout.strategies: what {strategy.name!r} samples first depends on the step before; it needs "
                    "rollout.ahead=0"
                )

    def _verifiers(self, needs: Needs, given: set[str], first: Any) -> None:
        """Add what the run's verifiers give to `given`: each signal once, with the settings that are needed."""
        for verifier in build_all("verifier", self.verifiers):
            for signal in verifier.gives:  # type: ignore[attr-defined]
                if signal in given:
                    raise ValueError(f"verifiers: {verifier.name!r} gives signal {signal!r}, which is there already")
                given.add(signal)
                if signal in needs.signals and verifier.groups == "unequal" and not first.zero_for_equal:  # type: ignore[attr-defined]
                    raise ValueError(
                        f"verifiers: {verifier.name!r} leaves out groups of equal rewards, which have credit behind "
                        f"{first.name!r}; write {{{verifier.name}: {{groups: all}}}}"
                    )
                for key, wanted in needs.settings.get(signal, {}).items():
                    if getattr(verifier, key, wanted) != wanted:
                        raise ValueError(
                            f"a component needs signal {signal!r} with {key}={wanted!r}, but verifier "
                            f"{verifier.name!r} has {getattr(verifier, key)!r}; write {{{verifier.name}: "
                            f"{{{key}: {wanted}}}}} in verifiers"
                        )

    def build_objective(self) -> Any:
        """The objective, with the run's response limit where an aggregate wants it."""
        from mmcredit.objective import Objective

        fields = {name: getattr(self.objective, name) for name in ObjectiveBlock.model_fields}
        if fields["mismatch"] is None:
            del fields["mismatch"]
        objective = Objective(**fields)
        if getattr(objective.aggregate, "max_length", 0) is None:
            objective.aggregate = objective.aggregate.model_copy(
                update={"max_length": self.rollout.sampling.max_new_tokens}
            )
        return objective


def _name(entry: Entry) -> str:
    return entry if isinstance(entry, str) else next(iter(entry))


def load(
    path: str | Path, method: str | None = None, overrides: Sequence[str] = (), *, published: bool = False
) -> RunConfig:
    """Read, merge and check a config: the file, then the method recipe (see `lay_over`), then the overrides.

    Raises ValueError with the nearest valid name for anything unknown, and with the value seen for anything ill-typed.
    """
    content = read_yaml(find(path))
    if method is not None:
        content = lay_over(content, read_yaml(find(method, "configs/methods")), published=published)
    elif published:
        raise ValueError("--published takes the sizes of a recipe; name one with --method")
    return parse(override(content, overrides))


def parse(content: Mapping[str, Any]) -> RunConfig:
    """A checked config from plain data. A scalar that YAML gives without quotes is what the type of its field says
    (`run.name: 1e-4` is a name). Raises ValueError, one line per problem."""
    try:
        return RunConfig(**yaml_values.typed_fields(content, RunConfig, component_class))
    except ValidationError as error:
        raise ValueError(f"config: {explain(error, RunConfig)}") from None


def block(cls: type[BlockType], content: Mapping[str, Any], place: str) -> BlockType:
    """A checked block of the config from plain data. Raises ValueError, one line per problem, naming the `place`."""
    try:
        return cls(**yaml_values.typed_fields(content, cls, component_class))
    except ValidationError as error:
        raise ValueError(f"{place}: {explain(error, cls)}") from None


def dump(config: RunConfig) -> str:
    """The resolved config as YAML; `load` of it gives the same run."""
    return yaml_values.dump(config.model_dump(mode="json"))
