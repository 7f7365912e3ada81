"""The bytes of a file, as a key has signed them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.deploy import container, signing


def read_verified(path: str | os.PathLike[str] | bytes, verify_key: Any = None) -> bytes:
    """The bytes of a file, signed with the key where one is given. Raises FormatError for others."""
    whole = path if isinstance(path, bytes) else _read(os.fspath(path))
    if verify_key is not None:
        digest = container.digest(whole)
        if container.written_digest("load", whole) != digest:
            source = f"{len(path)} bytes" if isinstance(path, bytes) else os.fspath(path)
            raise FormatError(
                "load", f"{source}, whose bytes are not those that were written", "a whole file", "Fetch it again."
            )
        signing.verified("load", verify_key, container.signature(whole), container.PREAMBLE + digest)
    return whole


def _read(path: str) -> bytes:
    try:
        file = Path(path)
        if not file.is_file():
            raise OSError("not a regular file" if file.exists() else "no such file")
        return file.read_bytes()
    except OSError as error:
        raise FormatError("load", f"{path}: {error}", "a file that can be read", "Look at the path.") from error
