"""Solve: systems of linear equations with small matrices a [n, n]; [M, steps, width] each, computed in float64.

attrs["kind"]:

- "solve": y = a^-1 b, by Gaussian elimination with the largest pivot of each column (the first of equal ones).
- "inverse": y = a^-1, the same with b = 1.
- "pivots": the pivots of that elimination, the first with the sign of the row exchanges: their product is the determinant.
- "cholesky": y = the lower triangle with y y^T = a; the upper triangle of a is not read.
- "factored": y = (a a^T)^-1 b of a lower triangle a, as "cholesky" gives it.
- "lower", "upper": y = a^-1 b of a triangular a; the other triangle is not read.
- "unit lower", "unit upper": the same with ones on the diagonal.

attrs["n"], attrs["columns"] (of b, 1 where there is none), attrs["count"]: matrices of a sample. They lie one behind the other
and by rows: a [count * n * n], b and y of a solution [count * n * columns], an inverse and a triangle as a, pivots [count * n].
tensors["a"] or tensors["b"]: a constant in place of the input, of one sample.

"solve" and "inverse" raise FormatError for a matrix with a pivot of 0, and "cholesky" for one that is not positive definite, as
torch does. The others divide by 0 where torch does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._matrices import matrices

SYSTEMS = ("solve", "lower", "upper", "unit lower", "unit upper", "factored")
KINDS = (*SYSTEMS, "inverse", "pivots", "cholesky")
MAX_N = matrices.MAX_N


def _sizes(stage: Stage) -> tuple[str, int, int, int]:
    """(kind, n, columns, count). Raises a typed error where the values do not fit."""
    attrs = stage.attrs
    kind, n, columns, count = attrs["kind"], attrs["n"], attrs["columns"], attrs["count"]
    if kind not in KINDS:
        raise FormatError("solve", f"kind {kind!r}", ", ".join(KINDS), "Name one of these.")
    matrices.check_within("solve", n, count=count)
    matrices.check_within("solve", columns, count=count, most=matrices.MAX_COLUMNS)
    result = columns if kind in SYSTEMS else 1 if kind == "pivots" else n
    matrices.check(stage, _shapes(stage), {"y": (count, n, result)})
    return kind, n, columns, count


def _shapes(stage: Stage) -> matrices.Shapes:
    n, columns, count = matrices.attributes(stage, "n", "columns", "count")
    return {"a": (count, n, n)} | ({"b": (count, n, columns)} if stage.attrs["kind"] in SYSTEMS else {})


def lower(stage: Stage) -> Mapping[str, Any]:
    kind, n, columns, count = _sizes(stage)
    return {"kind": kind, "n": n, "columns": columns, "count": count, **matrices.constants(stage)}


def _operands(stage: Stage, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """a [M, count, n, n] and b [M, count, n, columns] in float64."""
    _sizes(stage)
    return matrices.operands(stage, inputs, _shapes(stage))


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    kind = stage.attrs["kind"]
    given = _operands(stage, inputs)
    a, b = given["a"], given.get("b")
    try:
        if kind == "solve":
            y = torch.linalg.solve(a, b)
        elif kind == "inverse":
            y = torch.linalg.inv(a)
        elif kind == "pivots":
            turns, _, upper = torch.linalg.lu(a)
            y = upper.diagonal(dim1=-2, dim2=-1).clone()
            y[..., 0] *= torch.linalg.det(turns)
        elif kind == "cholesky":
            y = torch.linalg.cholesky(a)
        elif kind == "factored":
            y = torch.cholesky_solve(b, a)
        else:
            y = torch.linalg.solve_triangular(a, b, upper=kind.endswith("upper"), unitriangular=kind.startswith("unit"))
    except RuntimeError as error:  # torch's LinAlgError
        raise FormatError("solve", str(error), EXPECTED[kind], "Mend the input.") from error
    return (y.float().reshape(len(a), *stage.outputs[0].shape),)


EXPECTED = dict.fromkeys(KINDS, "a matrix that has an inverse") | {"cholesky": "a positive definite matrix"}


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """The result rounds once. The elimination is in float64: its error is some n * cond units of the largest result."""
    a = _operands(stage, inputs)["a"]
    worst = (
        float(torch.linalg.cond(a).max()) ** (2 if stage.attrs["kind"] == "factored" else 1)
        * a.shape[-1]
        * 8
        * torch.finfo(torch.float64).eps
    )
    y = reference(stage, *inputs)[0].double()
    return Tolerance(atol=y.abs() * torch.finfo(torch.float32).eps + min(worst, 1e-4) * float(y.abs().max()))


def make_stage(kind: str, n: int, columns: int = 1, count: int = 1, constant: str = "") -> Stage:
    """constant: "a" or "b", which then is one."""
    generator = torch.Generator().manual_seed(n)
    sizes = {"a": n} | ({"b": columns} if kind in SYSTEMS else {})
    tensors = {
        name: _matrix(generator, 1, count, n, width, kind, name)[0] for name, width in sizes.items() if name == constant
    }
    inputs = tuple(Value(name, width, steps=count * n) for name, width in sizes.items() if name not in tensors)
    width = columns if kind in SYSTEMS else 1 if kind == "pivots" else n
    attrs = {"kind": kind, "n": n, "columns": columns, "count": count}
    return Stage("solve", "case", inputs, (Value("y", width, steps=count * n),), tensors, attrs)


def _matrix(g: torch.Generator, samples: int, count: int, n: int, width: int, kind: str, name: str) -> Tensor:
    x = torch.randn(samples, count, n, width, generator=g)
    if name == "a" and kind == "cholesky":
        x = x @ x.mT + 0.1 * torch.eye(n)
    elif name == "a" and kind not in ("solve", "inverse", "pivots"):
        x = x / (2 * n) + torch.eye(n)
    return x.reshape(samples, count * n, width)


def _feed(stage: Stage, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Random matrices with a large diagonal: positive definite where their lower triangle is all that is read."""
    if "a" in stage.tensors:
        return inputs
    _, n, _, count = _sizes(stage)
    a = inputs[0].reshape(-1, count, n, n) + 2 * n * torch.eye(n, device=inputs[0].device)
    return (a.reshape(inputs[0].shape), *inputs[1:])


def cases() -> Iterator[Case]:
    for kind in KINDS:
        for n, columns, count in ((1, 1, 1), (2, 1, 3), (3, 3, 2), (4, 2, 1), (7, 5, 2), (17, 1, 1), (33, 19, 1)):
            for constant in ("", "a", "b") if kind in SYSTEMS and n in (3, 7) else ("",):
                stage = make_stage(kind, n, columns, count, constant)

                def make(seed: int, stage: Stage = stage) -> tuple[Tensor, ...]:
                    g = torch.Generator().manual_seed(seed)
                    attrs = stage.attrs
                    return tuple(
                        _matrix(g, 3, attrs["count"], attrs["n"], v.width, attrs["kind"], v.name).reshape(3, *v.shape)
                        for v in stage.inputs
                    )

                yield Case(
                    f"{kind}-n{n}-{columns}-x{count}{constant and '-constant-' + constant}".replace(" ", "-"),
                    stage,
                    make,
                )


def cost(problem: Problem) -> Cost:
    n, columns, count = (problem.attrs[name] for name in ("n", "columns", "count"))
    return Cost(bytes=matrices.moved(problem), flops=problem.rows * count * n * n * (n // 3 + columns + 1))


OPERATOR = register_operator(
    Operator(
        name="solve",
        axes={"a": ("M", "steps", "width"), "b": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=lambda stage: sum(8 * prod(t.shape) for t in stage.tensors.values()),
        by_row=False,
        feed=_feed,
    )
)
