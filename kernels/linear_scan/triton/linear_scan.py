"""Linear scan in Triton: a program walks some lines together, step after step, with h in registers.

A step waits for the loads of its own a and b alone, which do not depend on h. Its source is made for the strides of each stage.
In a stream h comes from the step before, and goes to the next one beside y; it may stay where it lies. Where h is in float64, so
are its bits in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general import triton_lines as lines
from rtaccel.kernels._general.triton_source import digest, kernel_of
from rtaccel.kernels._general.triton_tile import POINTERS, require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from rtaccel.kernels.linear_scan import contract

MAX_LINES = 128
"""Of a program."""

STATES = ("before", "after")


def specialize(stage: Stage, rows: int) -> Specialisation:
    dims, places = contract.geometry(stage)
    kept, count, steps, y = len(dims) - 1, prod(dims[:-1]), dims[-1], stage.outputs[0]
    constant = "a" in stage.tensors
    a, b = (None, stage.inputs[0]) if constant else stage.inputs[:2]
    found = {name: lines.place(dims, kept, place, "k", "o", name) for name, place in zip("aby", places)}
    own = [line for part in found.values() for line in part[0]]
    along = [line for part in found.values() for line in part[1]]
    sample = {"a": 0 if a is None else a.steps * a.width, "b": b.steps * b.width, "y": y.steps * y.width}
    stream, wide = contract.is_stream(stage), contract.is_wide(stage)
    widened = ".to(tl.float64)" if wide else ""
    bits = "h.to(tl.int64, bitcast=True)" if wide else "h"
    pointers = {
        name: POINTERS[contract.state_dtype(stage) if name in STATES else "float32"] for name in (*"aby", *STATES)
    }
    states = STATES if stream else ()
    places_of = {**found, **dict.fromkeys(states, found["y"])}
    sample |= dict.fromkeys(states, sample["y"])
    arguments = ", ".join(f"{name}_ptr" for name in places_of)
    text = text_of([
        f"def kernel({arguments}, rows, LINES: tl.constexpr, OVER: tl.constexpr, BLOCK_R: tl.constexpr):",
        *lines.rows(count), *own,
        *(f"of_{name} = {name}_ptr + m * {sample[name]} + {part[2]}" for name, part in places_of.items()),
        f"h = tl.load(of_before, mask=there, other={0 if wide else 0.0})" if stream
        else f"h = tl.zeros((BLOCK_R, 1), tl.float{64 if wide else 32})",
        *(["h = h.to(tl.float64, bitcast=True)"] if stream and wide else []),
        "for o in range(0, OVER):",
        *(f"    {line}" for line in along),
        *(f"    {name} = tl.load(of_{name} + {found[name][3]}, mask=there, other=0.0){widened}" for name in "ab"),
        "    h = a * h + b",
        f"    tl.store(of_y + {found['y'][3]}, h, mask=there)",
        *([f"tl.store(of_after, {bits}, mask=there)"] if stream else []),
    ])  # fmt: skip
    form = "".join(f"{word}_" for word, there in (("constant", constant), ("wide", wide), ("step", stream)) if there)
    block = min(MAX_LINES, triton.next_power_of_2(max(1, rows * count)))
    return Specialisation(
        name=f"linear_scan_{form}{count}x{steps}_{digest(text)}_{block}",
        kernel=kernel_of(text),
        signature={**{f"{name}_ptr": pointers[name] for name in places_of}, "rows": "i32"},
        constants={"LINES": count, "OVER": steps, "BLOCK_R": block},
        tiling=Tiling(block, 1, 1, num_warps=max(1, min(4, block // 32))),
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """b, or a and b, [M, steps, width] -> y [M, steps, width]; any M. In a stream h comes behind, and is given behind y."""
    if contract.is_stream(stage):
        return LinearScanStep(stage, problem)
    spec = specialize(stage, problem.rows)
    launch, block, count, out = bind(spec), spec.constants["BLOCK_R"], spec.constants["LINES"], stage.outputs[0]
    constant = stage.tensors["a"].reshape(-1).to(problem.device) if "a" in stage.tensors else None

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage, inputs)
        a, b = (constant, given[0]) if constant is not None else given
        y = torch.empty((b.shape[0], *out.shape), dtype=b.dtype, device=b.device)
        if y.numel():
            launch((triton.cdiv(b.shape[0] * count, block),), a_ptr=a, b_ptr=b, y_ptr=y, rows=b.shape[0])
        return (y,)

    return call


class LinearScanStep:
    """over: h after the step may lie over h before it: each of its numbers is read and written by one thread."""

    def __init__(self, stage: Stage, problem: Problem) -> None:
        self._stage, spec = stage, specialize(stage, problem.rows)
        self._launch, self._block, self._count = bind(spec), spec.constants["BLOCK_R"], spec.constants["LINES"]
        a = stage.tensors.get("a")
        self._constant = [] if a is None else [a.reshape(-1).to(problem.device)]
        self.over: Mapping[int, int] = MappingProxyType({1: len(stage.inputs) - 1})

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.into((None, None), *given)

    def into(self, outputs: Sequence[Tensor | None], *given: Tensor) -> tuple[Tensor, ...]:
        """outputs: where each result goes; None for one in memory of its own."""
        a, b, before = [*self._constant, *require_values(self._stage, given)]
        shape = (b.shape[0], *self._stage.outputs[0].shape)
        y, after = (
            torch.empty(shape, dtype=like.dtype, device=b.device) if t is None else t
            for t, like in zip(outputs, (b, before))
        )
        if y.numel():
            grid = (triton.cdiv(b.shape[0] * self._count, self._block),)
            self._launch(grid, a_ptr=a, b_ptr=b, y_ptr=y, before_ptr=before, after_ptr=after, rows=b.shape[0])
        return y, after


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for layout, constant in (("rows", False), ("between", False), ("lines", True)):
        stage = contract.make_stage(32, 64, layout, constant)
        yield specialize(stage, Problem.of(stage, 1, "cuda").rows)
    stage = contract.make_stage(1, 64, stream=True)
    yield specialize(stage, Problem.of(stage, 1000, "cuda").rows)
    stage = contract.make_stage(1, 64, stream=True, wide=True)
    yield specialize(stage, Problem.of(stage, 1000, "cuda").rows)


def supports(problem: Problem) -> str | None:
    return too_large(problem)


register_impl(Impl("linear_scan", "triton_lines", "triton", 10, supports, prepare))
