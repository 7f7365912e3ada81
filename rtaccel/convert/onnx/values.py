"""What a name of the file stands for while a module is built: known values, and nodes of the graph that compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.dtypes import DTYPES, NAMES


@dataclass(eq=False)
class Known:
    """A constant. name: of the file, or of the node that it was computed for. kind: TensorProto.DataType it was stored in, where
    torch has no such type (int4, uint4)."""

    value: Any
    name: str
    kind: int = 0

    @property
    def tensor(self) -> Tensor:
        if isinstance(self.value, Tensor):
            return self.value
        value = np.asarray(self.value)
        if value.dtype == object:
            flat = value.reshape(-1).tolist()
            value = np.array(
                flat, dtype=np.int64 if not any(isinstance(v, float) for v in flat) else np.float32
            ).reshape(value.shape)
        return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape).copy())

    def literal(self) -> Any:
        """As nested tuples of Python numbers, which are written into the graph."""
        return _tuples(self.value.tolist())

    def array(self) -> np.ndarray:
        return self.value.numpy() if isinstance(self.value, Tensor) else np.asarray(self.value)


@dataclass(eq=False)
class Computed:
    """numbers: it is an array of `numbers.py`, of elements of dtype, and no tensor. zeros: it is known to hold nothing else,
    as the states that a recurrent layer starts from."""

    node: fx.Node
    numbers: bool = False
    dtype: torch.dtype = torch.int64
    zeros: bool = False


@dataclass(eq=False)
class AsNumbers:
    """A value in a place where a function takes numbers."""

    ref: Any


class Broken:
    """Of a node that was refused; what reads it is not looked at."""


BROKEN = Broken()


def known_of(onnx: Any, tensor: Any, name: str) -> Known:
    """A TensorProto as torch holds it."""
    kind = tensor.data_type
    array = onnx.numpy_helper.to_array(tensor)
    if kind in (21, 22):
        return Known(torch.from_numpy(array.astype(np.int8 if kind == 22 else np.uint8)), name, kind)
    if kind == 16:
        return Known(torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16), name)
    if kind not in DTYPES:
        return Known(array, name, kind)
    return Known(torch.from_numpy(np.array(array)), name)


def is_text(value: Known) -> bool:
    return not isinstance(value.value, Tensor) and value.kind in NAMES


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def as_result(made: Any, name: str) -> Any:
    """What a function gave for constants, as constants."""
    if isinstance(made, (tuple, list)):
        return tuple(as_result(part, f"{name}_{i}" if i else name) for i, part in enumerate(made))
    if isinstance(made, np.ndarray):
        return Known(n.tensor(made, _number_dtype(made)), name)
    return Known(made.detach().contiguous() if isinstance(made, Tensor) else made, name)


def _number_dtype(made: np.ndarray) -> torch.dtype:
    flat = made.reshape(-1)
    if len(flat) and all(isinstance(v, bool) for v in flat):
        return torch.bool
    return torch.float32 if any(isinstance(v, float) for v in flat) else torch.int64
