"""Cast in Triton: float32 of the halves that a graph is given. The other way is torch's own call."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.cast import contract


def text(stage: Stage) -> Text:
    contract.lower(stage)
    value = stage.outputs[0]
    made = Text(value.steps * value.width, stage.inputs, value)
    made.read("x0", 0, "e")
    made.add("y = x0.to(tl.float32)")
    return made


def specializations() -> Iterator[Specialisation]:
    for half in contract.HALVES:
        yield text(contract.make_stage((1, 131), half, (1, 131), "float32")).specialize(f"cast_{half}", 1)


def supports(problem: Problem) -> str | None:
    if problem.out_dtypes[0] != "float32":
        return f"gives {problem.out_dtypes[0]}, and the kernel float32"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    made = text(stage)
    name = f"cast_{stage.inputs[0].dtype}"
    return made.launcher(stage, made.specialize(name, problem.rows), problem.device)


register_impl(Impl("cast", "triton_cast", "triton", 10, supports, prepare))
