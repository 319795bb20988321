"""verl's advantage estimators from our credit methods.

Importing this module registers `mmcredit_METHOD` for every method that needs no pass over the model; `register` adds a
list of one's own. In a run of verl:

    VERL_USE_EXTERNAL_MODULES=mmcredit.integrations.verl python -m verl.trainer.main_ppo \\
        algorithm.adv_estimator=mmcredit_tempo ...

verl hands an estimator rewards, mask and groups, but not the tokens, which TEMPO's tree is made of. So two functions
of verl are wrapped: for the length of a call of `ray_trainer.compute_advantage` the estimators can look at the batch
that it was given, and for that of `PPOTrainer._compute_advantage` (v1) they can ask its queue for the responses.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmcredit.components import build, names
from mmcredit.credit import Pipeline
from mmcredit.credit.base import CreditMethod
from mmcredit.integrations import served
from mmcredit.rollouts import Rollouts

try:
    from verl.trainer.ppo import core_algos, ray_trainer
except ImportError as error:
    raise ImportError(
        f"mmcredit.integrations.verl needs verl ({error}). No extra can bring it: verl 0.9 wants transformers below "
        "5.11, mmcredit above. In the environment of verl: pip install --no-deps mmcredit (credit methods need "
        "pydantic and pyyaml besides)"
    ) from error

if TYPE_CHECKING:
    from torch import Tensor

HOST = "verl"
PREFIX = "mmcredit_"
_READS_TOKENS = ("tempo",)
_batch: ContextVar[Any] = ContextVar("mmcredit_verl_batch", default=None)  # the DataProto of the present call
_queued: ContextVar[Any] = ContextVar("mmcredit_verl_queued", default=None)  # v1: what makes the responses of the call


def estimator(credit: Sequence[str | Mapping[str, Any]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """An advantage estimator of verl from a `credit:` list. Raises ValueError for a method that verl cannot serve: one
    that reads signals or log-probs, takes tokens out of the loss, or acts at every mini-batch."""
    pipeline = Pipeline(list(credit))
    served.refuse(pipeline, HOST, scores=False, loss_mask=False)
    for method in pipeline.methods:
        if method.needs().reward_parts:
            raise ValueError(f"credit: {method.name!r} reads parts of the reward, which verl adds up before")
        if type(method).state_dict is not CreditMethod.state_dict:
            raise ValueError(
                f"credit: {method.name!r} remembers prompts over steps, but verl names them anew at every step (`uid`)"
            )
    reads_tokens = any(method.name in _READS_TOKENS for method in pipeline.methods)

    def compute(
        token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B,T]; the rewards of a response are summed, whatever token they stand at."""
        if index is None:
            raise ValueError("credit is relative to the other responses of a prompt, but the batch has no `uid`")
        mask = response_mask.bool()
        _, group = np.unique(np.asarray(index).astype(str), return_inverse=True)
        rollouts = Rollouts(
            tokens=_tokens(mask) if reads_tokens else torch.zeros_like(mask, dtype=torch.int64),
            mask=mask,
            valid=_real(mask),
            group=torch.as_tensor(group, dtype=torch.int64, device=mask.device),
            rewards=token_level_rewards.float().sum(-1),
        )
        advantages = pipeline(rollouts).advantages
        return advantages, advantages

    return compute


def register(name: str, credit: Sequence[str | Mapping[str, Any]]) -> None:
    """Make a `credit:` list known to verl: ``algorithm.adv_estimator=NAME``. Raises ValueError as `estimator`."""
    core_algos.register_adv_est(name)(estimator(credit))


def _tokens(mask: Tensor) -> Tensor:
    """[B,T] int64: the responses. Raises ValueError where this trainer of verl cannot give them."""
    data, queued = _batch.get(), _queued.get()
    if data is not None and "responses" in data.batch:
        tokens = data.batch["responses"]
    elif queued is not None:
        tokens = queued()
    else:
        raise ValueError(
            "credit reads the tokens of responses, but the batch of compute_advantage has no `responses`; take a "
            "method that reads rewards alone"
        )
    if tokens.shape != mask.shape:
        raise ValueError(f"responses have shape {list(tokens.shape)}, response_mask {list(mask.shape)}")
    return tokens.to(device=mask.device, dtype=torch.int64)


def _real(mask: Tensor) -> Tensor:
    """[B,T] bool: real tokens of the responses, inserted ones (of tools) included, which `response_mask` leaves out."""
    data = _batch.get()
    if data is not None and "attention_mask" in data.batch:
        return data.batch["attention_mask"][:, -mask.shape[1] :].bool() | mask
    # Without it: everything up to the last sampled token.
    return mask.flip(1).cumsum(1).flip(1) > 0


def _looked_at(original: Callable[..., Any]) -> Callable[..., Any]:
    """`compute_advantage`, with its batch in reach of the estimators that it calls."""

    @functools.wraps(original)
    def compute_advantage(data: Any, *args: Any, **kwargs: Any) -> Any:
        token = _batch.set(data)
        try:
            return original(data, *args, **kwargs)
        finally:
            _batch.reset(token)

    return compute_advantage


def _with_queue(original: Callable[..., Any], queue: Any) -> Callable[..., Any]:
    """v1's `_compute_advantage`, which fetches no responses, with its queue in reach."""

    @functools.wraps(original)
    def compute_advantage(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        def responses() -> Tensor:
            found = queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["responses"])
            return found["responses"].to_padded_tensor(0)

        token = _queued.set(responses)
        try:
            return original(self, batch, *args, **kwargs)
        finally:
            _queued.reset(token)

    return compute_advantage


def _install() -> None:
    original = ray_trainer.compute_advantage
    wrapped = _looked_at(original)
    ray_trainer.compute_advantage = wrapped
    try:
        from verl.trainer.ppo.v1 import trainer_base
    except ImportError:  # needs packages that the legacy trainer does not (TransferQueue)
        pass
    else:
        v1: Any = trainer_base.PPOTrainer
        v1._compute_advantage = _with_queue(v1._compute_advantage, trainer_base.tq)
    for name, module in list(sys.modules.items()):  # those that have imported it by name
        if name.startswith("verl.") and getattr(module, "compute_advantage", None) is original:
            module.compute_advantage = wrapped  # type: ignore[attr-defined]


def _register_all() -> tuple[str, ...]:
    known = []
    for name in names("credit"):
        method = build("credit", name)
        assert isinstance(method, CreditMethod)
        if not method.starts:
            continue
        try:
            register(PREFIX + name, [name])
        except ValueError:
            continue
        known.append(PREFIX + name)
    return tuple(known)


_install()
REGISTERED = _register_all()
