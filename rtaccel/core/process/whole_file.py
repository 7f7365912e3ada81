"""A file that appears whole or not at all, and typed errors for where none can be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError


def target_of(op: str, path: Any, name: str = "path") -> Path:
    """Checked before the work: raises FormatError for what is no path of a file that can be made there. name: the option's."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise FormatError(op, f"{name}={path!r:.200}", "the path of a file, as a text or a Path", "Pass one.")
    if "\0" in os.fspath(path):
        raise FormatError(op, f"{name}={path!r:.200}", "a path without a zero character", "Leave it out.")
    target = Path(path)
    try:
        folder = target.absolute().parent
        fits = os.fspath(path) != "" and folder.is_dir() and not target.is_dir()
        if fits and len(os.fsencode(target.name)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise FormatError(op, f"{name} {target.name[:40]}..., which is too long", "a shorter name", "Choose one.")
        if fits and not os.access(folder if target.is_file() or not target.exists() else target, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise _refused(op, target, error) from error
    if not fits:
        got = f"{name} {target}" if os.fspath(path) else f"an empty {name}"
        raise FormatError(op, got, "a file in a folder that exists", "Make the folder first, and name a file.")
    return target


def write(op: str, target: str | os.PathLike[str], data: bytes | str) -> Path:
    """Text is written in UTF-8. A link stays one, and a device or pipe is written to: neither is replaced by a file.

    Raises FormatError, with nothing left behind and what was there before untouched, where the path cannot be written, and
    whatever `target_of` raises.
    """
    target = target_of(op, target)
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
        else:
            _replace(Path(os.path.realpath(target)), content)
    except OSError as error:
        raise _refused(op, target, error) from error
    return target


def folder_of(op: str, path: str | os.PathLike[str]) -> Path:
    """A folder that is there, or is made. Raises FormatError where it cannot be."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(op, folder, error) from error
    return folder


@contextmanager
def built_into(op: str, path: str | os.PathLike[str]) -> Iterator[Path]:
    """`folder_of`, for what may fail: a folder that was made for it goes again, where it is still empty."""
    new = not os.path.lexists(path)
    folder = folder_of(op, path)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            if new:
                folder.rmdir()
        raise


def said_of(path: Path, error: OSError) -> str:
    """A path and what the system says of it, for the message of a typed error."""
    return f"{str(path)[:200]}: {(error.strerror or str(error)).lower()}"


def _refused(op: str, path: Path, error: OSError) -> FormatError:
    return FormatError(op, said_of(path, error), "a path that can be written", "Choose another one.")


def _replace(target: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".rtaccel.")
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
