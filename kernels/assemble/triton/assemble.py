"""Assemble in Triton: each element of y looks which part it lies in, and reads it; one launch for any number of parts.

Where the strides of a part in y are nested (each is larger than all that lies inside it), the indices come from the number of the
element by division. For the others there is a table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common.strides import elements
from rtaccel.kernels._general.triton_places import address, nested
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.assemble import contract


def text(stage: Stage) -> Text:
    y = stage.outputs[0]
    made = Text(y.steps * y.width, stage.inputs, y)
    dtype = "tl.int64" if y.dtype == "int64" else "tl.float32"
    fill = stage.attrs.get("fill", 0.0)
    plain = (
        repr(int(fill)) if y.dtype == "int64" else repr(float(fill)) if abs(fill) < float("inf") else f'float("{fill}")'
    )
    made.add(f"y = tl.full((BLOCK_M, BLOCK_N), {plain}, {dtype})")
    for i, (dims, source, target) in enumerate(contract.parts(stage)):
        index: int | None = i
        if i >= len(stage.inputs):
            made.keep(f"v{i}", contract._constants(stage)[i - len(stage.inputs)])
            index = None
        found = nested(dims, source, target)
        if found is None:
            table = np.full(made.n, -1, dtype=np.int32)
            table[elements(dims, target)] = elements(dims, source)
            made.table(f"table{i}", table)
            made.add(f"at = tl.load(table{i}_ptr + e, mask=e < N, other=-1)", "here = inside & (at >= 0)")
            at = "at"
        else:
            sizes, source, target = found
            made.add(f"left = e - {target[0]}", f"here = inside & (e >= {target[0]})")
            for d, (size, wide) in enumerate(zip(sizes, target[1:])):
                made.add(f"d{d} = left // {wide}" if wide > 1 else f"d{d} = left", f"here = here & (d{d} < {size})")
                if wide > 1:
                    made.add(f"left = left % {wide}")
            if target[-1] > 1:
                made.add("here = here & (left == 0)")
            at = address(source, "d")
        made.read(f"v{i}", index, at, "here")
        made.add(f"y = tl.where(here, v{i}, y)")
    return made


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    return text(stage).specialize(f"assemble_{len(stage.attrs['parts'])}", problem.rows)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """Inputs [M, steps, width] -> y [M, steps, width]; any M."""
    return text(stage).launcher(stage, specialize(stage, problem), problem.device)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    x, other, y = Value("x", 96, steps=64), Value("o", 32, steps=64), Value("y", 128, steps=64)
    parts = (((64, 96), (0, 96, 1), (0, 128, 1)), ((64, 32), (0, 32, 1), (96, 128, 1)))
    stage = Stage("assemble", "columns", (x, other), (y,), {}, {"parts": parts})
    yield specialize(stage, Problem.of(stage, 1, "cuda"))


register_impl(Impl("assemble", "triton_parts", "triton", 10, too_large, prepare))
