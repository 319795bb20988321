"""What README.md and docs/*.md say about settings, options, names, files and figures, held against the code."""

import argparse
import re

import pytest
import yaml
from docs_pages import ROOT, blocks, pages, prose
from pydantic import BaseModel

import prm.commands
import prm.components  # as the entry point does, where the install is older than it
import video.commands
import video.components
from mmcredit import components, config, config_files
from mmcredit.cli import parser
from mmcredit.preference.config import DPOConfig
from mmcredit.supervised.config import SFTConfig

PAGES = [path.relative_to(ROOT).as_posix() for path in pages()]
TEXTS = {name: prose(ROOT / name) for name in PAGES}
# The page that lists every component of a kind, by name.
LISTED = {
    "credit": "docs/credit.md",
    "ratio": "docs/credit.md",
    "clip": "docs/credit.md",
    "aggregate": "docs/credit.md",
    "regularizer": "docs/credit.md",
    "signal": "docs/signals-and-passes.md",
    "reward": "docs/rewards.md",
    "source": "docs/data.md",
    "engine": "docs/rollout.md",
    "strategy": "docs/rollout.md",
    "corruption": "docs/robustness.md",
    "benchmark": "docs/evaluate.md",
    "verifier": "docs/verifiers.md",
    "train_engine": "docs/several-processes.md",
    "selection": "docs/sft.md",
    "preference": "docs/preference.md",
    "decoding": "docs/decoding.md",
    "video": "docs/data.md",
}
# The configs of `train`, `sft` and `dpo` share many blocks.
CONFIGS = (config.RunConfig, SFTConfig, DPOConfig)


def shipped(kind):
    """Components of the packages themselves: other tests of this process register some of their own."""
    known = {name: components.lookup(kind, name).__module__ for name in components.names(kind)}
    return {name for name, module in known.items() if module.split(".")[0] in ("mmcredit", "prm", "video")}


def code(text):
    return re.findall(r"`([^`\n]+)`", text)


def field(model, path):
    """The annotation at a dotted path below a config block, or None."""
    head, _, rest = path.partition(".")
    info = model.model_fields.get(head)
    if info is None or not rest:
        return info
    inner = [c for c in (info.annotation, *getattr(info.annotation, "__args__", ())) if isinstance(c, type)]
    blocks = [c for c in inner if issubclass(c, BaseModel)]
    return field(blocks[0], rest) if blocks else None


@pytest.mark.parametrize("name", PAGES)
def test_settings_exist(name):
    """Every `block.setting` in code marks is a setting of the config, and so is every assignment in a command."""
    tops = "|".join(config.RunConfig.model_fields)
    found = [word for word in code(TEXTS[name]) if re.fullmatch(rf"({tops})\.[a-z_.]+\w", word)]
    for block in blocks(ROOT / name):
        if block.language == "bash":
            found += re.findall(rf"(?<![\w/.])((?:{tops})\.[a-z_.]+)=", block.text)
    for word in found:
        if word.endswith((".log", ".html", ".json", ".jsonl", ".parquet", ".py")):
            continue  # a file
        assert any(field(model, word) is not None for model in CONFIGS), f"{name}: {word} is no setting"


@pytest.mark.parametrize("name", PAGES)
def test_options_exist(name):
    known, own = {"-m"}, parser(more=False)  # -m is Python's
    actions = next(action for action in own._actions if isinstance(action, argparse._SubParsersAction))
    prm.commands.add(actions)
    video.commands.add(actions)
    waiting = [own]
    while waiting:
        each = waiting.pop()
        for action in each._actions:
            known.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    for words in code(TEXTS[name]):
        if words.startswith("pip "):
            continue
        for option in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", words):
            assert option in known, f"{name}: no command has the option {option}"


@pytest.mark.parametrize("kind", list(components.HOMES))
def test_every_component_is_listed(kind):
    assert set(components.HOMES) == set(LISTED)
    named = set(code(TEXTS[LISTED[kind]]))
    missing = shipped(kind) - named
    assert not missing, f"{LISTED[kind]} does not name the {kind} {sorted(missing)}"


def test_credit_methods_have_their_first_line_in_the_table():
    for name in shipped("credit"):
        rows = [line for line in TEXTS["docs/credit.md"].splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, name


def test_recipes_and_configs_exist():
    for name, text in TEXTS.items():
        for words in code(text):
            for path in re.findall(r"(?<![\w/])(?:configs|scripts|benchmarks|tests)/[\w./*-]*\w", words):
                assert any(ROOT.glob(path)), f"{name}: {path} is not there"
    recipes = re.search(r"loss\s+and not credit: (.*?)\. ", TEXTS["docs/credit.md"], re.DOTALL).group(1)
    assert set(code(recipes)) <= set(config_files.recipes())


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", TEXTS[name]):
        if not target.startswith("https://"):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize("name", PAGES)
def test_yaml_blocks_are_configs(name, tmp_path, monkeypatch):
    """Laid over easy_vqa a block is a config that passes every check made before a model is loaded."""
    monkeypatch.chdir(tmp_path)
    base = config_files.read_yaml(config_files.find("easy_vqa"))
    for block in blocks(ROOT / name):
        if block.language == "yaml":
            config.parse(config_files.lay_over(base, yaml.safe_load(block.text)))


@pytest.mark.parametrize("name", PAGES)
def test_figures_come_from_the_benchmarks(name):
    """A paragraph or item with a link to benchmark pages takes its decimal numbers from them."""
    checked = 0
    for part in re.split(r"\n\n+|\n(?=[*|-] )", TEXTS[name]):
        linked = re.findall(r"\((?:\.\./)?(benchmarks/\w+\.md)\)", part)
        text = re.sub(r"\]\([^)]*\)|`[^`]*`|Qwen\d?\.?\d?|arXiv [\d.]+", " ", part)
        figures = re.findall(r"(?<![\w.,])\d[\d,]*\.\d+(?![\w.])|(?<![\w.,])\d+,\d{3}(?!\d)", text)
        if not linked:
            continue
        pages_ = "".join((ROOT / path).read_text() for path in linked)
        for figure in figures:
            checked += 1
            assert figure in pages_, f"{name}: {figure} is not in {linked}"
    if name in ("README.md", "docs/models.md", "docs/robustness.md", "docs/speed.md"):
        assert checked


def test_pictures_are_small():
    images = list((ROOT / "docs" / "images").iterdir())
    assert images
    for path in images:
        assert path.stat().st_size <= 250_000, path
    assert sum(f"images/{path.name}" in text for text in TEXTS.values() for path in images) >= len(images)
