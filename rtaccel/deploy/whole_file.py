"""A file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError


def target_of(op: str, path: Any) -> Path:
    """Raises FormatError for what is no path of a file that can be made there."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise FormatError(op, f"path={path!r:.200}", "the path of a file, as a text or a Path", "Pass one.")
    if "\0" in os.fspath(path):
        raise FormatError(op, f"path={path!r:.200}", "a path without a zero character", "Leave it out.")
    target = Path(path)
    if not target.absolute().parent.is_dir() or target.is_dir():
        raise FormatError(op, str(target), "a file in a folder that exists", "Make the folder first, and name a file.")
    return target


def write(target: Path, data: bytes) -> None:
    """Raises OSError, with nothing left behind and what was there before untouched, where the path cannot be written."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
