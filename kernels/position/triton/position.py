"""Position in Triton: x and a table that all samples share; in a stream, the row of the table that the step has."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.position import contract
from rtaccel.kernels.table_row.triton import rows


def text(stage: Stage) -> Text:
    y = stage.outputs[0]
    made = Text(y.steps * y.width, stage.inputs, y)
    made.keep("table", contract.lower(stage)["table"])
    made.read("x", 0, "e")
    made.read("table", None, "e", "e < N")
    made.add("y = x + table")
    return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, T, C] -> y [M, T, C]; any M. In a stream x [M, C] and count [M, 1] -> y [M, C] and count + 1."""
    if contract.is_stream(stage):
        step = rows.counted("position", contract.lower(stage)["table"], problem, adds=True)
        return lambda x, count: step(count, x)
    made = text(stage)
    return made.launcher(stage, made.specialize("position", problem.rows), problem.device)


def supports(problem: Problem) -> str | None:
    return rows.supports(problem) if problem.attrs.get("stream") else too_large(problem)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    yield rows.specialize(contract.make_stage(512, 64, stream=True).tensors["table"], 1024, adds=True)


register_impl(Impl("position", "triton_table", "triton", 10, supports, prepare))
