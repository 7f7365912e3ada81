"""`rt.load`: a model from a file, run without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel._native import Model
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.deploy import container
from rtaccel.deploy.loaded_model import IN_PLACE, LARGE, UNCHECKED, LoadedModel
from rtaccel.deploy.native_errors import typed
from rtaccel.deploy.nesting import CONSTANT
from rtaccel.deploy.verified import read_verified


def load(
    path: str | os.PathLike[str] | bytes,
    *,
    verify_key: Any = None,
    threads: int = 1,
    unchecked: bool = False,
    large: bool = False,
    in_place: bool = False,
) -> LoadedModel:
    """A model from a file that `rt.save` wrote. Needs NumPy and no torch; nothing of the file is executed.

    path: of the file, or its bytes.
    verify_key: the ed25519 public key that must have signed it (32 bytes, the path of a PEM file, or one of the `cryptography`
        package). None: the digest alone is checked, which finds damage and no forgery.
    threads: most threads of a call, the calling one included.
    unchecked: leave the digest out, for a file that was verified before.
    large: let its plan ask for more than 256 times the file's size, and 64 MiB, of memory.
    in_place: map the file, and read packed weights where they lie in it (`rt.save(prepacked=True)`). It must stay as it is while
        the model is used: put a new one in its place by rename, as `rt.save` does. Without it the file is read as a whole first.

    Raises FormatError for a file that is not whole, not such a model, newer than this version, or not signed with the key;
    BackendUnavailable where no kernel here computes one of its stages; UnsupportedProblem for in_place with bytes or with a key.
    """
    if not isinstance(path, (bytes, str, os.PathLike)):
        raise FormatError("load", f"a {type(path).__name__}", "the path of a file, or its bytes", "Pass one of them.")
    if in_place:
        return _load_in_place(path, verify_key, threads, (UNCHECKED if unchecked else 0) | (LARGE if large else 0))
    source = f"{len(path)} bytes" if isinstance(path, bytes) else os.fspath(path)
    flags = (UNCHECKED if unchecked else 0) | (LARGE if large else 0)
    whole = read_verified(path, verify_key)
    try:
        native = Model(whole, flags, threads)  # the very bytes that were verified
    except ValueError as error:
        raise typed("load", source, error) from None
    metadata = container.metadata("load", whole)
    return LoadedModel(native, metadata, source, flags, constants_of(whole, metadata))


def _load_in_place(path: str | os.PathLike[str] | bytes, verify_key: Any, threads: int, flags: int) -> LoadedModel:
    if isinstance(path, bytes) or verify_key is not None:
        what = "bytes" if isinstance(path, bytes) else "a key, of what could be changed behind it"
        raise UnsupportedProblem("load", f"in_place with {what}", "the path of a file", "Leave in_place out.")
    source = os.fspath(path)
    try:
        native = Model(source, flags | IN_PLACE, threads)
    except ValueError as error:
        raise typed("load", source, error) from None
    with open(source, "rb") as file:
        length = file.read(8)
        head = length + file.read(int.from_bytes(length, "little"))
    metadata = container.metadata("load", head)
    if CONSTANT in metadata.get("results", ""):
        head = Path(source).read_bytes()
    return LoadedModel(native, metadata, source, flags | IN_PLACE, constants_of(head, metadata))


_DTYPES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool", "BF16": "uint16",
}  # fmt: skip


def constants_of(whole: bytes, metadata: Mapping[str, str]) -> list[Any]:
    """The constant results in a file, in their order. Raises FormatError for one that is none."""
    found: list[Any] = []
    if CONSTANT not in metadata.get("results", ""):
        return found
    while (entry := container.entry("load", whole, f"result.{len(found)}")) is not None:
        dtype, shape, data = entry
        kind = np.dtype(_DTYPES.get(dtype, "V1"))
        if len(data) != math.prod(shape) * kind.itemsize or kind.kind == "V" or len(shape) > 32:
            raise FormatError("load", f"result.{len(found)} of {dtype}{shape}", "a whole tensor", "Save it again.")
        found.append(np.array(np.frombuffer(data, kind) if data else [], kind).reshape(shape))
    return found
