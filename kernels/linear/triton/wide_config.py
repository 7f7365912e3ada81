"""What `wide_kernel` is specialized on, how its weights lie, its call, and for which layers it is taken, of `linear` and of
`fused_linear`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_epilogue import epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    MAX_N,
    Specialisation,
    Tiling,
    leave_out,
    power_of_two,
)
from rtaccel.kernels.linear.triton import mixed_config
from rtaccel.kernels.linear.triton.float_call import prepared_call
from rtaccel.kernels.linear.triton.mixed_config import SHARED_BYTES, WEIGHTS, KernelConfig, Laid
from rtaccel.kernels.linear.triton.split import parts_of
from rtaccel.kernels.linear.triton.wide import rows_kernel, wide_kernel

BLOCK_N = 128
"""Outputs of a program: two groups of four warps, each with the 64 rows that tensor cores of compute capability 9.0 have."""

ROWS_OF_FLOAT32 = 32
"""Up to so many rows a program makes bfloat16 of x itself, and with more where it costs less than a launch that all programs read
twice as much."""

COLUMNS = 1024
"""Of a program that makes x bfloat16."""

LAUNCH_US, L2_BYTES_PER_US, MULTIPROCESSORS, ISSUED_PER_US = 1.5, 6.9e6, 132, 2 * 1755.0
"""Of an H100: another node of a graph, what all multiprocessors read of L2, how many there are, and instructions of a warp that
one issues in a microsecond. No card has confirmed the rule."""

NARROW, WIDE = {"int4": 7.4, "int8": 5.8}, {"int4": 2.5, "int8": 2.5}
"""Instructions of a thread for one weight, counted in the loops of the machine code for compute capability 9.0."""

EARNED_US = 1.0


@dataclass(frozen=True)
class Shape(Laid):
    """How the weights of a form lie: a step is a part, with `scales` (0 for int8). split: programs that share the steps alike.
    cast: x is made bfloat16 before."""

    scales: int
    split: int
    cast: bool

    @classmethod
    def of(cls, config: KernelConfig, rows: int) -> Shape:
        bits, block_k, scales = 8, 64, 0
        if config.group:
            bits, block_k = 4, min(config.group & -config.group, 64)
            scales = next(n for n in (1, 2, 4) if config.group % (4 // n * block_k) == 0)
        step = 16 // bits * block_k
        needed = -(-config.k // step)
        tiles = -(-config.n // BLOCK_N) * -(-max(rows, 1) // _block_m(rows))
        split = parts_of(tiles, needed)
        steps = -(-needed // split) * split
        twice = -(-config.n // BLOCK_N) * rows * config.k * 2 / L2_BYTES_PER_US > LAUNCH_US
        cast = (rows > ROWS_OF_FLOAT32 and twice) or steps * step != config.k
        return cls(bits, block_k, steps, scales, split, cast)


def _block_m(rows: int) -> int:
    return power_of_two(rows, 16, 64)


def supports(problem: Problem) -> str | None:
    if problem.in_dtypes[0] != "float32":
        return f"reads float32 activations, not {problem.in_dtypes[0]}"
    if WEIGHTS.get(problem.weight_format) not in ("int8", "int4"):
        return f"makes bfloat16 of int8 and int4 weights, not of {problem.weight_format}"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    config = KernelConfig.of_linear(problem)
    if config.group % 32:
        return f"takes int4 weights in groups that 32 divides, not {config.group}"
    return not_worth(config, problem.matrix_rows)


def not_worth(config: KernelConfig, rows: int) -> str | None:
    """None, or why narrow tiles are as good: by the longer of two times, in which all programs read x and issue the instructions
    for all weights; and a launch where one more is made."""
    narrow = mixed_config.tiling(config, rows)
    narrow_parts = -(-max(rows, 1) // narrow.block_m) * mixed_config.split_of(config, rows)
    theirs, ours = _longest_us(config, rows, narrow.block_n, 4, narrow_parts, NARROW), longest_us(config, rows)
    if theirs < ours + EARNED_US:
        return f"earns less than {EARNED_US:g} us: {theirs:.1f} us on an H100 where tiles are narrow, {ours:.1f} here, computed"
    return None


def longest_us(config: KernelConfig, rows: int) -> float:
    """Of wide tiles, with the launch before."""
    shape = Shape.of(config, rows)
    parts = -(-max(rows, 1) // _block_m(rows)) * shape.split
    us = _longest_us(config, rows, BLOCK_N, 2 if shape.cast else 4, parts, WIDE)
    return us + (LAUNCH_US if shape.cast else 0.0)


def _longest_us(
    config: KernelConfig, rows: int, block_n: int, size: int, programs: int, instructions: Mapping[str, float]
) -> float:
    """programs: for each tile of outputs."""
    tiles = -(-config.n // block_n)
    read = tiles * rows * config.k * size / L2_BYTES_PER_US
    busy = min(tiles * programs, MULTIPROCESSORS)
    return max(read, config.n * config.k * instructions[config.weight] / 32 / busy / ISSUED_PER_US)


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    shape = Shape.of(config, rows)
    block_m = _block_m(rows)
    bytes_ = 2 * shape.block_k * BLOCK_N + shape.step * block_m * (2 if shape.cast else 4)  # of a step
    stages = min(4, 1 + SHARED_BYTES // bytes_) if shape.steps > 2 * shape.split else 1
    tile = Tiling(block_m, BLOCK_N, shape.block_k, num_warps=8, num_stages=stages)
    signature, absent = leave_out(
        {
            "x_ptr": "*bf16" if shape.cast else "*fp32", "weight_ptr": "*i16",
            "scale_ptr": f"*i{16 * max(shape.scales, 1)}", "work_ptr": "*fp32", "count_ptr": "*i32",
            **epilogue_types(config.int8_out, "residual_ptr"), "rows": "i32",
        },
        scale_ptr=shape.scales, work_ptr=shape.split > 1, count_ptr=shape.split > 1, residual_ptr=config.residual,
    )  # fmt: skip
    split, x = f"_split{shape.split}" if shape.split > 1 else "", "_cast" if shape.cast else ""
    return Specialisation(
        name=f"linear_wide_M{tile.block_m}_{config}{split}{x}",
        kernel=wide_kernel,
        signature=signature,
        constants={
            "N": config.n, "ACTIVATION": config.activation, "INT8_OUT": config.int8_out, "ASM": not settings.triton_interpret(),
            "K": shape.columns, "BITS": shape.bits, "SCALES": shape.scales, "CAST": shape.cast, "SPLIT": shape.split,
            "BLOCK_M": tile.block_m, "BLOCK_N": BLOCK_N, "BLOCK_K": shape.block_k, **absent,
        },
        tiling=tile,
    )  # fmt: skip


def specialize_rows(config: KernelConfig, rows: int) -> Specialisation:
    """Of the launch before, where there is one."""
    shape, block_k = Shape.of(config, rows), COLUMNS
    return Specialisation(
        name=f"linear_rows_bf16_K{config.k}_{shape.columns}",
        kernel=rows_kernel,
        signature={"x_ptr": "*fp32", "y_ptr": "*bf16", "rows": "i32"},
        constants={"K": config.k, "PADDED": shape.columns, "ASM": not settings.triton_interpret(), "BLOCK_K": block_k},
        tiling=Tiling(1, 1, block_k, num_warps=8),  # 16 bytes a lane
    )


def pack(
    config: KernelConfig, shape: Shape, weight: Tensor, group_scale: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """int16 [tiles of N, steps, BLOCK_N, block_k], zeros as padding, and the bits of the bfloat16 scales of int4, in a word of
    16, 32 or 64 bits [tiles of N, steps, BLOCK_N], the first of a step in the lowest."""
    n, steps, numbers = -(-config.n // BLOCK_N) * BLOCK_N, shape.steps, 16 // shape.bits
    offset = 8 if config.group else 128
    q = torch.full((n, shape.columns), offset, dtype=torch.int32, device=weight.device)
    q[: config.n, : config.k] = (int4.unpack(weight, config.k) if config.group else weight).int() + offset
    elements = _joined(q.view(-1, BLOCK_N, steps, numbers, shape.block_k).transpose(3, 4), shape.bits, torch.int16)
    elements = elements.transpose(1, 2).contiguous()
    if group_scale is None:
        return elements, None
    each = shape.step // shape.scales  # numbers that have a scale
    group = torch.arange(shape.columns // each, device=weight.device) * each // config.group
    scales = torch.zeros((n, int(group[-1]) + 1), device=weight.device)
    scales[: config.n, : group_scale.shape[1]] = group_scale[:, : scales.shape[1]]
    bits = scales[:, group].bfloat16().view(torch.int16).long() & 0xFFFF
    word = {1: torch.int16, 2: torch.int32, 4: torch.int64}[shape.scales]
    return elements, _joined(bits.view(-1, BLOCK_N, steps, shape.scales), 16, word).transpose(1, 2).contiguous()


def _joined(numbers: Tensor, bits: int, word: torch.dtype) -> Tensor:
    """[..., P] numbers of some bits -> [...] words that have the first in the lowest bits."""
    total = torch.zeros(numbers.shape[:-1], dtype=torch.int64, device=numbers.device)
    for j, part in enumerate(numbers.long().unbind(-1)):
        total |= part << bits * j
    return total.to(word)  # the upper bits are dropped


def prepared(op: str, config: KernelConfig, low: Mapping[str, Any], problem: Problem) -> Prepared:
    """x float32 [M, K] and, where the form has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    shape, spec = Shape.of(config, problem.matrix_rows), specialize(config, problem.matrix_rows)
    weight, scales = pack(config, shape, low["weight"], low.get("group_scale"))
    weights = {"weight_ptr": weight} if scales is None else {"weight_ptr": weight, "scale_ptr": scales}
    cast = bind(specialize_rows(config, problem.matrix_rows)) if shape.cast else None
    if cast is None:
        return prepared_call(op, config, low, problem, spec, weights)

    def half(x: Tensor, rows: int) -> Tensor:
        y = torch.empty((rows, shape.columns), dtype=torch.bfloat16, device=x.device)
        cast((rows, triton.cdiv(shape.columns, COLUMNS)), x_ptr=x, y_ptr=y, rows=x.shape[0])
        return y

    return prepared_call(op, config, low, problem, spec, weights, half)
