"""`mmcredit audit`: rollouts, their true advantages, every method's credit for them, and how the two compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcredit.audit import exact
from mmcredit.audit.collect import TREES, collect, strategies
from mmcredit.audit.work import Audited, Options, Work
from mmcredit.config import RunConfig
from mmcredit.frozen import find, thaw
from mmcredit.replay.methods import Method, make_methods
from mmcredit.replay.methods import parse as parse_methods
from mmcredit.report.files import read_json, write_json
from mmcredit.settings import changes, defaults_of, told

if TYPE_CHECKING:
    from mmcredit.audit.work import Stage
    from mmcredit.replay.model import ReplayModel

SETTINGS = "settings.json"


@dataclass
class Audit:
    """All that was found; `output` makes tables and a page of it."""

    source: str
    batches: list[Audited]
    methods: list[Method]
    refused: dict[str, str]
    costs: dict[str, Any]  # of collecting
    options: Options
    model: ReplayModel
    given: frozenset[str]  # signals that came with the rollouts
    dense: str | None  # label of the second SPO-chain row
    trees: list[Audited] = field(default_factory=list)  # spo_tree on rollouts of its own
    tree: Method | None = None

    @property
    def labels(self) -> list[str]:
        """Rows of the leaderboard that are methods."""
        return [m.label for m in self.methods]


def audit(source: RunConfig | Path, folder: Path, options: Options, stage: Stage) -> Audit:
    """Audit a config (its rollouts are sampled into `folder`) or frozen rollouts. What `folder` holds stays.

    Raises ValueError for a folder that holds another audit, rollouts that cannot be audited, unknown methods.
    """
    costs: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    verifiers: Sequence[Any] | None = None
    if isinstance(source, Path):
        paths, trees, regroup, name = find(source), [], 1, source.name
        _claim(folder, {"source": str(source.resolve()), **_settings(options, False)})
    else:
        if options.plan is None:
            exact.check(source.rollout.sampling)
        # A name that does not exist is said before hours of sampling.
        make_methods(
            parse_methods(options.methods), source.model_dump()["objective"], source.rollout.sampling.max_new_tokens
        )
        _claim(folder, {"config": source.model_dump(mode="json"), **_settings(options, True)})
        wanted = options.trees and any("spo_tree" in str(entry) for entry in parse_methods(options.methods))
        sizes = {"prompts": options.prompts, "batch": options.batch, "regroup": options.regroup}
        costs = collect(source, folder, **sizes, dense=options.dense, trees=wanted, stage=stage)
        paths, regroup, name = find(folder), options.regroup, source.run.name
        trees = find(folder / TREES) if wanted and (folder / TREES).is_dir() else []
        left_out = {name: why for name, why in strategies(source).items() if isinstance(why, str)}
        verifiers = source.verifiers
    first = thaw(paths[0])
    work = Work(first, folder, options, regroup, stage, verifiers, left_out, bool(trees))
    try:
        batches = [work.batch(first if i == 0 else thaw(path), i, len(paths)) for i, path in enumerate(paths)]
        grown = [work.tree_batch(thaw(path), i, len(trees)) for i, path in enumerate(trees)] if work.tree else []
    finally:
        work.close()
    kept = [m for m in work.methods if m.label not in work.refused]
    given = frozenset(first.rollouts.signals) | work.verified
    return Audit(name, batches, kept, work.refused, costs, options, work.model, given, work.dense, grown, work.tree)


def _settings(options: Options, collected: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {"plan": None if options.plan is None else asdict(options.plan), "model": options.model}
    if collected:
        # More prompts go on where fewer stopped; the rest of the sizes is part of every batch.
        kept |= {"batch": options.batch, "regroup": options.regroup, "dense": options.dense}
    return kept


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder this audit's, or see that it is. Raises ValueError naming the settings that differ."""
    settings = json.loads(json.dumps(settings))
    there = read_json(folder / SETTINGS)
    defaults = {"config": defaults_of(RunConfig), **_settings(Options(), True)}
    if there and (found := changes(there, settings, json.loads(json.dumps(defaults)))):
        raise ValueError(
            f"{folder} holds an audit with other settings: {told(found)}; give its settings to go on, or another "
            "folder with -o"
        )
    if not there:
        write_json(folder / SETTINGS, settings)
