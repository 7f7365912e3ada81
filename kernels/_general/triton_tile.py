"""Kernels that compute each element of y from its own operands, in Triton: a tile of samples by elements of a sample.

A `Text` collects the lines of such a kernel: operands by strides or by a table of their elements, then what is made of them. Its
`specialize` and `launcher` are the same for all operators whose result is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import triton
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._general.triton_places import MAX_ELEMENTS, Place, address, as_tile
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two

TILE = 1024
"""Elements of a program: 256 threads with 4 each, a load of 16 bytes."""

POINTERS = {
    "float32": "*fp32", "int64": "*i64", "int8": "*i8", "bool": "*i1", "uint8": "*u8", "int32": "*i32", "bfloat16": "*bf16",
    "float16": "*fp16", "int16": "*i16",
}  # fmt: skip


@dataclass
class Text:
    """n: elements of a sample of y. inputs: of the stage, x0_ptr, x1_ptr, ... in the kernel. fixed: other tensors by name, the
    same for all samples. lines: behind those that set m, e and `inside`; the last result is the variable `y`."""

    n: int
    inputs: Sequence[Value]
    out: Value
    lines: list[str] = field(default_factory=list)
    fixed: dict[str, Tensor] = field(default_factory=dict)

    def add(self, *lines: str) -> None:
        self.lines += lines

    def keep(self, name: str, tensor: Tensor) -> str:
        """A tensor for the kernel; the name of its pointer."""
        self.fixed[f"{name}_ptr"] = tensor.contiguous().reshape(-1)
        return f"{name}_ptr"

    def table(self, name: str, elements: Sequence[int] | np.ndarray) -> str:
        return self.keep(name, torch.from_numpy(np.ascontiguousarray(elements, dtype=np.int32)))

    def read(self, name: str, index: int | None, at: str, mask: str = "inside", other: str = "0") -> None:
        """name = element `at` of an input in each sample; index None: of a fixed tensor of this name."""
        where = f"{name}_ptr + {as_tile(at)}"
        if index is not None:
            value = self.inputs[index]
            where = f"x{index}_ptr + m * {value.steps * value.width} + {at}"
        elif at.isdigit():  # the same all over y, and always there
            mask = "tl.full((1, 1), True, tl.int1)"
        self.add(f"{name} = tl.load({where}, mask={mask}, other={other})")

    def strided(self, name: str, index: int | None, place: Place, digits: str) -> None:
        """The same by strides, over the indices that `triton_places.digits` set."""
        at, mask = address(place, digits), "inside" if index is not None else "e < N"
        if index is not None and not any(place[1:]):  # the same all over the sample
            at, mask = as_tile(at), "m < rows"
        self.read(name, index, at, mask)

    def real(self, name: str, dtype: str) -> None:
        if dtype != "float32":
            self.add(f"{name} = {name}.to(tl.float32)")

    def __str__(self) -> str:
        pointers = ["y_ptr", *(f"x{i}_ptr" for i in range(len(self.inputs))), *self.fixed]
        body = [
            "m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]",
            "e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]",
            "inside = (m < rows) & (e < N)",
            *self.lines,
            "tl.store(y_ptr + m * N + e, tl.broadcast_to(y, (BLOCK_M, BLOCK_N)), mask=inside)",
        ]
        head = (
            f"def kernel({', '.join(pointers)}, rows, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):"
        )
        return text_of([head, *body])

    def specialize(self, name: str, rows: int) -> Specialisation:
        text, tile = str(self), tiling(rows, self.n)
        types = {f"x{i}_ptr": POINTERS[v.dtype] for i, v in enumerate(self.inputs)}
        types |= {name: POINTERS[str(t.dtype).removeprefix("torch.")] for name, t in self.fixed.items()}
        return specialisation_of(
            f"{name}_N{self.n}",
            text,
            {"y_ptr": POINTERS[self.out.dtype], **types, "rows": "i32"},
            {"N": self.n, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n},
            tile,
            ending=f"_{tile.block_m}x{tile.block_n}",
        )

    def launcher(self, stage: Stage, spec: Specialisation, device: str) -> Launcher:
        return Launcher(stage, spec, self.n, {name: tensor.to(device) for name, tensor in self.fixed.items()})


class Launcher:
    """Inputs of a stage, [M, ...] -> y; any M. fixed: pointers that are the same in each launch."""

    def __init__(self, stage: Stage, spec: Specialisation, n: int, fixed: dict[str, Tensor]) -> None:
        self._launch, self._tile, self._n, self._fixed = bind(spec), spec.tiling, n, fixed
        self._stage, self._shape = stage, stage.outputs[0].shape
        self._dtype = getattr(torch, stage.outputs[0].dtype)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor]:
        return self.into((None,), *inputs)

    def into(self, outputs: tuple[Tensor | None], *inputs: Tensor) -> tuple[Tensor]:
        """outputs: where y goes, which is none of the inputs; None for memory of its own."""
        given, (y,) = require_values(self._stage, inputs), outputs
        if y is None:
            y = torch.empty((inputs[0].shape[0], *self._shape), dtype=self._dtype, device=inputs[0].device)
        if y.numel():
            pointers = {f"x{i}_ptr": x for i, x in enumerate(given)}
            grid = (triton.cdiv(y.shape[0], self._tile.block_m), triton.cdiv(self._n, self._tile.block_n))
            self._launch(grid, y_ptr=y, rows=y.shape[0], **pointers, **self._fixed)
        return (y,)


def text_of(lines: Sequence[str]) -> str:
    """The source of a function from its head and the lines of its body."""
    return lines[0] + "\n" + "".join(f"    {line}\n" for line in lines[1:])


def tiling(rows: int, n: int) -> Tiling:
    """One sample or several in a tile. Small stages have small programs, so that they spread over the card."""
    most = power_of_two(max(1, rows) * n // 256, 32, TILE)
    wide = min(power_of_two(n, 1, TILE), most)
    high = power_of_two(rows, 1, most // wide)
    return Tiling(high, wide, 1, num_warps=power_of_two(high * wide // 128, 1, 8))


def too_large(problem: Problem) -> str | None:
    """None, or why a general stage is beyond what is numbered in 32 bits, or what CUDA launches."""
    most = max(
        s * w for s, w in zip((*problem.in_steps, *problem.out_steps), (*problem.in_widths, *problem.out_widths))
    )
    limit = min(MAX_ELEMENTS, 65535 * 32)
    return f"takes samples of at most {limit} elements, not {most}" if most > limit else None


def require_values(stage: Stage, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs as kernels read them: dense. Raises ShapeError for what is none of the stage."""
    if len(inputs) != len(stage.inputs):
        raise ShapeError(
            stage.op, f"{len(inputs)} inputs", f"{len(stage.inputs)}", "Pass the inputs of the stage, in order."
        )
    for x, value in zip(inputs, stage.inputs):
        if (
            tuple(x.shape[1:]) != value.shape
            or x.dtype != getattr(torch, value.dtype)
            or x.shape[0] != inputs[0].shape[0]
        ):
            wanted = f"{value.dtype} [{inputs[0].shape[0]}, {', '.join(map(str, value.shape))}]"
            raise ShapeError(stage.op, f"{x.dtype} {tuple(x.shape)}", wanted, "Pass the inputs of the stage, in order.")
    return [x.contiguous() for x in inputs]
