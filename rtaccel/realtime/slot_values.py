"""What `Latest.put` takes that no array of the slot's own kind is: numbers, lists, tensors, other layouts."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from rtaccel.core.errors import ShapeError

DTYPES = {
    "float32": "f4",
    "float64": "f8",
    "float16": "f2",
    "bfloat16": "u2",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "bool": "b1",
}
"""dtype of a slot -> that of its NumPy views. NumPy has no bfloat16, so its bits are uint16 there."""


def value_of(slot: Any, x: Any) -> Any:
    """x as an array or a tensor of the slot's shape and dtype. Nothing is cast, but plain numbers and lists are. Raises
    ShapeError."""
    try:
        found, given = _plain(x, slot.dtype)
    except (TypeError, ValueError, BufferError, RuntimeError, OverflowError) as error:
        raise ShapeError(
            "put",
            f"a {type(x).__name__} ({str(error).splitlines()[0]})",
            f"{slot.dtype}{list(slot.shape)}",
            "Pass an array or a tensor of the CPU.",
        ) from error
    if given != slot.dtype or tuple(found.shape) != slot.shape:
        raise ShapeError("put", f"{given}{list(found.shape)}", f"{slot.dtype}{list(slot.shape)}", "Convert the value.")
    if not isinstance(found, np.ndarray):
        return found.contiguous()
    return np.ascontiguousarray(found, found.dtype.newbyteorder("=")).reshape(slot.shape)


def _plain(x: Any, dtype: str) -> tuple[Any, str]:
    """(x as an array, as a tensor where it is of bfloat16, its dtype)."""
    torch = sys.modules.get("torch")
    listed = isinstance(x, (bool, int, float, list, tuple))
    if listed and dtype == "bfloat16":
        if torch is None:
            raise TypeError("NumPy has no bfloat16")
        x = torch.tensor(x, dtype=torch.bfloat16)
    elif listed:
        return _numbers(x, dtype), dtype
    if torch is not None and isinstance(x, torch.Tensor):
        from rtaccel.kernels._core.cpu import connect

        connect()  # from the next put on a tensor goes the short way
        x = x.detach().resolve_neg()
        return x if x.dtype == torch.bfloat16 else x.numpy(), str(x.dtype).removeprefix("torch.")
    found = np.asarray(x) if isinstance(x, np.ndarray) or not hasattr(x, "__dlpack__") else np.from_dlpack(x)
    return found, found.dtype.name


def _numbers(x: Any, dtype: str) -> Any:
    """Raises ValueError where a whole number or truth value would become another one."""
    found = np.asarray(x, dtype=DTYPES[dtype])
    if found.dtype.kind in "iub" and not np.array_equal(found, np.asarray(x)):
        raise ValueError(f"{x!r:.60} are no numbers of {dtype}")
    return found
