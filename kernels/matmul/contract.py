"""Matmul: y[b, i, j] = sum over k of a[b, i, k] w[b, k, j], float32; [M, steps, width] each.

Both are computed, or one of them is a parameter: the tensor "a" or "w", dense. It is the same for every sample, and may differ
over b, which a linear layer's weight does not.
attrs["sizes"]: ([sizes of b], i, j, k). attrs["places"]: of a over (b, i, k), of w over (b, k, j): an offset and a stride for
each dimension, in elements of a dense value; a stride of 0 repeats. y is dense, in the order (b, i, j).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels._matrices import product
from rtaccel.kernels.matmul.streaming import STREAMING


def sizes_of(attrs: Mapping[str, Any]) -> product.Sizes:
    batch, i, j, k = attrs["sizes"]
    return tuple(batch), (i,), (j,), (k,)


def iterations(stage: Stage) -> list[tuple[product.Dims, product.Dims, Value]]:
    """(dims, place, value) of a, w and y; a parameter is a value of one row. Raises ShapeError where they do not fit."""
    return product.iterations(stage, sizes_of(stage.attrs))


def lower(stage: Stage) -> Mapping[str, Any]:
    return product.lower(stage, sizes_of(stage.attrs))


def operands(stage: Stage, *inputs: Tensor) -> list[Tensor]:
    """[M, b, i, k] and [M, b, k, j]; M is 1 for a parameter."""
    return product.operands(stage, sizes_of(stage.attrs), *inputs)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    left, right = operands(stage, *inputs)
    return ((left.double() @ right.double()).float().reshape(inputs[0].shape[0], *stage.outputs[0].shape),)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """k products and additions of float32: each rounds a partial sum, which is at most the sum of sizes."""
    left, right = operands(stage, *inputs)
    size = left.double().abs().nan_to_num(posinf=0.0) @ right.double().abs().nan_to_num(posinf=0.0)
    eps = torch.finfo(torch.float32).eps
    return Tolerance(
        atol=(eps * (stage.attrs["sizes"][3] + 2) * size + 1e-37).reshape(inputs[0].shape[0], *stage.outputs[0].shape)
    )


def make_stage(batch: tuple[int, ...], i: int, j: int, k: int, turned: str = "", rows: int = 0) -> Stage:
    """turned: "a" or "w" lie as their transposes. rows: of the values; 0 for the natural ones."""
    b = prod(batch)
    sizes = ((*batch, i, k), (*batch, k, j))
    places = []
    for name, dims in zip("aw", sizes):
        place = dense(dims)
        if name in turned:
            outer = dense((*dims[:-2], dims[-1], dims[-2]))
            place = (*outer[:-2], outer[-1], outer[-2])
        places.append(place)
    shapes = [(b * (k if "a" in turned else i), i if "a" in turned else k),
              (b * (j if "w" in turned else k), k if "w" in turned else j), (b * i, j)]  # fmt: skip
    if rows:
        shapes = [(rows, s * w // rows) for s, w in shapes]
    a, w, y = (Value(n, width, steps=steps) for n, (steps, width) in zip("awy", shapes))
    return Stage("matmul", "case", (a, w), (y,), {}, {"sizes": (batch, i, j, k), "places": tuple(places)})


def with_parameter(side: str, batch: tuple[int, ...], i: int, j: int, k: int) -> Stage:
    stage = make_stage(batch, i, j, k)
    given = dict(zip("aw", stage.inputs))
    size = given.pop(side)
    tensor = torch.randn(size.steps * size.width, generator=torch.Generator().manual_seed(i + j + k))
    return replace(stage, inputs=tuple(given.values()), tensors={side: tensor})


def _case(label: str, stage: Stage) -> Case:
    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(2, *v.shape, generator=g) for v in stage.inputs)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    sizes = [((), 1, 1, 1), ((), 3, 5, 7), ((2,), 4, 64, 32), ((3,), 7, 33, 18), ((2, 2), 5, 16, 130), ((), 1, 300, 20),
             ((4,), 17, 17, 1), ((2,), 9, 1, 40)]  # fmt: skip
    for batch, i, j, k in sizes:
        for turned in ("", "w", "a", "aw"):
            yield _case(
                f"{'x'.join(map(str, (*batch, i, j, k)))}-{turned or 'plain'}", make_stage(batch, i, j, k, turned)
            )
    for rows in (1, 2, 4, 8):
        yield _case(f"rows-{rows}", make_stage((2,), 4, 12, 8, "", rows))
        yield _case(f"rows-{rows}-turned", make_stage((2,), 4, 12, 8, "w", rows))
    for side in "aw":
        for batch, i, j, k in [((), 5, 7, 9), ((3,), 4, 33, 6), ((2, 2), 1, 16, 40), ((2,), 6, 1, 5)]:
            yield _case(
                f"parameter-{side}-{'x'.join(map(str, (*batch, i, j, k)))}", with_parameter(side, batch, i, j, k)
            )
    plain = make_stage((3,), 4, 6, 5)
    one = ((0, 0, 5, 1), (0, 30, 6, 1))  # one left side for all
    a = Value("a", 5, steps=4)
    yield _case(
        "broadcast", Stage("matmul", "case", (a, plain.inputs[1]), plain.outputs, {}, {**plain.attrs, "places": one})
    )


def cost(problem: Problem) -> Cost:
    return product.cost(sizes_of(problem.attrs), problem.rows, 2)


def packed_bytes(stage: Stage) -> int:
    return product.packed_bytes(stage, sizes_of(stage.attrs))


OPERATOR = register_operator(
    Operator(
        name="matmul",
        axes={"a": ("M", "b", "i", "k"), "w": ("M", "b", "k", "j"), "y": ("M", "b", "i", "j")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        streaming=STREAMING,
    )
)
