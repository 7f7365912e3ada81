"""LU: a = p l u with a permutation p, a lower triangle l with ones on its diagonal and an upper triangle u, of small matrices
a [rows, columns]; [M, steps, width] each, computed in float64.

attrs["gives"]: some of "p,l,u,lu,pivots" in this order, the outputs. With k = min(rows, columns) they are p [rows, rows],
l [rows, k], u [k, columns], lu [rows, columns] (l below the diagonal and u from it on) and pivots [k], int64: the row that was
exchanged with each row, counted from 1. attrs["rows"], attrs["columns"]: the smaller one is 64 at most. attrs["refuses"]: 1
where a matrix with a pivot of 0 is a FormatError. attrs["count"]: matrices of a sample, one behind the other and by rows.

The largest pivot of a column is taken, the first of equal ones. A NaN is smaller than any number: a pivot only where it is on the
diagonal. A column whose pivot is 0 stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._matrices import matrices

PARTS = ("p", "l", "u", "lu", "pivots")


def results(rows: int, columns: int, count: int, gives: str) -> matrices.Shapes:
    least = min(rows, columns)
    made = {
        "p": (count, rows, rows), "l": (count, rows, least), "u": (count, least, columns), "lu": (count, rows, columns),
        "pivots": (count, least),
    }  # fmt: skip
    return {name: made[name] for name in gives.split(",")}


def lower(stage: Stage) -> Mapping[str, Any]:
    rows, columns, count, gives, refuses = matrices.attributes(stage, "rows", "columns", "count", "gives", "refuses")
    names = gives.split(",")
    if [name for name in PARTS if name in names] != names:
        raise FormatError("lu", f"gives {gives!r}", ",".join(PARTS), "Name some of these, in this order.")
    matrices.check_within("lu", rows, columns, count=count)
    matrices.check(stage, matrices.rectangles(stage), results(rows, columns, count, gives), whole=("pivots",))
    given = sum(1 << i for i, name in enumerate(PARTS) if name in names)
    return {"rows": rows, "columns": columns, "count": count, "parts": given, "refuses": int(refuses)}


def factored(a: Tensor) -> tuple[Tensor, Tensor]:
    """(l and u in one, pivots) of a [.., rows, columns]."""
    a, least = a.clone(), min(a.shape[-2:])
    pivots = torch.empty(*a.shape[:-2], least, dtype=torch.int64, device=a.device)
    row = torch.arange(a.shape[-2], device=a.device)
    for k in range(least):
        size = a[..., k:, k].abs()
        size = torch.where(size.isnan(), -1.0, size)
        size[..., 0] = torch.where(a[..., k, k].isnan(), torch.inf, size[..., 0])
        best = k + (size == size.amax(-1, keepdim=True)).to(torch.int8).argmax(-1, keepdim=True)
        pivots[..., k : k + 1] = best + 1
        order = torch.where(row == k, best, torch.where(row == best, k, row))
        a = a.gather(-2, order[..., None].expand(a.shape))
        pivot = a[..., k : k + 1, k : k + 1]
        factor = a[..., k + 1 :, k : k + 1] / pivot
        a[..., k + 1 :, k + 1 :] -= torch.where(pivot == 0, 0.0, factor * a[..., k : k + 1, k + 1 :])
        a[..., k + 1 :, k : k + 1] = torch.where(pivot == 0, a[..., k + 1 :, k : k + 1], factor)
    return a, pivots


def _parts(stage: Stage, a: Tensor) -> dict[str, Tensor]:
    wide = matrices.operands(stage, (a,), matrices.rectangles(stage))["a"]
    both, pivots = factored(wide)
    rows, least = both.shape[-2], pivots.shape[-1]
    if stage.attrs["refuses"] and bool((both.diagonal(dim1=-2, dim2=-1) == 0).any()):
        raise FormatError("lu", "a matrix with a pivot of 0", "a matrix that has an inverse", "Mend the input.")
    unit = torch.eye(rows, least, dtype=wide.dtype, device=a.device)
    order = torch.arange(rows, device=a.device).expand(*wide.shape[:2], rows).clone()
    for k in range(least):
        best = pivots[..., k : k + 1] - 1
        one, other = order[..., k : k + 1].clone(), order.gather(-1, best)
        order.scatter_(-1, best, one)
        order[..., k : k + 1] = other
    turned = torch.nn.functional.one_hot(order, rows).to(wide.dtype).mT
    lower_part = both[..., :least]
    below = torch.ones(rows, least, dtype=torch.bool, device=a.device).tril(-1)
    upper_part, above = (
        both[..., :least, :],
        torch.ones(least, both.shape[-1], dtype=torch.bool, device=a.device).triu(),
    )
    return {
        "p": turned, "l": torch.where(below, lower_part, unit), "u": torch.where(above, upper_part, 0.0), "lu": both,
        "pivots": pivots,
    }  # fmt: skip


def reference(stage: Stage, a: Tensor) -> tuple[Tensor, ...]:
    lower(stage)
    names = stage.attrs["gives"].split(",")
    found = _parts(stage, a)
    return tuple(
        found[name].reshape(len(a), *stage.outputs[i].shape) if name == "pivots"
        else matrices.result(stage, i, found[name], len(a))
        for i, name in enumerate(names)
    )  # fmt: skip


def tolerance(stage: Stage, a: Tensor) -> Tolerance:
    """The result rounds once: the elimination is the same operations in the same order."""
    found = _parts(stage, a)
    most = max(float(found[name].abs().nan_to_num(0, 0, 0).max()) for name in ("l", "u"))
    return Tolerance(atol=max(1.0, most) * 64 * matrices.EPS_64)


def make_stage(rows: int, columns: int, gives: str = "p,l,u", count: int = 1, refuses: int = 0) -> Stage:
    attrs = {"rows": rows, "columns": columns, "count": count, "gives": gives, "refuses": refuses}
    made = tuple(
        Value(v.name, v.width, "int64" if v.name == "pivots" else "float32", steps=v.steps)
        for v in matrices.values(results(rows, columns, count, gives))
    )
    return Stage("lu", "case", matrices.values({"a": (count, rows, columns)}), made, {}, attrs)


def cases() -> Iterator[Case]:
    sizes = ((1, 1, 3), (2, 2, 1), (3, 3, 2), (6, 2, 1), (2, 7, 2), (7, 7, 1), (17, 5, 1), (33, 33, 1))
    stages = (
        (f"{r}x{c}-{gives.replace(',', '')}-x{count}", make_stage(r, c, gives, count))
        for r, c, count in sizes
        for gives in ("p,l,u", "lu,pivots", "u")
    )
    yield from matrices.cases(stages, ("normal", "zero", "low rank", "diagonal", "large"), matrices.rectangles)


def cost(problem: Problem) -> Cost:
    rows, columns, count = (problem.attrs[name] for name in ("rows", "columns", "count"))
    least = min(rows, columns)
    return Cost(bytes=matrices.moved(problem), flops=problem.rows * count * least * rows * columns)


OPERATOR = register_operator(
    Operator(
        name="lu",
        axes=dict.fromkeys(("a", "p", "l", "u", "lu", "pivots"), ("M", "steps", "width")),
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
    )
)
