"""Hooks of mkdocs.yml: pages made at build time, pictures of credit, and links that leave docs/.

* `methods/NAME.md`, one page per credit method from its docstring, with the picture of its credit for the response in
  docs/example.json; `methods/index.md` lists them.
* `benchmarks/*.md`, the measured tables.
* The navigation is the reading order of docs/index.md.
* `<!-- credit: NAME, NAME -->` in a page becomes the picture of these methods (`truth`: the true advantages).
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mmcredit import components  # noqa: E402

WIDTH = 100  # columns of a method's page
UP, DOWN = "0 114 178", "213 94 0"  # as in the report: told apart by every kind of eye
_CREDIT = re.compile(r"<!-- credit: ([\w, ]+) -->")
_EXAMPLE = ROOT / "docs" / "example.json"


def on_config(config: Any) -> Any:
    """The navigation: sections and pages in the order of docs/index.md, the methods behind the page on credit."""
    nav: list[Any] = ["index.md"]
    for line in (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"\*\*(.+)\*\*", line):
            nav.append({found[1]: []})
        elif found := re.match(r"\d+\. \[[^\]]+\]\(([\w-]+\.md)\)", line):
            pages = next(iter(nav[-1].values()))
            pages += [found[1], "methods/index.md"] if found[1] == "credit.md" else [found[1]]
    config.nav = nav
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code and from benchmarks/."""
    names = [name for name in components.names("credit") if _shipped(name)]
    made = {f"methods/{name}.md": method_page(name) for name in names}
    made["methods/index.md"] = methods_index(names)
    for path in sorted((ROOT / "benchmarks").glob("*.md")):
        made[f"benchmarks/{path.name}"] = path.read_text(encoding="utf-8")
    folder = ROOT / "benchmarks"
    for path in sorted([*folder.glob("*.svg"), *folder.glob("*/*.html")]):
        files.append(File.generated(config, f"benchmarks/{path.relative_to(folder)}", content=path.read_bytes()))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Draw pictures of credit; lead links out of docs/ to their page here, or leave their words alone."""
    here = page.file.src_uri
    markdown = _CREDIT.sub(lambda m: picture([n.strip() for n in m[1].split(",")]), markdown)

    def link(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        anchor = f"#{anchor}" if anchor else ""
        up = "../" * here.count("/")
        if found := re.fullmatch(r"\.\./benchmarks/([\w./-]+)", path):
            return f"[{words}]({up}benchmarks/{found[1]}{anchor})"
        if found := re.fullmatch(r"\.\./docs/([\w.-]+)", path):
            return f"[{words}]({up}{found[1]}{anchor})"
        if path.startswith("../") and not here.startswith("methods/") and files.get_file_from_path(path[3:]) is None:
            return f"{words} (`{path[3:]}`)"
        return match[0]

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", link, markdown)


def method_page(name: str) -> str:
    """The page of a method: its docstring with its fields, and the picture of its credit."""
    cls = components.lookup("credit", name)
    text = components.page(cls, WIDTH)
    first = components.headline(cls)
    shown = picture(["truth", "grpo", name] if name != "grpo" else ["truth", "grpo"])
    config = name if cls.starts else f"grpo, {name}"  # type: ignore[attr-defined]
    return (
        f"# {name}\n\n{first}\n\n## On one response\n\n{shown}\n\n## Equation, source, fields\n\n"
        f"```text\n{text}\n```\n\n"
        f"In a config: `credit: [{config}]`. The same page in the terminal: `mmcredit methods {name}`.\n"
    )


def methods_index(names: Sequence[str]) -> str:
    """The list of all methods."""
    lines = ["# Credit methods", "", "| method | what it does |", "|---|---|"]
    for name in names:
        first = components.headline(components.lookup("credit", name)).replace("|", "\\|")
        lines.append(f"| [{name}]({name}.md) | {first} |")
    return "\n".join(lines) + "\n"


def picture(names: Sequence[str]) -> str:
    """The example response once per method, its tokens coloured by their credit, each row on its own scale."""
    example = json.loads(_EXAMPLE.read_text(encoding="utf-8"))
    rows = []
    for name in names:
        values = example["truth"] if name == "truth" else example["credit"].get(name)
        label = "true advantage" if name == "truth" else name
        if values is None:
            rows.append(
                f'<div class="credit-row"><b>{label}</b><span>needs what this example does not carry (a tree, a '
                "verifier, a video)</span></div>"
            )
            continue
        most = max((abs(v) for v in values), default=0.0) or 1.0
        tokens = "".join(_token(p, v, most) for p, v in zip(example["pieces"], values, strict=True))
        rows.append(f'<div class="credit-row"><b>{label}</b><code class="credit">{tokens}</code></div>')
    rewards = ", ".join(f"{r:g}" for r in example["rewards"])
    about = (
        f"{html.escape(example['question'])} Answer: {html.escape(str(example['answer']))}. Reward of this response "
        f"{example['reward']:g}; of its group {rewards}. Blue: pushed up, orange: pushed down, each row on its own "
        f"scale. {html.escape(example['model'])}."
    )
    return f'<div class="credit-picture">{"".join(rows)}<p>{about}</p></div>'


def _token(piece: str, value: float, most: float) -> str:
    strength = 0.75 * abs(value) / most
    colour = f"background: rgb({UP if value > 0 else DOWN} / {strength:.2f})"
    text = html.escape(piece).replace("\n", "↵").replace("|", "&#124;")
    return f'<span style="{colour}" title="{value:.3g}">{text}</span>'


def _shipped(name: str) -> bool:
    return components.lookup("credit", name).__module__.split(".")[0] in ("mmcredit", "prm", "video")
