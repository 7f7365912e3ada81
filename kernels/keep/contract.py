"""Keep: y = x, where y is a state: the next call finds it there. float32 or int64, [M, steps, width].

initial [steps, width] constant: what the state holds before the first call, and after a reset. A native plan writes it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where x, y and the initial numbers are not of one shape and dtype."""
    x, y, initial = stage.inputs[0], stage.outputs[0], stage.tensors["initial"]
    dtype = str(initial.dtype).removeprefix("torch.")
    if (x.dtype, x.shape, dtype, initial.numel()) != (y.dtype, y.shape, y.dtype, y.steps * y.width):
        raise ShapeError(
            "keep", f"{x.dtype}{list(x.shape)}, at first {dtype}{list(initial.shape)}",
            f"{y.dtype}{list(y.shape)}", "Correct the stage.",
        )  # fmt: skip
    return {"initial": initial}


def check(what: str, stage: Stage, tensors: Mapping[str, Tensor]) -> None:
    """Raises FormatError for whole numbers that were given for real ones, or the other way round."""
    if tensors["initial"].dtype != stage.tensors["initial"].dtype:
        raise FormatError(what, f"{tensors['initial'].dtype}", f"{stage.tensors['initial'].dtype}", "Save it again.")


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    lower(stage)
    return (x.clone(),)


def make_stage(steps: int, width: int, dtype: str = "float32") -> Stage:
    drawn = torch.randn(steps, width, generator=torch.Generator().manual_seed(steps + width))
    initial = drawn if dtype == "float32" else (drawn * 1e9).long()
    values = (Value("x", width, dtype, steps=steps),), (Value("y", width, dtype, steps=steps),)
    return Stage("keep", "case", *values, {"initial": initial})


def cases() -> Iterator[Case]:
    for m, steps, width, dtype in (
        (1, 1, 1, "int64"), (1, 1, 64, "float32"), (3, 5, 7, "float32"), (2, 9, 33, "int64"), (1, 3, 600, "float32"),
    ):  # fmt: skip
        stage = make_stage(steps, width, dtype)

        def make(seed: int, m: int = m, x: Value = stage.inputs[0]) -> tuple[Tensor, ...]:
            drawn = torch.randn(m, *x.shape, generator=torch.Generator().manual_seed(seed))
            return (drawn if x.dtype == "float32" else (drawn * 1e9).long(),)

        yield Case(f"M{m}-{dtype}-{steps}x{width}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=elements * (16 if problem.out_dtypes[0] == "int64" else 8), flops=0)


OPERATOR = register_operator(
    Operator(
        name="keep",
        axes={"x": ("M", "steps", "width"), "initial": ("steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        check=check,
        make_stage=make_stage,
        role=Role.KEEP,
    )
)
