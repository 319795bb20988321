"""Weights and moments of all parameters, whole and by name, out of DeepSpeed's partitions and back into them.

The result is what the local engine gives, so that a checkpoint can be resumed by another engine, another ZeRO stage or
another number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")
Moments = dict[str, dict[str, Tensor]]


def collect(engine: Any, parameters: Mapping[str, nn.Parameter], keep: bool) -> tuple[dict[str, Tensor], Moments]:
    """Float32 weights, and AdamW's state where there is one yet. All ranks take part; who asks to `keep` it gets it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    weights: dict[str, Tensor] = {}
    moments: Moments = {}
    steps = _steps(engine)
    for name, parameter in parameters.items():
        if _plain(engine):
            weight: Any = parameter.data
            own: Any = engine.optimizer.state.get(parameter, {})
            found = {key: own[key] for key in MOMENTS if key in own}
        else:
            weight = safe_get_full_fp32_param(parameter)
            found = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS} if steps else {}
        if keep:
            weights[name] = weight.detach().float().cpu().view(_shape(parameter)).clone()
            if steps and found:
                whole = {k: v.detach().float().cpu().view(_shape(parameter)).clone() for k, v in found.items()}
                moments[name] = {"step": torch.tensor(float(steps)), **whole}
    return weights, moments


def spread(
    engine: Any, parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor], moments: Mapping[str, Any]
) -> None:
    """Put `collect`'s result back. Every rank has all of it."""
    if missing := sorted(set(parameters) - set(weights)):
        raise ValueError(f"the checkpoint holds no weight {missing[0]!r}; it belongs to another model")
    steps = max((float(own["step"]) for own in moments.values()), default=0.0)
    if steps:
        _make_moments(engine, steps)
    for name, parameter in parameters.items():
        _write(engine, parameter, weights[name])
        for key in MOMENTS if steps else ():
            value = moments[name][key] if name in moments else torch.zeros_like(weights[name])
            _write(engine, parameter, value, key)


def check(engine: Any, stage: int) -> None:
    """Raise ValueError if there are no float32 weights to save: before a run, not at its first checkpoint."""
    try:
        _flat(engine)
    except RuntimeError as error:
        raise ValueError(
            f"train.engine.deepspeed: stage {stage} keeps no float32 weights of a bfloat16 model; use stage 1, 2 or 3"
        ) from error


def _plain(engine: Any) -> bool:
    """Stage 0 in float32: the client's own optimizer, over the parameters themselves."""
    return isinstance(engine.optimizer, torch.optim.AdamW)


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _base(engine: Any) -> torch.optim.AdamW:
    return engine.optimizer if _plain(engine) else engine.optimizer.optimizer


def _flat(engine: Any) -> list[Tensor]:
    """What AdamW works on, on this rank."""
    optimizer = engine.optimizer
    if _plain(engine):
        return [p for group in optimizer.param_groups for p in group["params"]]
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise RuntimeError(f"no float32 partitions in {type(optimizer).__name__}; use another train.engine stage")


def _steps(engine: Any) -> int:
    """AdamW steps made."""
    state = _base(engine).state
    return max((int(state[flat]["step"]) for flat in _flat(engine) if "step" in state.get(flat, {})), default=0)


def _make_moments(engine: Any, steps: float) -> None:
    """AdamW's state as it is after `steps` steps, zeros for now: before its first step there is none to write into."""
    state = _base(engine).state
    for flat in _flat(engine):
        state[flat] = {"step": torch.tensor(steps), **{key: torch.zeros_like(flat) for key in MOMENTS}}
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


@torch.no_grad()
def _write(engine: Any, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
    if _plain(engine):
        target = parameter.data if key is None else engine.optimizer.state[parameter][key]
        target.copy_(value)
    elif hasattr(parameter, "ds_id"):
        _write_partition(engine, parameter, value, key)
    else:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if key is None:
            safe_set_full_fp32_param(parameter, value.to(parameter.device))
            parameter.data.copy_(value)
        else:
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def _write_partition(engine: Any, parameter: Any, value: Tensor, key: str | None) -> None:
    """ZeRO-3: this rank's piece of the flattened parameter, and the parameter in the model's own precision."""
    import deepspeed

    piece, _ = engine.optimizer._get_fp32_opt_state_partition(
        parameter, release_swap_buffers=False, optim_state_key=key
    )
    size = piece.numel()
    start = size * engine.optimizer._get_param_partition_rank(parameter)
    own = value.flatten()[start : start + size]  # the last piece is padded
    piece.data[: own.numel()].copy_(own)
    if key is None:
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(value)
