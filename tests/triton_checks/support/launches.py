"""What a Triton kernel is launched with, found without a GPU: its own launching code, on tensors without memory.

`declared()` pairs every specialization of `triton_aot.specializations` with the stage it was declared from, and `launch_of`
prepares the implementation on torch's "meta" device inside `triton_launch.played()`, where a launcher only notes its grid and
arguments. So what is noted is what would be launched, for any number of rows: 2^32 numbers in x cost nothing there.

Sparse forms are declared by their sizes alone. `stage_of` makes a stage of that size with numbers and zeros in it, whose weights
are packed in real memory: where a kernel goes next stands in its indices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import triton_aot, triton_launch
from rtaccel.kernels._gpu.triton_spec import Specialisation
from tests.triton_checks.support import sparse_sizes

META = "meta"


@dataclass(frozen=True, eq=False)
class Declared:
    """A specialization and, where it was declared from one, the stage and the rows."""

    spec: Specialisation
    stage: Stage | None
    rows: int


@dataclass(frozen=True)
class Launch:
    """grid: programs along x, y and z. tensors: argument -> numbers of its tensor. scalars: the other run-time arguments."""

    spec: Specialisation
    grid: tuple[int, int, int]
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    @property
    def programs(self) -> int:
        x, y, z = self.grid
        return x * y * z


@functools.cache
def declared() -> list[Declared]:
    """Every specialization that is compiled in the tests, in the order of `specializations`."""
    last: list[tuple[Stage, int]] = []
    plain = Problem.of.__func__  # type: ignore[attr-defined]

    def watched(cls: type[Problem], stage: Stage, rows: int, device: str = "cpu") -> Problem:
        last[:] = [(stage, rows)]
        return plain(cls, stage, rows, device)

    found = []
    try:
        Problem.of = classmethod(watched)  # type: ignore[method-assign,assignment]
        for spec in triton_aot.each_specialization():
            stage, rows = last[0] if last else (None, 1)
            found.append(Declared(spec, stage, rows))
            last.clear()
    finally:
        Problem.of = classmethod(plain)  # type: ignore[method-assign,assignment]
    return found


def _launch(note: triton_launch.NotedLaunch) -> Launch:
    x, y, z = (*note.grid, 1, 1)[:3]
    tensors = {name: value for name, value in note.arguments.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in note.arguments.items() if not isinstance(value, Tensor)}
    return Launch(note.spec, (x, y, z), tensors, scalars)


@functools.cache
def stage_of(found: Declared) -> Stage | None:
    """The stage that the form computes, of its own size."""
    if found.stage is None or found.stage.op != "sparse_linear":
        return found.stage
    return sparse_sizes.of_size(found.stage, found.spec)


Call = Callable[[int], "list[Launch]"]


def _caller(impl: Impl, stage: Stage, rows: int) -> Call:
    """The implementation prepared once: what a call with so many rows launches."""
    if operator(stage.op).by_row:
        stage = stage.matrices()
    with triton_launch.played():
        call = impl.prepare(stage, Problem.of(stage, rows, "cpu" if "sparse" in stage.op else META))

    def launches(rows: int) -> list[Launch]:
        given = [torch.empty((rows, *v.shape), dtype=getattr(torch, v.dtype), device=META) for v in stage.inputs]
        over = getattr(call, "over", {})
        with triton_launch.noted() as notes:
            call(*given)
            if over:  # a form that writes over what it reads
                call.into([given[over[i]] if i in over else None for i in range(len(stage.outputs))], *given)  # type: ignore[attr-defined]
        return [_launch(note) for note in notes]

    return launches


_callers: dict[str, Call | None] = {}


def launch_of(found: Declared, rows: int | None = None) -> Launch | None:
    """The launch of this specialization; None where nothing in the registry launches it (persistent kernels)."""
    name, stage = found.spec.name, stage_of(found)
    if name not in _callers:
        _callers[name] = None
        for impl in impls("triton", stage.op) if stage else ():
            if impl.supports(Problem.of(stage, found.rows, META)) is None:  # type: ignore[arg-type]
                caller = _caller(impl, stage, found.rows)  # type: ignore[arg-type]
                if any(note.spec.name == name for note in caller(found.rows)):
                    _callers[name] = caller
                    break
    caller = _callers[name]
    if caller is None:
        return None
    return next((note for note in caller(rows or found.rows) if note.spec.name == name), None)


def rows_beyond_32_bits(stage: Stage) -> int:
    """Rows with which the largest input or output has more than 2^32 numbers."""
    return 2**32 // max(v.width * v.steps for v in (*stage.inputs, *stage.outputs)) + 5
