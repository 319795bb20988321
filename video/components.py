"""Everything of this package that a config can name. The entry point `mmcredit.components` loads this module."""

from __future__ import annotations

__all__: list[str] = []
