"""The answers of an evaluation as JSON lines: appended batch by batch, picked up again after a kill."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mmcredit.evaluate.ask.cells import Answer, Skipped
from mmcredit.evaluate.benchmarks.scoring import Score
from mmcredit.report.files import replace_file
from mmcredit.settings import changes, told

CLEAN = "clean"


def cell_label(row: Mapping[str, Any]) -> str:
    """The cell of a row: ``clean``, or such as ``jpeg:3``."""
    return CLEAN if row["corruption"] is None else f"{row['corruption']}:{row['severity']}"


def answer_row(target: str, answer: Answer, score: Score) -> dict[str, Any]:
    """A row of one judged response."""
    return {
        **_place(target, answer.number, answer.sample.id),
        "attempt": answer.response.member,
        **_cell(answer.cell),
        "media": len(answer.sample.media),
        "response": answer.text,
        **score.as_dict(),
        "tokens": len(answer.response.tokens),
        "finish": answer.response.finish,
        "seconds": round(answer.seconds, 4),
    }


def skipped_row(target: str, item: Skipped) -> dict[str, Any]:
    """A row of a question that cannot be answered; without a cell it counts for all of them."""
    where = {"corruption": None, "severity": None, "every_cell": True} if item.cell is None else _cell(item.cell)
    # Libraries name objects by their address, which says nothing and differs from run to run.
    message = re.sub(r" at 0x[0-9a-f]+", "", item.message)
    return {**_place(target, item.number, item.id), **where, "skipped": item.reason, "message": message}


def _place(target: str, number: int, id: str) -> dict[str, Any]:
    return {"benchmark": target, "id": id, "number": number}


def _cell(cell: Any) -> dict[str, Any]:
    if cell.operator is None:
        return {"corruption": None, "severity": None}
    return {"corruption": cell.operator.title, "severity": cell.severity}


class Rows:
    """The file of one set of questions, and which of its (question, cell) are finished.

    A question is finished in a cell when all its attempts are written, or when it is skipped there. A kill can leave a
    last line cut off and a last question with some of its attempts: both are taken off (`damaged`, `unfinished` count
    them) and answered again. Beside the file stands `NAME.settings.json`: with other settings its rows answer another
    question, so they are not mixed. Use as a context manager: the file is locked against a second writer.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], attempts: int, defaults: Mapping[str, Any] | None = None
    ) -> None:
        """`defaults`: what a setting counts as in a file that was made before it existed.

        Raises ValueError for other settings, a damaged line before the last, or a file that is being written to.
        """
        self.path, self.attempts = path, attempts
        self.damaged = 0  # lines cut off by a kill
        self.unfinished = 0  # rows of a question with attempts missing
        self._finished: dict[str, set[int]] = {}  # cell label -> questions
        self._nowhere: set[int] = set()  # questions that can be answered in no cell
        self.ids: dict[int, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._check_settings(settings, defaults)
        self._file: IO[bytes] = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ValueError(f"{path} is being written by another evaluation; wait for it, or choose -o") from None
        self.kept = self._read_back()

    def _check_settings(self, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None) -> None:
        path = self.path.with_suffix(".settings.json")
        now = json.loads(json.dumps(settings))
        if self.path.exists() and self.path.stat().st_size:
            try:
                there = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                raise ValueError(
                    f"{self.path} has answers, but {path.name} beside it cannot be read: it is not known how they were "
                    "made; delete both, or choose another folder with -o"
                ) from None
            # Further cells may be added to a file; those that it has must mean the same.
            shared = there.get("cells", {}).keys() & now.get("cells", {}).keys()
            cells = [{k: v for k, v in each.get("cells", {}).items() if k in shared} for each in (there, now)]
            if other := changes({**there, "cells": cells[0]}, {**now, "cells": cells[1]}, defaults):
                raise ValueError(
                    f"{self.path} was made with other settings: {told(other)}; choose another folder with -o, or "
                    "delete it"
                )
            now["cells"] = {**there.get("cells", {}), **now.get("cells", {})}
            if now == there:
                return
        replace_file(path, json.dumps(now, indent=1) + "\n")

    def _read_back(self) -> int:
        """Take note of what is finished; cut off what is not. Returns the number of rows kept."""
        kept = 0
        good = 0  # bytes up to and with the last finished question
        waiting: list[int] = []  # bytes of each row of a question that is not finished yet
        place: tuple[int, str] | None = None
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                row = _parse(line)
                if row is None:
                    if file.read(1):
                        raise ValueError(f"{self.path}, line {number} is damaged; delete the file, or mend the line")
                    self.damaged += 1
                    break
                here = (row["number"], cell_label(row))
                if row.get("attempt", 0) != len(waiting) or (waiting and here != place):
                    raise ValueError(
                        f"{self.path}, line {number}: a row of {row['id']} in {here[1]} that does not follow the line "
                        "before; delete the file"
                    )
                if "skipped" in row:
                    self._take(row)
                    kept += 1
                    good += len(line)
                    continue
                place = here
                waiting.append(len(line))
                if len(waiting) == self.attempts:
                    self._take(row)
                    kept += len(waiting)
                    good += sum(waiting)
                    waiting = []
        self.unfinished = len(waiting)
        if self.damaged or waiting:
            self._file.truncate(good)
        return kept

    def _take(self, row: Mapping[str, Any]) -> None:
        number = int(row["number"])
        if row.get("every_cell"):
            self._nowhere.add(number)
        else:
            self._finished.setdefault(cell_label(row), set()).add(number)
        self.ids[number] = row["id"]

    def done(self, number: int, label: str) -> bool:
        """Whether question `number` is finished in this cell."""
        return number in self._nowhere or number in self._finished.get(label, ())

    @property
    def unusable(self) -> int:
        """Questions that can be answered in no cell."""
        return len(self._nowhere)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of whole questions."""
        lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows]
        self._file.write(b"".join(lines))
        self._file.flush()
        for row in rows:
            self._take(row)

    def read(self) -> Iterator[dict[str, Any]]:
        """All rows, in the order in which they were written."""
        with self.path.open("rb") as file:
            for line in file:
                row = _parse(line)
                assert row is not None, f"{self.path} was changed while it was open"
                yield row

    def close(self) -> None:
        """Close the file, which gives up the lock."""
        self._file.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(line: bytes) -> dict[str, Any] | None:
    """A row, or None for a line that is cut off or no row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    wanted = ("id", "number", "corruption", "severity")
    if not isinstance(row, dict) or any(key not in row for key in wanted):
        return None
    return row if "skipped" in row or "attempt" in row else None


def file_stem(text: str) -> str:
    """A file name from a title: letters, digits, dot, dash and underscore; the rest becomes a dash."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).strip("-.")
    while "--" in name:
        name = name.replace("--", "-")
    return name or "model"
