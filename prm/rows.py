"""The JSON lines files of a results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS, TRACES, SETTINGS, SUMMARY = "refine.jsonl", "traces.jsonl", "settings.json", "summary.json"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; a last line that a kill cut off is removed. Raises ValueError for any other."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise ValueError(f"{path}, line {number + 1}: not JSON; remove the line or the folder") from None
            path.write_text("".join(each + "\n" for each in lines[:number]), encoding="utf-8")
    return rows
