"""What is put around a question: a system prompt, and a Jinja template for the user's last turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from jinja2 import Template

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def read_template(text: str | None, file: Path | None) -> str | None:
    """A template given as text or in a file, None for none. Raises ValueError for both, or an unreadable file."""
    if file is None:
        return text
    if text is not None:
        raise ValueError("give template or template_file, not both")
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template_file {str(file)!r} cannot be read: {error}") from None


def compile_template(text: str) -> Template:
    """A sandboxed Jinja2 template of `content` (the question) and `row` (the other columns of the data set).

    Raises ValueError if it does not parse or uses neither of the two: the question would be lost.
    """
    try:
        template = _ENVIRONMENT.from_string(text.strip())
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except TemplateError as error:
        raise ValueError(f"the prompt template does not parse: {error}") from None
    if not used & {"content", "row"}:
        raise ValueError("the prompt template mentions neither {{ content }} nor {{ row.NAME }}: the question is lost")
    return template


def render(template: Template, content: str, row: Mapping[str, Any]) -> str:
    """The text of the user's turn. Raises ValueError if a name is unknown or the template fails on this row."""
    try:
        return template.render(content=content, row=row)
    # TypeError and the like come from filters applied to a value of another kind.
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"the prompt template fails: {error}") from error
