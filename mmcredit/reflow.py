"""Docstrings on a terminal: paragraphs are filled to its width; formulas, lists and tables keep their lines."""

from __future__ import annotations

import re
import textwrap

# How many columns short of the longest line a line may be and still count as wrapped by its author.
_SLACK = 3
_LABEL = re.compile(r"[A-Z][\w-]*( [a-z]+){0,3}: ")  # Source: ..., Differs from the code: ...
_ITEM = re.compile(r"(\s*)([-*+•]|\d+[.)]|[A-Z](?=\s\s))(\s+)")  # - item, 1. item, A  item
_VERBATIM = re.compile(r"\s*(\|.*\|$|>>>|\.\.\. )|.*\S {3,}\S.* {3,}\S")  # tables, sessions, columns of text


def reflow(text: str, width: int) -> str:
    """Fill the paragraphs of a docstring (already dedented) to `width` columns.

    A line is taken for wrapped, and joined with the next, where the next line's first word would not have fitted into
    the text's longest line; a shorter line ends where its author ended it. Kept on lines of their own: blank lines,
    indented lines (formulas), items of lists (their continuation is filled under the item's text), tables, code
    between ``` fences, and lines that begin with a label ("Source: ..."). A formula longer than `width` goes on
    indented by four more columns, from a double space where it has one; words are never cut.
    """
    lines = text.expandtabs(4).splitlines()
    margin = max((len(line) for line in lines), default=0)
    filled: list[str] = []
    block: list[str] = []  # lines of the paragraph or item that is being read
    fenced = False

    def close() -> None:
        if block:
            item = _ITEM.match(block[0])
            indent = " " * item.end() if item else ""
            words = " ".join(line.strip() for line in block)
            first = block[0][: item.end()] if item else ""
            filled.extend(_fill(words[len(first.strip()) :].strip() if item else words, width, first, indent))
            block.clear()

    for line in lines:
        fence = line.lstrip().startswith("```")
        if fence or fenced:
            close()
            filled.append(line)
            fenced = fenced != fence
        elif not line.strip():
            close()
            filled.append("")
        elif block and _goes_on(block, line, margin):
            block.append(line)
        else:
            close()
            if _VERBATIM.match(line):
                filled.append(line.rstrip())
            elif line[0] == " " and not _ITEM.match(line):
                indent = line[: len(line) - len(line.lstrip())]
                filled.extend(_break(line.strip(), width, indent))
            else:
                block.append(line)
    close()
    return "\n".join(filled)


def _goes_on(block: list[str], line: str, margin: int) -> bool:
    """Is `line` the continuation of the paragraph or item in `block`?"""
    item = _ITEM.match(block[0])
    indent = len(line) - len(line.lstrip())
    if indent != (item.end() if item else 0) or _ITEM.match(line) or _LABEL.match(line) or _VERBATIM.match(line):
        return False
    return len(block[-1]) + 1 + len(line.split()[0]) >= margin - _SLACK


def _break(formula: str, width: int, indent: str) -> list[str]:
    """A formula in lines of at most `width`, at double spaces (which separate equations) before others."""
    lines = [""]
    for piece in re.split(r"(?<=\S)( {2,})(?=\S)", formula):
        if piece.strip() and lines[-1].strip() and len(indent) + 4 + len(lines[-1] + piece) > width:
            lines.append(piece)
        else:
            lines[-1] += piece
    filled = [_fill(line.strip(), width, indent + "    " * (i > 0), indent + "    ") for i, line in enumerate(lines)]
    return [line for part in filled for line in part]


def _fill(words: str, width: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        words,
        max(width, len(later) + 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
