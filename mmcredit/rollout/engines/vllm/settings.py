"""The fields of the engine `vllm`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcredit.components import Component


class Settings(Component):
    """The fields of the engine `vllm`; the component that adds `open` is `VLLM`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of weights and arithmetic; auto = as the policy"
    )
    max_model_len: int | None = Field(None, ge=16, description="prompt + response at most; none = the model's own")
    max_concurrent: int = Field(256, ge=1, description="responses sampled at a time")
    gpu_memory_utilization: float = Field(0.4, gt=0, lt=1, description="share of GPU memory for weights and cache")
    cpu_cache_gb: int = Field(1, ge=1, description="on a CPU: memory for keys and values")
    enforce_eager: bool = Field(True, description="no CUDA graphs and no compilation: starts faster, runs slower")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs of one engine")
    sleep: bool = Field(False, description="on a GPU: give memory back while the policy trains (not tried on one yet)")
    probe: bool = Field(True, description="after each update compare log-probs of a few tokens with the trainer's")
