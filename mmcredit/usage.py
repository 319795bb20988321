"""What every `--help` ends with: one command that works as typed, and where to read on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

# By the words that call the command. Each is a command of the docs, which tests/test_docs_commands.py runs.
EXAMPLES = {
    "methods": "mmcredit methods pgpo",
    "check": "mmcredit check easy_vqa --samples 50",
    "train": "mmcredit train easy_vqa run.dir=runs/mine run.steps=20 evaluate.limit=200 log.rollouts_every=10",
    "launch": "mmcredit launch easy_vqa --processes 2 train.engine=deepspeed run.dir=runs/two run.steps=20",
    "sft": "mmcredit sft sft_scenes",
    "dpo": "mmcredit dpo dpo_scenes --from-run runs/frozen",
    "serve-rollouts": "mmcredit serve-rollouts builtin:tiny-qwen2_5-vl --engine hf --port 8765",
    "merge": "mmcredit merge runs/smollm2_lora/model -o models/smollm2-sums",
    "report": "mmcredit report runs/mine",
    "watch": "mmcredit watch runs/mine",
    "compare": "mmcredit compare runs/mine runs/pgpo -o runs/compare",
    "audit": "mmcredit audit text_math --prompts 4 --batch 4 --continuations 4,8 --dense 4",
    "evaluate": "mmcredit evaluate easy_vqa --model runs/mine/model --limit 200",
    "replay": 'mmcredit replay runs/mine --methods "tempo, pgpo, {pgpo: {tau: 0.2}}, [rloo, forking_tokens]"',
    "diagnose": "mmcredit diagnose drift easy_vqa run.dir=runs/mine --run runs/mine",
    "diagnose divergence": "mmcredit diagnose divergence easy_vqa run.dir=runs/mine --questions 20",
    "diagnose cross-sampling": "mmcredit diagnose cross-sampling easy_vqa run.dir=runs/mine --questions 20",
    "diagnose drift": "mmcredit diagnose drift easy_vqa run.dir=runs/mine --run runs/mine",
    "diagnose tokens": "mmcredit diagnose tokens easy_vqa run.dir=runs/mine --run runs/mine",
    "corruptions": "mmcredit corruptions docs/images/report.png -o sheet.png",
}
FIRST_STEPS = """first steps:
  mmcredit methods                    every credit method, loss part, reward, source
  mmcredit train easy_vqa --dry-run   a config, resolved and checked
  mmcredit COMMAND --help             options, and an example that works as typed

guide: docs/index.md in the repository"""


class HelpFormatter(argparse.HelpFormatter):
    """Text of several lines is left as it is: an example must stay one line to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def finish(top: argparse.ArgumentParser) -> None:
    """Give the help of each command its example."""
    top.formatter_class, top.epilog = HelpFormatter, FIRST_STEPS
    for words, command in commands(top):
        if words in EXAMPLES:
            end_with(command, EXAMPLES[words])


def end_with(command: argparse.ArgumentParser, example: str) -> None:
    """End the help of one command with an example; for packages that add commands of their own."""
    command.formatter_class, command.epilog = HelpFormatter, f"example:\n  {example}"


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """(words that call it, parser) of every command below `parser`, those with commands of their own included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield " ".join((*words, name)), command
                yield from commands(command, (*words, name))
