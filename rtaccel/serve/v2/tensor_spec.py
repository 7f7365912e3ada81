"""Inputs and outputs of a model as the protocol has them: names, datatypes, shapes, values as JSON or bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem

DATATYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("FP32", np.dtype(np.float32)),
    "float16": ("FP16", np.dtype(np.float16)),
    "int8": ("INT8", np.dtype(np.int8)),
    "int16": ("INT16", np.dtype(np.int16)),
    "int32": ("INT32", np.dtype(np.int32)),
    "int64": ("INT64", np.dtype(np.int64)),
    "uint8": ("UINT8", np.dtype(np.uint8)),
    "bool": ("BOOL", np.dtype(np.uint8)),
}
"""dtype of a file -> (datatype of the protocol, of NumPy)."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. shape: as requests have it, -1 for any size."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, dtype: str, shape: Sequence[int]) -> TensorSpec:
        if dtype not in DATATYPES:
            raise UnsupportedProblem(
                "serve", f"{name}: {dtype}", f"one of {', '.join(DATATYPES)}, which NumPy has too",
                "Cast in the model: take float32, and give y.float().",
            )  # fmt: skip
        datatype, numpy_dtype = DATATYPES[dtype]
        return cls(name, datatype, numpy_dtype, tuple(shape))

    @property
    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def nbytes(self, rows: int | None) -> int | None:
        """Of a tensor of so many samples; None where its size is not known before it is there."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        return None if -1 in shape else math.prod(shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.datatype}[{', '.join('*' if n < 0 else str(n) for n in self.shape)}]"

    def check(self, datatype: Any, shape: Any) -> tuple[int, ...]:
        """The shape, where datatype and shape are those of the model. Raises ShapeError."""
        fits = (
            datatype == self.datatype
            and isinstance(shape, (list, tuple))
            and len(shape) == len(self.shape)
            and all(type(n) is int and 0 <= n < 1 << 40 and w in (-1, n) for n, w in zip(shape, self.shape))
        )
        if not fits:
            got = f"input {self.name!r} as {str(datatype)[:40]}{str(shape)[:80]}"
            raise ShapeError("infer", got, str(self), "Nothing is cast; the model's metadata says what it takes.")
        return tuple(shape)

    def from_bytes(self, data: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The array that lies in a buffer, little-endian. Raises FormatError for another number of bytes."""
        expected = math.prod(shape) * self.dtype.itemsize
        if len(data) != expected:
            raise FormatError(
                "infer",
                f"{len(data)} bytes for input {self.name!r}",
                f"{expected}, those of {self.datatype}{list(shape)}",
                "Send all of the tensor, and nothing more.",
            )
        made = np.frombuffer(data, self.dtype).reshape(shape)
        if not made.flags.aligned:
            made = made.copy()
        return self.checked(made)

    def from_values(self, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The array of values as JSON or protobuf have them, flat or nested. Raises FormatError for others."""
        try:
            made = np.asarray(values)
        except (ValueError, TypeError, OverflowError, RecursionError):
            made = None
        count = math.prod(shape)
        if made is not None and made.size == 0 and count == 0:
            return np.empty(shape, self.dtype)
        kinds = {"FP32": "fiu", "BOOL": "b"}.get(self.datatype, "iu")
        if made is None or made.dtype.kind not in kinds:
            got = "values that are ragged or no numbers" if made is None else f"values of {made.dtype}"
            raise FormatError("infer", f"input {self.name!r} with {got}", self.datatype, "Send such values.")
        if made.size != count or (made.ndim > 1 and made.shape != shape):
            raise FormatError(
                "infer",
                f"{made.size} values for input {self.name!r} in {list(made.shape)}",
                f"{count}, flat or as {list(shape)}",
                "Send all of the tensor, and nothing more.",
            )
        if kinds == "iu" and made.dtype != self.dtype:
            info = np.iinfo(self.dtype)
            if int(made.min()) < info.min or int(made.max()) > info.max:
                raise FormatError("infer", f"a value of input {self.name!r}", f"{info.min} to {info.max}", "Mend it.")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(made.reshape(shape), self.dtype)

    def checked(self, made: np.ndarray) -> np.ndarray:
        """The array itself. Raises FormatError where bytes are no truth values."""
        if self.datatype == "BOOL" and made.size and made.max() > 1:
            raise FormatError("infer", f"a truth value {made.max()} in input {self.name!r}", "0 or 1", "Mend it.")
        return made

    def to_values(self, array: np.ndarray) -> list[Any]:
        flat = array.reshape(-1)
        return (flat != 0).tolist() if self.datatype == "BOOL" else flat.tolist()
