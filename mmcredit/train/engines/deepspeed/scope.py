"""Forwards with gradient through DeepSpeed, and weights put together where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from mmcredit.policy.policy import Policy
    from mmcredit.world import World

T = TypeVar("T")


class Weight(nn.Module):
    """The output head's weight as the result of a module, so that ZeRO-3 gathers it once for all chunks of a
    micro-batch, and once more for their backward."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight.clone()


class Carrier(nn.Module):
    """The module that DeepSpeed is given: the model, run by whoever calls it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = policy.model
        self.head = Weight(policy.body.head.weight)
        self.bias = policy.body.head.bias is not None

    def forward(self, run: Callable[[], T]) -> T:
        return run()


class Spread:
    """`policy.scope.Scope` over DeepSpeed."""

    def __init__(self, engine: Any, carrier: Carrier, world: World, policy: Policy) -> None:
        self.engine, self.carrier, self.world, self.policy = engine, carrier, world, policy
        self.partitioned = bool(engine.zero_optimization_partition_weights())
        if carrier.bias and self.partitioned:
            raise ValueError("train.engine.deepspeed: an output head with a bias cannot be spread; use stage 2")
        self._inside = 0

    def forward(self, run: Callable[[], T]) -> T:
        return self.engine(run)

    def head(self) -> Callable[[Tensor], Tensor]:
        if not self.partitioned:
            return self.carrier.model.get_output_embeddings()  # type: ignore[operator]
        weight = self.carrier.head()
        return lambda states: F.linear(states, weight)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        return self.world.any(flags)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All parameters in place, without the hooks that would take them away after each module."""
        if not self.partitioned or self._inside:
            yield
            return
        import deepspeed

        self._inside += 1
        try:
            with deepspeed.zero.GatheredParameters(self._spread()):
                self._unhook()
                try:
                    yield
                finally:
                    self._hook()
        finally:
            self._inside -= 1

    def _unhook(self) -> None:
        offload = self.engine.optimizer.parameter_offload
        for parameter in self._spread():
            parameter.ds_active_sub_modules.clear()
        for hook in (*offload.forward_hooks, *offload.backward_hooks):
            hook.remove()
        offload.forward_hooks, offload.backward_hooks = [], []

    def _hook(self) -> None:
        offload = self.engine.optimizer.parameter_offload
        with without_frozen_tower(self.policy):
            offload._register_deepspeed_module(self.carrier)

    def _spread(self) -> list[Any]:
        """The parameters that DeepSpeed has: not those of a frozen tower."""
        return [parameter for parameter in self.carrier.parameters() if hasattr(parameter, "ds_id")]


@contextmanager
def without_frozen_tower(policy: Policy) -> Iterator[None]:
    """A frozen tower is not DeepSpeed's: it stays whole on every rank, and its features can be remembered."""
    vision = policy.body.vision
    if vision is None or not vision.frozen:
        yield
        return
    parent: Any = policy.body.base
    modules = {name: parent._modules.pop(name) for name in vision.parts if name in parent._modules}
    parameters = {name: parent._parameters.pop(name) for name in vision.parts if name in parent._parameters}
    try:
        yield
    finally:
        parent._modules |= modules
        parent._parameters |= parameters
