"""What follows from the singular values of small matrices a [rows, columns]; [M, steps, width] each, computed in float64.

attrs["kind"]:

- "values": the singular values, from the largest one on: y [count * k] with k = min(rows, columns).
- "pinv": y = v s^-1 u^T of a = u s v^T, the pseudoinverse [count * columns * rows].
- "least": y = v s^-1 u^T b, the solution [count * columns * right] of a y = b with the least squares. Of several it is the one
  that is least itself. b [count * rows * right].

attrs["rows"], attrs["columns"]: the smaller one is 64 at most. attrs["right"]: columns of b, 1 where there is none.
attrs["rtol"], attrs["atol"]: singular values up to max(atol, rtol * the largest) count as 0. attrs["mirrored"]: 1 where a is
symmetric and the lower triangle is all that is read of it. attrs["count"]: matrices of a sample, one behind the other, by rows.
tensors["a"] or tensors["b"]: a constant in place of the input, of one sample.

A matrix with an infinity has results of NaN. FormatError: a matrix with a NaN, as torch has it; singular values that are not
found in 75 steps each, which no finite matrix is known to need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._matrices import matrices

KINDS = ("values", "pinv", "least")
SIZES = ("rows", "columns", "right", "count")


def shapes(stage: Stage) -> matrices.Shapes:
    rows, columns, right, count = matrices.attributes(stage, *SIZES)
    return {"a": (count, rows, columns)} | ({"b": (count, rows, right)} if stage.attrs["kind"] == "least" else {})


def _result(kind: str, rows: int, columns: int, right: int, count: int) -> tuple[int, ...]:
    made = {"values": (min(rows, columns),), "pinv": (columns, rows), "least": (columns, right)}
    return (count, *made[kind])


def lower(stage: Stage) -> Mapping[str, Any]:
    kind, mirrored = matrices.attributes(stage, "kind", "mirrored")
    rows, columns, right, count = matrices.attributes(stage, *SIZES)
    if kind not in KINDS:
        raise FormatError("svd", f"kind {kind!r}", ", ".join(KINDS), "Name one of these.")
    matrices.check_within("svd", rows, columns, count=count)
    if not 1 <= right <= matrices.MAX_COLUMNS or (mirrored and rows != columns):
        given = f"{rows} x {columns}, {right} right sides, mirrored {mirrored}"
        raise ShapeError("svd", given, f"1..{matrices.MAX_COLUMNS}, and a square to mirror", "Correct the stage.")
    matrices.check(stage, shapes(stage), {"y": _result(kind, rows, columns, right, count)})
    sizes = {"rows": rows, "columns": columns, "right": right, "count": count}
    limits = {name: float(stage.attrs[name]) for name in ("rtol", "atol")}
    return {"kind": kind, "mirrored": int(mirrored), **sizes, **limits, **matrices.constants(stage)}


def _limits(stage: Stage) -> dict[str, float]:
    """As float32 has them."""
    return {name: float(torch.tensor(stage.attrs[name])) for name in ("rtol", "atol")}


def _exact(stage: Stage, inputs: tuple[Tensor, ...]) -> Tensor:
    """[M, count, ..] in float64."""
    given, kind = matrices.operands(stage, inputs, shapes(stage)), stage.attrs["kind"]
    a = matrices.mirrored(given["a"]) if stage.attrs["mirrored"] else given["a"]
    if bool(a.isnan().any()):
        raise FormatError("svd", "a matrix with a NaN", "numbers", "Mend the input.")
    rows, columns = a.shape[-2:]
    if kind == "values":
        return matrices.per_matrix(a, torch.linalg.svdvals, (min(rows, columns),))
    inverse = matrices.per_matrix(a, lambda t: torch.linalg.pinv(t, **_limits(stage)), (columns, rows))
    return inverse if kind == "pinv" else inverse @ given["b"]


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    lower(stage)
    return (matrices.result(stage, 0, _exact(stage, inputs), len(inputs[0])),)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """The result rounds once. In float64 values are off by units of the largest one, and an inverse by that of its squares."""
    y, given = _exact(stage, inputs), matrices.operands(stage, inputs, shapes(stage))
    unit = 16 * (8 + max(given["a"].shape[-2:])) * matrices.EPS_64
    if stage.attrs["kind"] == "values":
        off = unit * y.amax(-1, keepdim=True)
    else:
        most = torch.linalg.matrix_norm(given["a"], 2)[..., None, None]
        inverse = torch.linalg.matrix_norm(torch.linalg.pinv(given["a"], **_limits(stage)), 2)[..., None, None]
        off = unit * most * inverse * inverse
        if stage.attrs["kind"] == "least":
            off = off * torch.linalg.matrix_norm(given["b"])[..., None, None]
    return Tolerance(atol=(y.abs() * matrices.EPS / 2 + off).reshape(len(inputs[0]), *stage.outputs[0].shape))


def make_stage(kind: str, rows: int, columns: int, count: int = 1, right: int = 1, constant: str = "", rtol: float = 1e-5,
               atol: float = 0.0, mirrored: int = 0) -> Stage:  # fmt: skip
    """constant: "a" or "b", which then is one."""
    attrs = {"kind": kind, "rows": rows, "columns": columns, "right": right, "count": count, "rtol": rtol, "atol": atol,
             "mirrored": mirrored}  # fmt: skip
    wanted = shapes(Stage("svd", "case", (), (), {}, attrs))
    g = torch.Generator().manual_seed(rows)
    tensors = {name: matrices.random(g, "normal", *shape) for name, shape in wanted.items() if name == constant}
    inputs = matrices.values({name: shape for name, shape in wanted.items() if name not in tensors})
    return Stage(
        "svd", "case", inputs, matrices.values({"y": _result(kind, rows, columns, right, count)}), tensors, attrs
    )


def cases() -> Iterator[Case]:
    sizes = (
        (1, 1, 3),
        (2, 2, 1),
        (3, 3, 2),
        (6, 2, 1),
        (2, 7, 2),
        (7, 7, 1),
        (17, 5, 1),
        (5, 33, 1),
        (33, 33, 1),
        (64, 64, 1),
    )
    stages = [(f"{k}-{r}x{c}-x{count}", make_stage(k, r, c, count, 2)) for k in KINDS for r, c, count in sizes]
    stages.append(("least-constant-a", make_stage("least", 5, 3, 1, 3, "a")))
    stages.append(("least-constant-b", make_stage("least", 3, 5, 2, 1, "b")))
    stages += [
        ("values-mirrored", make_stage("values", 5, 5, mirrored=1)),
        ("least-many", make_stage("least", 4, 2, 1, 19)),
    ]
    yield from matrices.cases(iter(stages), matrices.KINDS, shapes)


def cost(problem: Problem) -> Cost:
    rows, columns, right, count = (problem.attrs[name] for name in SIZES)
    least = min(rows, columns)
    each = least * least * (4 * max(rows, columns) + 30) * (1 if problem.attrs["kind"] == "values" else 3)
    more = 2 * rows * columns * right if problem.attrs["kind"] == "least" else 0
    return Cost(bytes=matrices.moved(problem), flops=problem.rows * count * (each + more))


OPERATOR = register_operator(
    Operator(
        name="svd",
        axes=dict.fromkeys(("a", "b", "y"), ("M", "steps", "width")),
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=lambda stage: sum(8 * prod(t.shape) for t in stage.tensors.values()),
        by_row=False,
    )
)
