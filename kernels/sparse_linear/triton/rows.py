"""What the Triton kernels of blocks and of single weights share: the sizes they are made for, operands, the call.

How weights lie in memory is in pack.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels._gpu.triton_epilogue import epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    MAX_N,
    Specialisation,
    leave_out,
    power_of_two,
    require_matrix,
    require_row_scale,
)
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract

LINE = 16
"""Bytes of the widest load."""

LINE_OF_MEMORY = 128
"""Bytes that one load of a warp meets at once."""

OUTPUTS = 8
"""Of a program of few rows."""

LARGEST = 64
"""Of a side of a block: larger ones are cut."""

MAX_ROWS = 4
"""Of x, for kernels that keep one sum per row in registers."""

POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "int8": "*i8", "uint8": "*i8"}
SIZES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""By the dtype of a weight, which the names of kernels have."""
FORMATS = (WeightFormat.FLOAT32, WeightFormat.BFLOAT16, WeightFormat.INT8)


def side(stored: int, least: int) -> int:
    """The largest power of two that divides a side of the stored blocks, within least..LARGEST."""
    return max(min(stored & -stored, LARGEST), least)


def stored_block(stage: Stage) -> tuple[int, int]:
    """(b, c) of a stage's weight; (1, 1) where it has no blocks."""
    weight = stage.tensors["weight"]
    return (weight.shape[1], weight.shape[2]) if contract.storage_format(stage.tensors) == "blocks" else (1, 1)


@dataclass(frozen=True)
class KernelConfig:
    """What a kernel is specialized on besides its tiles. weight, x: dtypes. scaled: int8 x with a scale per row.
    compensated: int8 x with a zero point, for which an int32 is added to the sums. quantize: x is given in float32, and the
    kernel makes int8 numbers of it, by a scale for each row ("rows") or one for all ("static")."""

    n: int
    k: int
    weight: str
    x: str
    b: int
    c: int
    activation: str
    scaled: bool
    compensated: bool
    int8_out: bool
    quantize: str = ""

    @classmethod
    def of(cls, problem: Problem, b: int, c: int) -> KernelConfig:
        scaled = len(problem.in_widths) == 2
        return cls(
            n=problem.out_widths[0],
            k=problem.in_widths[0],
            weight=str(problem.weight_dtype),
            x=problem.in_dtypes[0],
            b=b,
            c=c,
            activation=str(problem.attrs.get("activation", "none")),
            scaled=scaled,
            compensated=problem.in_dtypes[0] == "int8" and (not scaled or "x_scale" in problem.attrs),
            int8_out=problem.out_dtypes[0] == "int8",
        )

    @classmethod
    def of_blocks(cls, stage: Stage, problem: Problem, outputs: int, inputs: int) -> KernelConfig:
        """With the blocks of the stage's weight, cut to what a kernel takes: at least so many outputs and inputs."""
        b, c = stored_block(stage)
        return cls.of(problem, side(b, outputs), side(c, inputs))

    def fused(self, quantize: str) -> KernelConfig:
        return replace(self, x="float32", quantize=quantize) if quantize else self

    @property
    def held_scales(self) -> bool:
        """Whether the kernel has the scales of rows that it holds: with one for all, what makes a row NaN."""
        return self.quantize == "rows" or (self.quantize == "static" and not self.int8_out)

    @property
    def word(self) -> torch.dtype:
        """What x is read as by kernels of int8 x: words of four numbers, or float32 numbers that they round."""
        return torch.float32 if self.quantize else torch.int32

    @property
    def x_in_words(self) -> dict[str, str]:
        return {"x_ptr": "*fp32" if self.quantize else "*i32"}

    @property
    def unit(self) -> int:
        """Elements of a unit: whole blocks, and at least 16 bytes."""
        return max(self.c, LINE // SIZES[self.weight])

    @property
    def piece(self) -> int:
        """Elements in 16 bytes, which lie together of each output of a block."""
        return LINE // SIZES[self.weight]

    @property
    def together(self) -> int:
        """Outputs of a program whose pieces lie side by side: they share their columns. 1 where a block has one output."""
        return min(self.b, OUTPUTS)

    def gathered(self, step: int) -> int:
        """Blocks that follow each other in a lane, of a step of so many along a row: those of 16 bytes, or fewer."""
        return min(self.unit // self.c, step // 32)

    @property
    def lead(self) -> int:
        """Units in which weights and columns are both whole lines, as far as 256 bytes: a row is read from such a place on."""
        column = self.unit // self.c * self.index.itemsize
        return min(max(LINE_OF_MEMORY // (self.unit * SIZES[self.weight]), LINE_OF_MEMORY // column, 1), 16)

    @property
    def index(self) -> torch.dtype:
        return torch.int16 if -(-self.k // self.c) <= 32_768 else torch.int32

    def __str__(self) -> str:
        rows = "a16" if self.x == "float32" else "dynamic" if self.scaled else "static"
        rows = {"rows": "rows8", "static": "inside"}.get(
            self.quantize, "marked" if self.scaled and self.compensated else rows
        )
        out = "int8" if self.int8_out else "float32"
        return f"{self.weight}_{self.b}x{self.c}_N{self.n}_K{self.k}_{rows}_{self.activation}_{out}"

    @property
    def constants(self) -> dict[str, Any]:
        return {
            "N": self.n, "ACTIVATION": self.activation, "INT8_OUT": self.int8_out, "ASM": not settings.triton_interpret(),
            "K": self.k, **leave_out({}, **self._used)[1],
        }  # fmt: skip

    @property
    def _used(self) -> dict[str, bool]:
        return {"compensation_ptr": self.compensated, "row_scale_ptr": self.scaled and not self.quantize}

    @property
    def quantizing(self) -> dict[str, Any]:
        """Further constants of the kernels that may quantize x."""
        static = self.quantize == "static"
        absent = leave_out({}, x_inv_scale=static, x_zero_point=static)[1]
        return {"QUANTIZE": self.quantize, "SCALED": self.held_scales, **absent}

    def signature(self, where: Mapping[str, str], **types: str) -> dict[str, str]:
        """Run-time arguments in source order. where: those that say where the weights are."""
        found = {
            "x_ptr": POINTERS[self.x], "weight_ptr": POINTERS[self.weight], **where,
            **epilogue_types(self.int8_out, "compensation_ptr", "row_scale_ptr"), "rows": "i32", **types,
        }  # fmt: skip
        if self.quantize == "static":
            found |= {"x_inv_scale": "fp32", "x_zero_point": "i32"}
        return leave_out(found, **self._used)[0]

    @property
    def where(self) -> dict[str, str]:
        return {"columns_ptr": "*i16" if self.index == torch.int16 else "*i32", "starts_ptr": "*i32"}


def params(stage: Stage, config: KernelConfig) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
    """The dense weight, the operands of the epilogue and its scalars."""
    low = linear.lower(contract.dense_stage(stage))
    weight = low["weight"]
    offset = low["bias"] if "bias" in low else low["offset"]
    found = {"multiplier_ptr": low.get("multiplier", torch.ones_like(offset)), "offset_ptr": offset}
    if config.compensated:
        found["compensation_ptr"] = -low["x_zero_point"] * weight.sum(1, dtype=torch.int32)
    scalars = {
        "parameter": low["activation_parameter"], "y_inv_scale": low.get("y_inv_scale", 1.0),
        "y_zero_point": low.get("y_zero_point", 0),
    }  # fmt: skip
    if config.quantize == "static":
        quant = stage.inputs[0].quant
        assert quant is not None
        scalars |= {"x_inv_scale": inverse_scale(quant), "x_zero_point": quant.zero_point}
    return weight, found, scalars


def operands_of(
    stage: Stage, config: KernelConfig, device: str, packed: Callable[[Tensor], Mapping[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Every tensor that a launch takes, on the device, and its scalars. packed: what a kernel reads of the dense weight."""
    weight, found, scalars = params(stage, config)
    return {name: t.contiguous().to(device) for name, t in {**found, **packed(weight)}.items()}, scalars


def launcher(
    config: KernelConfig, spec: Specialisation, operands: Mapping[str, Tensor], scalars: Mapping[str, float], word: torch.dtype,
    propagate_nan: Callable[[Tensor, Tensor], None] | None = None,
) -> Prepared:  # fmt: skip
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M. word: what x is read as.

    propagate_nan: makes y NaN in the rows where a float x is not finite, for kernels that do not see all of x.
    """
    launch, tile, n, k = bind(spec), spec.tiling, config.n, config.k
    dtype = torch.int8 if config.int8_out else torch.float32
    op = "fused_sparse_linear" if config.quantize else "sparse_linear"

    def call(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        require_matrix(op, x, k, torch.int8 if config.x == "int8" else torch.float32)
        require_row_scale(op, x, row_scale, config.scaled and not config.quantize)
        y = torch.empty((x.shape[0], n), dtype=dtype, device=x.device)
        if y.numel():
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(n, tile.block_n))
            scale = {"row_scale_ptr": row_scale[0]} if row_scale else {}
            launch(grid, x_ptr=x.view(word), y_ptr=y, rows=x.shape[0], **operands, **scalars, **scale)
            if propagate_nan is not None and not config.int8_out:
                propagate_nan(x, y)
        return (y,)

    return call


def held_words(k: int, warps: int) -> int:
    """Words of a row of x that a program holds, a power of two; 0 where they are more than eight registers of each thread."""
    words = power_of_two(-(-k // 4), 32, 1 << 16)
    return words if words <= 8 * 32 * warps else 0


def problem_of_size(k: int, n: int, kind: str, layout: str, rows: int, **options: Any) -> Problem:
    """A Problem of any size without its numbers, for what is only compiled."""
    problem = Problem.of(contract.make_stage(16, 16, kind, layout, 0.0, **options), rows, "cuda")
    return replace(problem, in_widths=(k, *problem.in_widths[1:]), out_widths=(n,))


def unsupported(problem: Problem, layouts: tuple[str, ...]) -> str | None:
    """None, or why no kernel of these layouts takes it."""
    if problem.attrs["layout"] not in layouts:
        return f"packs {' or '.join(layouts)}, and this weight is packed as {problem.attrs['layout']}"
    if problem.weight_format not in FORMATS:
        return f"has no form for {problem.weight_format} weights"
    if problem.in_dtypes[0] == "int8" and problem.weight_format is not WeightFormat.INT8:
        return f"multiplies int8 by int8, not by {problem.weight_format}"
    if not 0 < problem.in_widths[0] <= linear.MAX_K:
        return f"takes 1 to {linear.MAX_K} inputs, not K = {problem.in_widths[0]}"
    if problem.out_widths[0] > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    return None


def more_than_few(problem: Problem) -> str | None:
    """None, or why no kernel that keeps one sum per row takes it."""
    if problem.matrix_rows > MAX_ROWS:
        return f"keeps one sum per row in registers, for M <= {MAX_ROWS}, not M = {problem.matrix_rows}"
    return None
