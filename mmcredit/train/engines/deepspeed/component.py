"""The settings of the DeepSpeed engine, and how its processes find each other."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mmcredit.components import Component, register
from mmcredit.world import World

if TYPE_CHECKING:
    from mmcredit.config import OptimizerBlock
    from mmcredit.policy.policy import Policy
    from mmcredit.train.engines.deepspeed.engine import DeepSpeedEngine


@register("train_engine", "deepspeed")
class DeepSpeed(Component):
    """Train on several processes, CPU or GPU, one or several machines: DeepSpeed's ZeRO under our own loop.

    Start with `mmcredit launch --processes N CONFIG train.engine=deepspeed`, or with
    `torchrun ... -m mmcredit.cli train`; without either it is one process. All machines must see the run directory.
    Every rank holds all rollouts; sampling, score passes and micro-batches are shared out and gradients are summed, so
    the numbers are those of one process but for the order in which gradients are added. AdamW with float32 master
    weights and moments.

    `stage`: what is spread over the ranks: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights. With 3 the
    weights are put together for sampling and for passes without gradient; a frozen vision tower stays whole on every
    rank. Needs the extra `deepspeed`.
    """

    stage: Literal[0, 1, 2, 3] = Field(2, description="ZeRO stage")
    offload_optimizer: bool = Field(False, description="keep optimizer state in CPU memory (stages 1 to 3)")
    timeout: float = Field(1800.0, gt=0, description="seconds without progress of any rank until the run is ended")

    def world(self) -> World:
        """Join the processes that were started with this one. Raises ValueError without DeepSpeed or a master."""
        from mmcredit.train.watchdog import Watchdog, stop
        from mmcredit.world import ProcessGroup

        try:
            os.environ.setdefault("DS_ACCELERATOR", _accelerator())
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "train.engine=deepspeed needs DeepSpeed: pip install 'mmcredit[deepspeed]' (with DS_BUILD_OPS=0 in the "
                "environment nothing is compiled at installation)"
            ) from error
        import torch
        import torch.distributed as dist

        if self.offload_optimizer and self.stage == 0:
            raise ValueError("train.engine.deepspeed: offload_optimizer needs stage 1, 2 or 3, got stage 0")
        for name, value in _alone().items():
            os.environ.setdefault(name, value)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        watchdog = Watchdog(self.timeout)
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            # The watchdog knows who stalls and says so; the backend's own limit comes after it.
            dist.init_process_group(backend, timeout=datetime.timedelta(seconds=2 * self.timeout + 60))
        world = ProcessGroup(watchdog.waiting, stop)
        watchdog.start(world)
        return world

    def open(self, policy: Policy, config: OptimizerBlock, total_updates: int, world: World) -> DeepSpeedEngine:
        """The engine over the policy's trainable parameters. Raises ValueError if there is none."""
        import torch

        from mmcredit.train.engines.deepspeed.engine import DeepSpeedEngine

        bfloat16 = policy.model.dtype == torch.bfloat16
        return DeepSpeedEngine(policy, config, total_updates, world, self.plan(config, bfloat16, world.size))

    def plan(self, config: OptimizerBlock, bfloat16: bool, ranks: int) -> dict[str, Any]:
        """DeepSpeed's own configuration."""
        zero: dict[str, Any] = {"stage": self.stage, "stage3_prefetch_bucket_size": 0, "overlap_comm": False}
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "train_batch_size": ranks,
            # `step` is the boundary: how many micro-batches there are is known when the last one has run.
            "managed_gradient_accumulation": False,
            "gradient_clipping": 0.0 if config.max_grad_norm is None else config.max_grad_norm,
            "bf16": {"enabled": bfloat16, "check_grad_overflow": True} if bfloat16 else {"enabled": False},
            "communication_data_type": "fp32",
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # its compiled AdamW gives other last digits
            "steps_per_print": 1_000_000_000,
            "wall_clock_breakdown": False,
        }


def _accelerator() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _alone() -> dict[str, str]:
    """What a launcher sets, for one process that was started without one."""
    import socket

    if "RANK" in os.environ:
        return {"LOCAL_RANK": os.environ["RANK"]}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
