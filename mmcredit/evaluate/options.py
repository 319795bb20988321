"""The options of `mmcredit evaluate`: which go together, and the config where none is named."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from mmcredit import config as configs
from mmcredit.config_files import override
from mmcredit.evaluate.ask.questions import listed, read_benchmarks

if TYPE_CHECKING:
    from mmcredit.config import RunConfig

MAX_NEW_TOKENS = 1024  # without a config
BENCHMARK_ONLY = ("data_root", "scoring", "judge_url", "judge_model", "judge_key_env")


def goes_further(options: Namespace) -> bool:
    """Whether the options ask for more than the held-out accuracy of a config."""
    return options.benchmark is not None or options.corrupt is not None


def check_options(options: Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    if options.benchmark is None:
        if options.config is None:
            raise ValueError("what is to be answered? name a CONFIG with data.evaluate, or --benchmark NAME")
        for name in BENCHMARK_ONLY:
            if getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --benchmark, which is not given")
    elif options.data_root is None:
        raise ValueError("--benchmark needs --data-root DIR, the folder that holds the files of the benchmarks")
    if options.frugal is not None and goes_further(options):
        raise ValueError("--frugal asks the held-out questions of a CONFIG; leave out --benchmark and --corrupt")
    if (options.judge_url is None) != (options.judge_model is None):
        raise ValueError("a judge needs both --judge-url and --judge-model")
    if options.judge_key_env is not None and options.judge_url is None:
        raise ValueError("--judge-key-env names the key of a judge; give --judge-url and --judge-model as well")
    if options.severity is not None and options.corrupt is None:
        raise ValueError("--severity says how strong --corrupt is; name the operators there (all, seen, unseen)")
    for name in ("limit", "batch", "max_new_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.config is None:
        if options.model is None:
            raise ValueError("without a CONFIG the model is missing: --model PATH, a folder or builtin:NAME")
        if options.method is not None or options.published:
            raise ValueError("--method and --published lie over a CONFIG; name one")


def default_config(options: Namespace) -> RunConfig:
    """The config of an evaluation without one: greedy, up to 1024 tokens, prompts of any length; overrides on top.

    Training data and rewards, which a config must have, are the first benchmark's and are not used.
    """
    entries = listed(options.benchmark)
    read_benchmarks(entries, options.scoring)  # before the config complains about what it does not name
    first = entries[0]
    name, fields = (first, {}) if isinstance(first, str) else next(iter(first.items()))
    source: dict[str, Any] = {"name": name, "root": str(options.data_root)}
    if isinstance(fields, dict) and "split" in fields:
        source["split"] = fields["split"]
    content: dict[str, Any] = {
        "run": {"name": "evaluate"},
        "model": {"path": options.model},
        "data": {"train": {"benchmark": source}, "max_prompt_tokens": None},
        "rollout": {"sampling": {"max_new_tokens": MAX_NEW_TOKENS}},
        "rewards": ["exact_answer"],
    }
    return configs.parse(override(content, options.overrides))


def take(config: RunConfig, options: Namespace) -> None:
    """Lay --limit and --max-new-tokens over the config."""
    if options.max_new_tokens is not None:
        changed = {"max_new_tokens": options.max_new_tokens}
        config.rollout.sampling = config.rollout.sampling.model_copy(update=changed)
    if options.limit is not None:
        limited = config.evaluate.model_dump() | {"limit": options.limit}
        config.evaluate = configs.block(configs.EvaluateBlock, limited, "evaluate")
