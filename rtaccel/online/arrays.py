"""Numbers as the native objects take them: contiguous float32 on the CPU, from NumPy, torch, DLPack, lists and scalars.

torch is not imported for it: a tensor comes through DLPack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import ShapeError

F32 = NDArray[np.float32]


def describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is None:
        return f"{type(value).__name__} {value!r}"[:80]
    return f"{type(value).__name__} {getattr(value, 'dtype', '')} {list(shape)}"


def as_float32(op: str, name: str, value: Any, shape: tuple[int | None, ...]) -> F32:
    """value as a contiguous float32 array of the shape; None: any size. Its own memory where it is that already.

    A single number fits [1], and one row [n] fits nothing else. Raises ShapeError.
    """
    array = to_array(op, name, value, shape)
    if array.dtype.kind not in "fiub":
        raise ShapeError(op, f"{name} {describe(value)}", "real numbers", "Convert it to float32.")
    if array.ndim == 0 and shape == (1,):
        array = array.reshape(1)
    if array.ndim != len(shape) or any(want not in (None, got) for got, want in zip(array.shape, shape, strict=True)):
        raise ShapeError(op, f"{name} {describe(value)}", f"{name} {_wanted(shape)}", "Pass an array of that shape.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused as such
        return np.ascontiguousarray(array, dtype=np.float32)


def bound_array(op: str, name: str, value: Any, shape: tuple[int, ...], written: bool = False) -> Any:
    """value itself, where native code can read (and write) it without a copy. Raises ShapeError for everything else."""
    array = value if isinstance(value, np.ndarray) else to_array(op, name, value, shape)
    right = (
        array.dtype == np.float32
        and array.shape == shape
        and array.flags.c_contiguous
        and (array.flags.writeable or not written)
    )
    if not right:
        raise ShapeError(
            op,
            f"{name} {describe(value)}, {'contiguous' if array.flags.c_contiguous else 'strided'}"
            + ("" if array.flags.writeable else ", read-only"),
            f"contiguous{' writable' if written else ''} float32 {_wanted(shape)}",
            "Allocate such a buffer: a bound call reads and writes it in place.",
        )
    return array


def to_array(op: str, name: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """value as NumPy sees it: the same memory where it has some on the CPU. Raises ShapeError."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "detach"):
            value = value.detach()
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise ShapeError(
            op,
            f"{name} {describe(value)}: {str(error).splitlines()[0]}",
            f"{name} {_wanted(shape)} in memory of the CPU",
            "Move it to the CPU as float32.",
        ) from error


def _wanted(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('*' if size is None else str(size) for size in shape)}]"
