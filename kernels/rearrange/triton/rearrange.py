"""Rearrange in Triton: each element of y by a table of rows, or of elements, that all samples share."""

from __future__ import annotations

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.rearrange import contract


def text(stage: Stage) -> Text:
    low, y = contract.lower(stage), stage.outputs[0]
    made = Text(y.steps * y.width, stage.inputs, y)
    made.table("table", low["table"])
    if low["by_row"]:
        made.add(f"row = tl.load(table_ptr + e // {y.width}, mask=e < N, other=0)")
        made.read("y", 0, f"row.to(tl.int64) * {y.width} + e % {y.width}")
    else:
        made.add("at = tl.load(table_ptr + e, mask=e < N, other=0)")
        made.read("y", 0, "at")
    return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, out steps, out width]; any M."""
    made = text(stage)
    return made.launcher(stage, made.specialize("rearrange", problem.rows), problem.device)


register_impl(Impl("rearrange", "triton_table", "triton", 10, too_large, prepare))
