"""QR: a = q r with q^T q = 1 and an upper triangle r, of small matrices a [rows, columns]; [M, steps, width] each, computed in
float64.

attrs["gives"]: "q,r", "q" or "r", the outputs. attrs["rows"], attrs["columns"]: the smaller one is 64 at most.
attrs["complete"]: 1 where q is square, [rows, rows] and r [rows, columns]. Without it they are [rows, k] and [k, columns] with
k = min(rows, columns). attrs["count"]: matrices of a sample, one behind the other and by rows.

Signs are those of LAPACK's reflections. The number of a row of r on the diagonal has the other sign than the number there before
its reflection. It stays as it is where all below it is 0, as in the last row of a square matrix.

A matrix with a number that is not finite has factors of NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._matrices import matrices

GIVES = ("q,r", "q", "r")


def results(rows: int, columns: int, count: int, complete: int, gives: str) -> matrices.Shapes:
    inner = rows if complete else min(rows, columns)
    made = {"q": (count, rows, inner), "r": (count, inner, columns)}
    return {name: made[name] for name in gives.split(",")}


def lower(stage: Stage) -> Mapping[str, Any]:
    rows, columns, count, complete, gives = matrices.attributes(stage, "rows", "columns", "count", "complete", "gives")
    if gives not in GIVES:
        raise FormatError("qr", f"gives {gives!r}", ", ".join(GIVES), "Name one of these.")
    matrices.check_within("qr", rows, columns, count=count)
    matrices.check(stage, matrices.rectangles(stage), results(rows, columns, count, complete, gives))
    return {"rows": rows, "columns": columns, "count": count, "complete": int(complete), "gives": gives}


def _factors(stage: Stage, a: Tensor) -> dict[str, Tensor]:
    """q and r in float64, [M, count, ..]."""
    low = lower(stage)
    wide = matrices.operands(stage, (a,), matrices.rectangles(stage))["a"]
    q, r = torch.linalg.qr(wide.nan_to_num(0, 0, 0), mode="complete" if low["complete"] else "reduced")
    unknown = ~wide.isfinite().all(-1).all(-1)[..., None, None]
    nan = torch.full_like(r, float("nan")).triu()
    return {"q": q.masked_fill(unknown, float("nan")), "r": torch.where(unknown, nan, r)}


def reference(stage: Stage, a: Tensor) -> tuple[Tensor, ...]:
    found = _factors(stage, a)
    return tuple(
        matrices.result(stage, i, found[name], len(a)) for i, name in enumerate(stage.attrs["gives"].split(","))
    )


def tolerance(stage: Stage, a: Tensor) -> Tolerance:
    """The result rounds once. The factors of a matrix near a are off by the condition of its first columns."""
    low, wide = lower(stage), matrices.operands(stage, (a,), matrices.rectangles(stage))["a"]
    worst = float(torch.linalg.cond(wide[..., : min(low["rows"], low["columns"])]).max())
    largest = max(1.0, float(torch.linalg.vector_norm(wide, dim=-2).max()))
    return Tolerance(atol=largest * (matrices.EPS / 2 + worst * 8 * max(wide.shape[-2:]) * matrices.EPS_64))


def make_stage(rows: int, columns: int, gives: str = "q,r", complete: int = 0, count: int = 1) -> Stage:
    attrs = {"rows": rows, "columns": columns, "count": count, "complete": complete, "gives": gives}
    made = matrices.values(results(rows, columns, count, complete, gives))
    return Stage("qr", "case", matrices.values({"a": (count, rows, columns)}), made, {}, attrs)


SIZES = ((1, 1), (2, 2), (3, 3), (6, 2), (2, 5), (7, 7), (17, 4), (5, 19), (33, 33), (130, 3))


def _stages() -> Iterator[tuple[str, Stage]]:
    for rows, columns in SIZES:
        for gives in GIVES:
            for complete in (0, 1) if rows > columns else (0,):
                count = 3 if rows < 4 else 1
                label = f"{rows}x{columns}-{gives.replace(',', '')}-x{count}{'-complete' * complete}"
                yield label, make_stage(rows, columns, gives, complete, count)


def cases() -> Iterator[Case]:
    """Of matrices whose factors are no matter of rounding."""
    yield from matrices.cases(_stages(), ("normal", "diagonal"), matrices.rectangles)


def cost(problem: Problem) -> Cost:
    rows, columns, count = (problem.attrs[name] for name in ("rows", "columns", "count"))
    each = 2 * min(rows, columns) ** 2 * max(rows, columns) * (2 if "q" in problem.attrs["gives"] else 1)
    return Cost(bytes=matrices.moved(problem), flops=problem.rows * count * each)


OPERATOR = register_operator(
    Operator(
        name="qr",
        axes=dict.fromkeys(("a", "q", "r"), ("M", "steps", "width")),
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
    )
)
