"""Concat in Triton: each column of y looks which value it comes from."""

from __future__ import annotations

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large


def text(stage: Stage) -> Text:
    y = stage.outputs[0]
    made, start = Text(y.width, stage.inputs, y), 0
    made.add("y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)")
    for i, value in enumerate(stage.inputs):
        made.add(f"here = inside & (e >= {start}) & (e < {start + value.width})")
        made.read(f"v{i}", i, f"e - {start}", "here")
        made.add(f"y = tl.where(here, v{i}, y)")
        start += value.width
    return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x_i float32 [M, C_i] -> y [M, C]; any M."""
    stage = stage.matrices()
    made = text(stage)
    return made.launcher(stage, made.specialize("concat", problem.matrix_rows), problem.device)


register_impl(Impl("concat", "triton_columns", "triton", 10, too_large, prepare))
