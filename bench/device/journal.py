"""Rows on disk as they come: one JSON object a line, flushed and synced, so that what was measured outlives the run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError

KINDS = ("run", "prepared", "row", "note", "end")
"""What a line can be: the head of a run, kernels built ahead, a row, something worth knowing, the end."""


class Journal:
    """Appends to a file that is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8")

    def add(self, kind: str, **fields: Any) -> dict[str, Any]:
        """One line. Returned when the disk has it."""
        line = {"kind": kind, **fields}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return line

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> dict[str, Any]:
    """{"run": ..., "prepared": [...], "rows": [...], "notes": [...], "end": ... or None} of a journal.

    A last line that was cut off is left out. Raises FormatError for a file that is no journal.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FormatError(
            "report", f"{path}: {error.strerror}", "a file of rows", "Name the .jsonl of a run."
        ) from error
    found: dict[str, Any] = {"run": None, "prepared": [], "rows": [], "notes": [], "end": None}
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            kind = line.pop("kind")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            if number == len(lines) and found["run"] is not None:
                break  # the machine ended in the middle of a line
            raise FormatError(
                "report",
                f"{path}, line {number}: {text[:60]!r}",
                "a JSON object with a kind",
                "Name the .jsonl of a run.",
            ) from error
        if kind in ("run", "end"):
            found[kind] = line
        elif kind in KINDS:
            found[{"prepared": "prepared", "row": "rows", "note": "notes"}[kind]].append(line)
    if found["run"] is None:
        raise FormatError(
            "report", f"{path} without a line of kind run", "the rows of a run", "Name the .jsonl of a run."
        )
    return found
