"""Position in Triton: x and a table that all samples share."""

from __future__ import annotations

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.position import contract


def text(stage: Stage) -> Text:
    y = stage.outputs[0]
    made = Text(y.steps * y.width, stage.inputs, y)
    made.keep("table", contract.lower(stage)["table"])
    made.read("x", 0, "e")
    made.read("table", None, "e", "e < N")
    made.add("y = x + table")
    return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, T, C] -> y [M, T, C]; any M."""
    made = text(stage)
    return made.launcher(stage, made.specialize("position", problem.rows), problem.device)


def supports(problem: Problem) -> str | None:
    return "takes no stream" if problem.attrs.get("stream") else too_large(problem)


register_impl(Impl("position", "triton_table", "triton", 10, supports, prepare))
