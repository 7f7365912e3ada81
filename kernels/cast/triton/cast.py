"""Cast in Triton: float32 of the halves that a graph is given, and halves of its results.

bfloat16 is moved and rounded in whole numbers: the interpreter does both otherwise than a card.
"""

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
    if stage.inputs[0].dtype == "bfloat16":
        made.add("y = (x0.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)")
    elif value.dtype == "bfloat16":
        made.add(
            "bits = x0.to(tl.uint32, bitcast=True)",
            "rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16",
            "high = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, (bits >> 16) | 0x40, rounded)",  # NaN stays NaN
            "y = high.to(tl.uint16).to(tl.bfloat16, bitcast=True)",
        )
    else:
        made.add(f"y = x0.to(tl.{value.dtype})")
    return made


def name(source: str, result: str) -> str:
    return f"cast_{source}_{result}"


def specializations() -> Iterator[Specialisation]:
    for half in contract.HALVES:
        for kinds in ((half, "float32"), ("float32", half)):
            yield text(contract.make_stage((1, 131), kinds[0], (1, 131), kinds[1])).specialize(name(*kinds), 1)


def supports(problem: Problem) -> str | None:
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    made = text(stage)
    kinds = stage.inputs[0].dtype, stage.outputs[0].dtype
    return made.launcher(stage, made.specialize(name(*kinds), problem.rows), problem.device)


register_impl(Impl("cast", "triton_cast", "triton", 10, supports, prepare))
