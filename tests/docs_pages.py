"""README.md and docs/*.md as data: pages in reading order, their code blocks, the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
LANGUAGES = ("bash", "python", "yaml", "json", "toml", "text")


@dataclass(frozen=True)
class Block:
    """A fenced block. `not_run` is the reason in the comment above it, if there is one."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, one a line; a backslash at the end of a line goes on, comments are left out."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def pages() -> list[Path]:
    """README.md, docs/index.md, then the pages that the index lists, in its order."""
    index = ROOT / "docs" / "index.md"
    listed = re.findall(r"^\d+\. \[[^\]]+\]\(([\w-]+\.md)\)", index.read_text(), re.MULTILINE)
    return [ROOT / "README.md", index, *(index.parent / name for name in listed)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page. Raises AssertionError for a fence that is not closed or has no known language."""
    found, opened, note = [], None, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is None and line.startswith("```"):
            opened = (number, line[3:].strip(), [])
            assert opened[1] in LANGUAGES, f"{page.name}:{number}: a block of {opened[1]!r}; use one of {LANGUAGES}"
        elif opened is not None and line.startswith("```"):
            name = page.relative_to(ROOT).as_posix()
            found.append(Block(name, opened[0], opened[1], "\n".join(opened[2]) + "\n", note))
            opened = note = None
        elif opened is not None:
            opened[2].append(line)
        elif line.strip():
            match = _NOT_RUN.fullmatch(line.strip())
            note = match.group(1) if match else None
    assert opened is None, f"{page.name}: the block of line {opened[0]} is not closed"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
