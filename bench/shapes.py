"""The sizes of `shapes.toml`, as cases; `rtaccel bench --shapes` reads such files too."""

from __future__ import annotations

from pathlib import Path

from rtaccel.cli._common import cases as _cases
from rtaccel.core.registry import Case

FILE = Path(__file__).parent / "shapes.toml"


def cases() -> list[tuple[str, Case]]:
    """(operator, case) for every row of the file; for an operator without rows, the conformance case that moves most."""
    return _cases.cases(FILE)
