"""Where data lies: a named folder, else one in RTACCEL_TEST_DATA, else in shared/data beside the copy of the repository."""

from __future__ import annotations

import os
from pathlib import Path

from examples._shared.outcome import Missing


def folder(named: Path | None, name: str, files: tuple[str, ...], source: str) -> Path:
    """The folder that has one of these files. Raises Missing, with where the data comes from."""
    root = Path(os.environ.get("RTACCEL_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    found = named if named is not None else root / name
    if named is None and not root.is_dir():
        raise Missing(f"no data: {source}, then pass --data FOLDER.")
    if not any((found / file).exists() for file in files):
        raise Missing(f"no {' or '.join(files)} in {found}: {source}, then pass --data FOLDER.")
    return found
