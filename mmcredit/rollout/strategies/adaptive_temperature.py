"""HAPO's adaptive temperature: uncertain tokens are sampled hotter, certain ones colder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from mmcredit.components import Needs, build, register
from mmcredit.rollout.drawing.temperature import EntropyTemperature, TemperatureHook
from mmcredit.rollout.strategies.base import Rest, Run, Stage, Strategy
from mmcredit.statistics.entropy_scale import EntropyScale

if TYPE_CHECKING:
    from mmcredit.rollout.batch import Ask, Batch
    from mmcredit.rollouts import Rollouts


@register("strategy", "adaptive_temperature")
class AdaptiveTemperature(Strategy):
    """HAPO, part A: T = T_base * (1 + tau * clamp(h, -1, 1)) at every decode step.

    h in [-1,1] places the entropy H of the next token's distribution among those of the last batch:
    z = (log max(H, floor) - q)/s, q the rho-quantile (nearest rank) of log H over its sampled tokens, s the root mean
    square around q; h = z/z_max above the pivot, z/|z_min| below it. The first step samples at T_base.

    Source: arXiv 2509.16591, eq. 8 of v2, and its released sampler, by which h is scaled (the paper's text puts the
    unscaled z there) and tau is 0.05 (text: 0.1).
    Differs: `sign: intended` lowers the temperature of certain tokens, as the text says; the released normalisation
    raises it at both ends (`released`, for comparison). The entropy is that at T_base, as in the batch it is compared
    with (released: of unscaled logits; the same at T_base 1); the released floors 1e-6 on H and s are left out.
    Log-probs: old log-probs are recomputed at T_base, so importance ratios ignore the temperature change, as released.
    `sampler_logprobs` are those at T_base too: the comparison of sampler and trainer, and a mismatch correction, then
    see what differs between the engines and not the temperature.
    Memory: four numbers, in the checkpoint.
    Composes: it acts on all sampling of the layers inside it, probes included; put it last to leave those alone.
    Needs an engine with a logits hook. `mmcredit.rollout.drawing.temperature.EntropyTemperature` is the logits
    processor, free of any engine.
    Cost: one more softmax per sampled token; the entropy of the clean pass.
    """

    tau: float = Field(0.05, ge=0, lt=1, description="range of the temperature, relative to T_base")
    rho: float = Field(0.8, ge=0, le=1, description="quantile of log entropy that is the pivot")
    floor: float = Field(1e-8, gt=0, description="least entropy, before the logarithm; nats")
    sign: Literal["intended", "released"] = Field("intended", description="sign of h below the pivot")
    _scale: EntropyScale | None = PrivateAttr(None)

    def needs(self) -> Needs:
        return Needs(signals=("entropy",))

    def check(self, run: Run) -> None:
        engine = build("engine", run.rollout.engine)
        if not getattr(engine, "takes_hook", False):
            raise ValueError(
                f"rollout.strategies: 'adaptive_temperature' sets the temperature token by token, for which engine "
                f"{engine.name!r} has no hook; use rollout.engine hf, or leave the strategy out"
            )
        entries = [e if isinstance(e, str) else next(iter(e)) for e in run.rollout.strategies]
        if entries.count(self.name) > 1:
            raise ValueError(f"rollout.strategies: {self.name!r} stands there more than once; keep one")

    def __call__(self, asks: Sequence[Ask], rest: Rest, stage: Stage) -> Batch:
        if self._scale is None:
            return rest(asks)
        engine: Any = stage.engine
        suppressed = stage.policy.suppressed_ids
        processor = EntropyTemperature(self._scale, self.tau, stage.sampling.temperature, self.sign, suppressed)
        assert engine.hook is None, "the engine's logits hook is in use"
        engine.hook = TemperatureHook(processor)
        try:
            return rest(asks)
        finally:
            engine.hook = None

    def observe(self, rollouts: Rollouts, stage: Stage) -> None:
        entropy = rollouts.signal("entropy")[rollouts.mask]
        if not len(entropy):  # every response filtered: the last scale stays
            stage.note("adaptive_temperature/batches_without_tokens", 1)
            return
        self._scale = EntropyScale.measure(entropy, self.rho, self.floor)
        for name, value in asdict(self._scale).items():
            stage.note(f"adaptive_temperature/{name}", value)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._scale) if self._scale else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scale = EntropyScale(**state) if state else None
