"""What operators share that join each row of a matrix with each column of another: a[b, i, k] and w[b, k, j] give y[b, i, j].

Both are computed, or one of them is a parameter: the tensor "a" or "w", dense, which is the same for every sample.
attrs["places"]: of a over (b, i, k), of w over (b, k, j): an offset and a stride for each dimension, in elements of a dense
value; a stride of 0 repeats. y is dense, in the order (b, i, j). A third operand that lies as w does may be the tensor "v".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Cost
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._common.strides import dense, elements, limits

Dims = tuple[int, ...]
Sizes = tuple[Dims, Dims, Dims, Dims]
"""Those of the dimensions of b, i, j and k."""


def names(stage: Stage) -> str:
    """Of the operands."""
    return "awv" if "v" in stage.tensors else "aw"


def places(stage: Stage) -> list[Dims]:
    """One for each operand. Raises ShapeError where they are others."""
    found = [tuple(place) for place in stage.attrs["places"]]
    if len(found) != len(names(stage)):
        raise ShapeError(stage.op, f"{len(found)} places", f"{len(names(stage))}", "Correct the stage.")
    return found


def iterations(stage: Stage, sizes: Sizes) -> list[tuple[Dims, Dims, Value]]:
    """(dims, place, value) of each operand and of y; a parameter is a value of one row. Raises ShapeError where they do not
    fit."""
    b, i, j, k = sizes
    given = iter(stage.inputs)
    values = [Value(n, stage.tensors[n].numel()) if n in stage.tensors else next(given) for n in names(stage)]
    y = stage.outputs[0]
    shapes = [(*b, *i, *k), *((*b, *k, *j) for _ in values[1:])]
    found = [*zip(shapes, places(stage), values), ((*b, *i, *j), dense((*b, *i, *j)), y)]
    for dims, place, value in found:
        low, high = limits(dims, place) if len(place) == len(dims) + 1 else (-1, 0)
        if low < 0 or high >= value.steps * value.width:
            raise ShapeError(stage.op, f"a place {place} over {dims}", f"elements 0..{value.steps * value.width - 1}",
                             "Correct the stage.")  # fmt: skip
    if prod((*b, *i, *j)) != y.steps * y.width:
        raise ShapeError(stage.op, f"{stage.attrs['sizes']}", f"{y.steps * y.width} elements", "Correct the stage.")
    return found


def lower(stage: Stage, sizes: Sizes) -> Mapping[str, Any]:
    """For each operand the row and column of each index of (b), (rows) and (columns): they add up where no sum of columns passes
    the end of a row; a table of all elements where one does."""
    b, i, j, k = sizes
    low: dict[str, Any] = {"batches": prod(b), "i": prod(i), "j": prod(j), "k": prod(k)}
    groups = {"a": (b, i, k), "w": (b, k, j), "v": (b, k, j), "y": (b, i, j)}
    for name, (dims, place, value) in zip(f"{names(stage)}y", iterations(stage, sizes)):
        parts, strides, start = [], iter(place[1:]), place[0]
        for part in groups[name]:
            parts.append(elements(part, (start, *islice(strides, len(part)))))
            start = 0
        offsets, additive = _split(parts, value.width)
        if additive:
            low[f"{name}_offsets"] = tuple(int(n) for n in np.concatenate(offsets).reshape(-1))
        else:
            low[f"{name}_table"] = tuple(int(e) for e in elements(dims, place))
    return {**low, **{name: tensor.reshape(-1) for name, tensor in stage.tensors.items()}}


def _split(parts: Sequence[np.ndarray], width: int) -> tuple[list[np.ndarray], bool]:
    """Rows and columns of each part, as pairs; whether they may be added: no part runs backwards, and sums of columns stay inside
    a row."""
    columns = [p % width for p in parts]
    additive = all(bool((p >= 0).all()) for p in parts) and sum(int(c.max()) for c in columns) < width
    return [np.stack([p // width, c], 1) for p, c in zip(parts, columns)], additive


def operands(stage: Stage, sizes: Sizes, *inputs: Tensor) -> list[Tensor]:
    """a [M, b, i, k], and the others [M, b, k, j]; M is 1 for a parameter."""
    b, i, j, k = (prod(dims) for dims in sizes)
    found, given = [], iter(inputs)
    for name, (dims, place, _) in zip(names(stage), iterations(stage, sizes)):
        x = stage.tensors[name].reshape(1, -1).to(inputs[0].device) if name in stage.tensors else next(given)
        index = torch.from_numpy(elements(dims, place)).to(x.device)
        found.append(x.flatten(1)[:, index].reshape(x.shape[0], b, *((i, k) if name == "a" else (k, j))))
    return found


def cost(sizes: Sizes, rows: int, operations: int) -> Cost:
    """operations: of each term, with its addition."""
    b, i, j, k = (prod(dims) for dims in sizes)
    return Cost(bytes=4 * rows * b * (i * k + k * j + i * j), flops=operations * rows * b * i * j * k)


def packed_bytes(stage: Stage, sizes: Sizes) -> int:
    b, i, j, k = (prod(dims) for dims in sizes)
    given = sum(t.numel() for t in stage.tensors.values())
    return 8192 + 4 * given + 32 * (3 * b + 2 * (i + j + k)) + 8 * b * (i * k + k * j + i * j)
