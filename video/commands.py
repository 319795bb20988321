"""The command that this package adds to `mmcredit`. Heavy imports wait until it runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from mmcredit.usage import end_with

# Commands of docs/video.md, which tests/test_docs_commands.py runs.
EXAMPLES = {
    "video-tags": "mmcredit video-tags builtin:tiny-qwen3-vl -o models/tiny-qwen3-vl-tags",
    "video-rows": 'mmcredit video-rows data/events --events "{split: train, size: 40, image_size: 32}"',
}


def add(actions: Any) -> None:
    """Add `video-tags` and `video-rows` to argparse's subparsers."""
    tags = actions.add_parser(
        "video-tags",
        help="add the tags of retrieval calls to a model",
        description="Write a copy of a model whose tokenizer has the four tags of retrieval calls as single tokens, "
        "with their rows of the embeddings and of the output matrix initialised.",
    )
    tags.add_argument("model", metavar="PATH", help="model folder or builtin:NAME")
    tags.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the copy goes")
    tags.add_argument(
        "--init",
        choices=("subtokens", "mean"),
        default="subtokens",
        help="rows from the pieces of the tag's text (default), or the mean of all rows with noise",
    )
    tags.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise")
    tags.set_defaults(run=run_tags)

    rows = actions.add_parser(
        "video-rows",
        help="training rows with retrieval calls, for mmcredit sft",
        description="Write JSON lines (and clips) that teach a model to ask for frames: from rows of DM-CoT, or from "
        "procedural clips. Rows whose call does not hold are left out and counted.",
    )
    rows.add_argument("output", type=Path, metavar="FOLDER", help="folder of rows.jsonl and, with --events, clips/")
    given = rows.add_mutually_exclusive_group(required=True)
    given.add_argument("--rows", type=Path, metavar="FILE", help="JSON or JSON lines in the format of DM-CoT")
    given.add_argument("--events", metavar="{...}", help="fields of the source video_events, as YAML")
    rows.add_argument("--widen", type=float, default=0.0, metavar="SHARE", help="widen windows by up to this share")
    rows.add_argument("--seed", type=int, default=0, metavar="N", help="of the widening")
    rows.add_argument("--messages", action="store_true", help="write qwen-vl-utils messages with the windows in them")
    rows.set_defaults(run=run_rows)
    for words, command in EXAMPLES.items():
        end_with(actions.choices[words], command)


def run_tags(options: Namespace) -> int:
    """Run `mmcredit video-tags`."""
    from mmcredit.policy.config import ModelConfig
    from mmcredit.policy.policy import Policy
    from video.tags import add_tags

    policy = Policy.load(ModelConfig(path=options.model))
    ids = add_tags(policy.tokenizer, policy.model, options.init, options.seed)
    if policy.processor is not None:
        policy.processor.tokenizer = policy.tokenizer
    policy.save(options.output)
    print(f"{options.output}: <span> {ids.span}, </span> {ids.span_end}, <fps> {ids.fps}, </fps> {ids.fps_end}")
    return 0


def run_rows(options: Namespace) -> int:
    """Run `mmcredit video-rows`."""
    from mmcredit import yaml_values
    from video import cold_start

    target = options.output / "rows.jsonl"
    if options.events is not None:
        fields = yaml_values.read(options.events)
        if not isinstance(fields, dict):
            raise ValueError(f"--events: a mapping of fields is wanted, got {options.events!r}")
        found: Any = cold_start.event_rows(fields, options.output / "clips")
        count = cold_start.write(({**row, "video": f"clips/{row['video']}"} for row in found), target, options.messages)
        print(f"{count} rows: {target}")
        return 0
    made = cold_start.build(cold_start.read(options.rows), options.rows.name, options.widen, options.seed)
    count = cold_start.write(made.rows, target, options.messages)
    print(f"{count} rows: {target}")
    for reason, number in made.dropped.most_common():
        print(f"left out, {reason}: {number}, first {made.examples[reason]}")
    return 0
