"""The `model` part of a run config. No torch here: config checks must not load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LoRAConfig(BaseModel):
    """Low-rank adapters through peft."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=16, ge=1, description="rank of the update")
    alpha: float = Field(default=32.0, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapter, in updates only")
    target_modules: tuple[str, ...] | str = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="names of linear layers of the language model, or one regular expression over full module names "
        "(the way to reach the vision tower)",
    )


class VisualTokens(BaseModel):
    """Images in a fixed number of tokens: `mmcredit.policy.visual_tokens`."""

    model_config = ConfigDict(extra="forbid")

    tokens: int = Field(ge=1, description="tokens of an image, or of a frame of a video, at most; positions stay")
    blocks: int = Field(default=1, ge=0, description="lookup blocks; 0 = a bilinear resize without weights")
    width: int | None = Field(
        default=None, ge=1, description="channels inside a block; none = the model's, at most 512"
    )
    heads: int = Field(default=4, ge=1, description="attention heads of a block")
    reuse: Literal["resoftmax", "transpose"] = Field(
        default="resoftmax", description="how scores serve the way back between two blocks"
    )
    train: bool = Field(default=True, description="train its weights, also under freeze_vision; never with lora")


class ModelConfig(BaseModel):
    """The `model` part of a run config."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def at(self, path: str, **changes: Any) -> ModelConfig:
        """The same settings for the model at another `path`; `base` stays for an adapter, which alone has one."""
        adapter = (Path(path).expanduser() / "adapter_config.json").is_file()
        return self.model_copy(update={"path": path, "base": self.base if adapter else None, **changes})

    path: str = Field(
        description="builtin:NAME (shipped with the package), a local folder, or a hub id; an adapter's folder is "
        "merged into its base, or with lora trained further"
    )
    base: str | None = Field(
        default=None, description="base of an adapter in path, where it is not the one that it names"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="dtype of weights and activations")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda if there is one")
    attention: Literal["sdpa"] = Field(default="sdpa", description="attention kernels")
    layout: Literal["shared", "padded"] = Field(
        default="shared", description="prompt once per group, or once per response"
    )
    freeze_vision: bool = Field(
        default=False, description="do not train the vision tower; its features are then remembered"
    )
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="dtype of saved weights; none = that of the source (adapters: as trained, float32)"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")
    trust_remote_code: bool = Field(default=False, description="run model code that comes with the weights")
    lora: LoRAConfig | None = Field(default=None, description="train adapters instead of the weights")
    min_pixels: int | None = Field(default=None, ge=1, description="images are scaled up to this many pixels")
    max_pixels: int | None = Field(default=None, ge=1, description="images are scaled down to this many pixels")
    visual_tokens: VisualTokens | None = Field(
        default=None,
        description="pool the visual tokens of an image to a fixed number (Qwen-VL families, engine hf); none = all, "
        "or as the model was saved",
    )
    score_tokens: int = Field(
        default=16384, ge=1, description="tokens per micro-batch of score passes, visual ones included"
    )
    vision_cache_mb: int = Field(default=512, ge=0, description="memory for vision features")
    pixel_cache_mb: int = Field(default=512, ge=0, description="host memory for preprocessed images")
    chat_template: str | None = Field(
        default=None,
        description="none, bare or chatml (layouts for base models), a Jinja file, or the name of one of several "
        "templates of the model; left out: the model's own",
    )
    template_variables: dict[str, Any] = Field(
        default_factory=dict, description="variables handed to the chat template"
    )

    @model_validator(mode="before")
    @classmethod
    def _variables_have_a_place(cls, content: Any) -> Any:
        """A mapping under `chat_template`, as configs had it, are the template's variables."""
        if isinstance(content, dict) and isinstance(content.get("chat_template"), dict):
            content = dict(content)
            given = content.pop("chat_template")
            content["template_variables"] = {**given, **content.get("template_variables", {})}
        return content
