"""Numbers that a graph computes of shapes: kept outside of tensors, so that a size of the batch stays open while exporting.

A chain of Shape, Gather, Concat and the like ends as the argument of a Reshape. As tensors these would be values that
torch.export does not know. Here they are NumPy arrays of Python objects: whole numbers, or torch's symbols for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Numbers = Any
"""A nested sequence of Python numbers, a NumPy array of them, or a tensor that is a constant."""


def array(values: Any) -> np.ndarray:
    """As an array of Python objects."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, np.ndarray):
        return values if values.dtype == object else _objects(values)
    if isinstance(values, (tuple, list)):
        parts = [array(v) for v in values]
        return np.stack(parts) if parts else np.empty((0,), dtype=object)
    made = np.empty((), dtype=object)
    made[()] = values.item() if isinstance(values, np.generic) else values
    return made


def _objects(values: np.ndarray) -> np.ndarray:
    made = np.empty(values.shape, dtype=object)
    flat = values.reshape(-1).tolist()
    made.reshape(-1)[:] = flat if flat else []
    return made


def ints(values: Numbers) -> list[Any]:
    """In a flat list, whole."""
    return [v if isinstance(v, torch.SymInt) else int(v) for v in array(values).reshape(-1)]


def floats(values: Numbers) -> list[Any]:
    """In a flat list."""
    return [v if isinstance(v, (torch.SymInt, torch.SymFloat)) else float(v) for v in array(values).reshape(-1)]


def one(values: Numbers) -> Any:
    """The only one."""
    return array(values).reshape(-1)[0]


def tensor(values: Numbers, dtype: torch.dtype) -> Tensor:
    """As a tensor, where a graph computes with them after all."""
    given = array(values)
    flat = list(given.reshape(-1))
    if any(isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)) for v in flat):
        made = torch.stack([torch.scalar_tensor(v, dtype=dtype) for v in flat])
    else:
        made = torch.tensor(flat, dtype=dtype)
    return made.reshape(given.shape)


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> np.ndarray:
    return array(list(x.shape[start:end]))


def size(x: Tensor) -> np.ndarray:
    return array(math.prod(x.shape))


def _elementwise(f: Callable[..., Any]) -> Callable[..., np.ndarray]:
    ufunc = np.frompyfunc(f, f.__code__.co_argcount, 1)

    def run(*values: Numbers) -> np.ndarray:
        return array(ufunc(*(array(v) for v in values)))

    return run


def _quotient(a: Any, b: Any) -> Any:
    """Whole numbers toward zero, as ONNX divides them."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return a // b if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt) else math.trunc(a / b)


def _cast(x: Numbers, *, to: int, **_: Any) -> np.ndarray:
    kind = float if to in (1, 10, 11, 16) else bool if to == 9 else int
    f = np.frompyfunc(lambda v: v if isinstance(v, torch.SymInt) and kind is int else kind(v), 1, 1)
    return array(f(array(x)))


def _take(x: Numbers, index: Numbers, *, axis: int = 0) -> np.ndarray:
    return array(np.take(array(x), np.asarray(array(index), dtype=np.int64), axis=axis))


def _concat(*parts: Numbers, axis: int) -> np.ndarray:
    return np.concatenate([array(p) for p in parts], axis=axis)


def slices(rank: int, starts: Any, ends: Any, axes: Any, steps: Any) -> list[slice]:
    """Of each dimension. Bounds beyond a dimension are cut as ONNX cuts them."""
    found = [slice(None)] * rank
    for i, start in enumerate(starts):
        axis = axes[i] if axes else i
        step = steps[i] if steps else 1
        end = ends[i]
        if isinstance(end, int) and step < 0 and end < -(2**31):
            end = None
        found[axis] = slice(start, end, step)
    return found


def _slice(x: Numbers, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> np.ndarray:
    given = array(x)
    picked = [None if v is None else ints(v) for v in (axes, steps)]
    return given[tuple(slices(given.ndim, ints(starts), ints(ends), *picked))]


def _slice_1(x: Numbers, *, starts: Sequence[int], ends: Sequence[int], axes: Any = None) -> np.ndarray:
    return _slice(x, starts, ends, axes)


def _squeeze(x: Numbers, axes: Any = None, **attrs: Any) -> np.ndarray:
    axes = attrs.get("axes") if axes is None else axes
    given = array(x)
    return given.squeeze() if axes is None else given.squeeze(tuple(ints(axes)))


def _unsqueeze(x: Numbers, axes: Any = None, **attrs: Any) -> np.ndarray:
    axes = attrs.get("axes") if axes is None else axes
    return np.expand_dims(array(x), tuple(ints(axes)))


def _reduce(f: Callable[[list[Any]], Any]) -> Callable[..., np.ndarray]:
    def run(x: Numbers, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, **_: Any) -> np.ndarray:
        given = array(x)
        made = array(f(list(given.reshape(-1))))
        return made.reshape((1,) * given.ndim) if keepdims else made

    return run


def _range(start: Numbers, limit: Numbers, delta: Numbers) -> np.ndarray:
    first, last, step = one(start), one(limit), one(delta)
    return array([first + i * step for i in range(max(0, math.ceil((last - first) / step)))])


def _filled(sizes: Numbers, *, value: float) -> np.ndarray:
    return array(np.full(ints(sizes), value, dtype=object))


def _split(x: Numbers, sizes: Any = None, *, outputs: int, axis: int = 0, **attrs: Any) -> tuple[np.ndarray, ...]:
    given = array(x)
    parts = attrs.get("split") if sizes is None else sizes
    if parts is None:
        return tuple(np.split(given, outputs, axis))
    return tuple(np.split(given, np.cumsum(ints(parts))[:-1].tolist(), axis))


def _expand(x: Numbers, sizes: Numbers) -> np.ndarray:
    given, wanted = array(x), ints(sizes)
    return np.broadcast_to(given, np.broadcast_shapes(given.shape, tuple(wanted))).copy()


HOST: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_quotient),
    "Mod": _elementwise(lambda a, b: a % b),
    "Neg": _elementwise(lambda a: -a),
    "Abs": _elementwise(lambda a: abs(a)),
    "Floor": _elementwise(lambda a: math.floor(a)),
    "Ceil": _elementwise(lambda a: math.ceil(a)),
    "Equal": _elementwise(lambda a, b: a == b),
    "Less": _elementwise(lambda a, b: a < b),
    "LessOrEqual": _elementwise(lambda a, b: a <= b),
    "Greater": _elementwise(lambda a, b: a > b),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b),
    "Not": _elementwise(lambda a: not a),
    "And": _elementwise(lambda a, b: bool(a) and bool(b)),
    "Or": _elementwise(lambda a, b: bool(a) or bool(b)),
    "Where": _elementwise(lambda c, a, b: a if c else b),
    "Min": lambda *v: array(np.frompyfunc(min, 2, 1).reduce(np.stack(np.broadcast_arrays(*map(array, v))))),
    "Max": lambda *v: array(np.frompyfunc(max, 2, 1).reduce(np.stack(np.broadcast_arrays(*map(array, v))))),
    "Cast": _cast,
    "Gather": _take,
    "Concat": _concat,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": lambda x, sizes, allowzero=0: array(x).reshape(ints(sizes)),
    "Identity": lambda x: array(x),
    "ReduceProd": _reduce(lambda v: math.prod(v)),
    "ReduceSum": _reduce(lambda v: sum(v)),
    "ReduceMax": _reduce(lambda v: max(v)),
    "ReduceMin": _reduce(lambda v: min(v)),
    "Range": _range,
    "ConstantOfShape": _filled,
    "Split": _split,
    "Expand": _expand,
    "Size": lambda x: array(array(x).size),
    "Shape": lambda x, start=0, end=None: array(list(array(x).shape[start:end])),
}
"""Operators on numbers."""

for _name, _function in HOST.items():  # how they are called in the code of a module
    _function.__name__ = _function.__qualname__ = _name.lower()
