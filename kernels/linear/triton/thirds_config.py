"""What `thirds_kernel` is specialized on, how its weights lie, and for which layers it is taken, of `linear` and of
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
from rtaccel.kernels._gpu.triton_rows import BYTES_PER_US, MAX_ROWS
from rtaccel.kernels._gpu.triton_spec import MAX_N, Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.linear.triton import wide_config
from rtaccel.kernels.linear.triton.float_call import prepared_call
from rtaccel.kernels.linear.triton.mixed_config import WEIGHTS, KernelConfig, Laid
from rtaccel.kernels.linear.triton.thirds import thirds_kernel
from rtaccel.kernels.linear.triton.wide_config import ISSUED_PER_US, L2_BYTES_PER_US, MULTIPROCESSORS

WARPS = 16
"""Of a program: they share K. Together they have all weights of a step on their way, 32 KiB or 64."""

FEW_OUTPUTS = 2048
"""Up to so many a program has 16, so that as many programs as multiprocessors are at work."""

LANE = 4 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 2
"""Numbers along K of a lane, one behind the other, in the layout that this triton gives the first factor. It makes 4 of numbers
that a `join` put side by side, as of two in a byte, and from some version on 2. Another value costs time, not correctness."""

PADDED = 1.05
"""Weights with their padding, of those that are there, up to which a step is as long as it may be."""


def _most(bits: int, rows: int) -> tuple[int, int]:
    """In a step of a program of `rows`: elements of an output, and parts of K times rows. 1024 elements are 32 registers of a
    thread. 64 parts are 16 for the sums of groups, and as many for all sums, which int8 has alone."""
    if rows == 1:  # all of K in one step, if it can be: then none are needed for the weights of the next one
        return (1024, 128) if bits == 4 else (2048, 128)
    elements = 256 if rows > 2 else 1024 if bits == 4 else 512
    return elements, 64 if bits == 4 else 128


@dataclass(frozen=True)
class Shape(Laid):
    """How the weights of a form lie. batch: parts of a step. block_n: outputs of a program."""

    batch: int
    block_n: int

    @classmethod
    def of(cls, config: KernelConfig, rows: int) -> Shape:
        bits, found = 4 if config.group else 8, []
        rows = rows_of(config, rows)
        elements, parts = _most(bits, rows)
        for block_k in (64, 32, 16, 8):
            part = 16 // bits * block_k
            if block_k == (64 if config.group else 8) or config.group % part:
                continue  # a part has one scale, and 16 numbers at least
            for batch in (8 * WARPS, 4 * WARPS, 2 * WARPS, WARPS):
                if batch * block_k <= elements and batch * rows <= parts:
                    found.append(cls(bits, block_k, -(-config.k // (part * batch)), batch, _block_n(config, block_k)))
        fitting = [shape for shape in found if shape.columns <= PADDED * config.k]
        return max(fitting, key=lambda shape: shape.step) if fitting else min(found, key=lambda shape: shape.columns)

    @property
    def step(self) -> int:
        return self.part * self.batch


def _block_n(config: KernelConfig, block_k: int) -> int:
    """32 outputs; 16 where programs would be few, and a fragment is no longer than a part of K."""
    return 16 if config.n <= FEW_OUTPUTS and block_k > 8 else 32


def rows_of(config: KernelConfig, rows: int) -> int:
    """Of a program. With more, sums of int4 groups and those of all groups have no room in registers."""
    return power_of_two(rows, 1, 4 if config.group else MAX_ROWS)


def supports(problem: Problem) -> str | None:
    if problem.in_dtypes[0] != "float32":
        return f"reads float32 activations, not {problem.in_dtypes[0]}"
    if WEIGHTS.get(problem.weight_format) not in ("int8", "int4"):
        return f"makes bfloat16 of int8 and int4 weights, not of {problem.weight_format}"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.matrix_rows > MAX_ROWS:
        return f"has x in shared memory three times, for M <= {MAX_ROWS}, not M = {problem.matrix_rows}"
    config = KernelConfig.of_linear(problem)
    if config.group % 32:
        return f"takes int4 weights in groups that 32 divides, not {config.group}"
    return not_worth(config, problem.matrix_rows)


def not_worth(config: KernelConfig, rows: int) -> str | None:
    """None, or why the kernel of one warp an output, or the one of wide tiles, is as good: by the longest of reading weights,
    reading x in all programs, and the instructions for all of it on the multiprocessor that has most."""
    rows, bits, block_n = max(rows, 1), 4 if config.group else 8, Shape.of(config, rows).block_n
    own = rows_of(config, rows)
    each = block_n * (0.125 * max(own / 2, 1) + DEQUANTIZE[bits]) + X * min(rows, own)
    ours = _longest_us(config, rows, block_n, (each * config.k / 32 + OURS * WARPS) * -(-rows // own))
    gemv = 8 * (WEIGHT + PRODUCT * min(rows, 4)) * config.k / 32 + GEMV * 8
    others = {"a warp has an output": _longest_us(config, rows, 8, gemv * -(-rows // 4))}
    others["tiles are wide"] = max(wide_config.longest_us(config, rows), _read_us(config)) + PARTS_US
    for where, theirs in others.items():
        if theirs < ours + EARNED_US:
            return (
                f"earns less than {EARNED_US:g} us: {theirs:.1f} us on an H100 where {where}, {ours:.1f} here, computed"
            )
    return None


DEQUANTIZE = {4: 1.125, 8: 1.0}
X, OURS, WEIGHT, PRODUCT, GEMV = 18.0, 200, 3.6, 2.1, 95
"""Instructions of a thread, counted in the machine code for compute capability 9.0: for one weight without its product, for a
number of x, and around both; in `gemv_float_kernel` for a weight, for its product with one row, and around both."""

PARTS_US, EARNED_US = 3.5, 0.3
"""Of wide tiles, whose programs have few warps and exchange parts of sums; and what this is taken for. No card has confirmed the
rule."""


def _read_us(config: KernelConfig) -> float:
    return config.n * config.k * (0.5 if config.group else 1.0) / BYTES_PER_US


def _longest_us(config: KernelConfig, rows: int, block_n: int, instructions: float) -> float:
    """instructions: of all warps of a tile of block_n outputs."""
    tiles = -(-config.n // block_n)
    x = tiles * rows * config.k * 4 / L2_BYTES_PER_US
    return max(_read_us(config), x, -(-tiles // MULTIPROCESSORS) * instructions / ISSUED_PER_US)


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    shape = Shape.of(config, rows)
    tile = Tiling(rows_of(config, rows), shape.block_n, shape.step, num_warps=WARPS)
    signature, absent = leave_out(
        {
            "x_ptr": "*fp32", "weight_ptr": "*i16", "scale_ptr": "*i16",
            **epilogue_types(config.int8_out, "residual_ptr"), "rows": "i32",
        },
        scale_ptr=config.group, residual_ptr=config.residual,
    )  # fmt: skip
    return Specialisation(
        name=f"linear_thirds_M{tile.block_m}_{config}",
        kernel=thirds_kernel,
        signature=signature,
        constants={
            "N": config.n, "ACTIVATION": config.activation, "INT8_OUT": config.int8_out, "ASM": not settings.triton_interpret(),
            "K": config.k, "BITS": shape.bits, "GROUPS": config.group > 0, "STEPS": shape.steps, "WARPS": WARPS, "LANE": LANE,
            "ROWS": tile.block_m, "BATCH": shape.batch, "BLOCK_N": shape.block_n, "BLOCK_K": shape.block_k, **absent,
        },
        tiling=tile,
        registers=128,
    )  # fmt: skip


def pack(
    config: KernelConfig, shape: Shape, weight: Tensor, group_scale: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """int16 [tiles of N, steps, pieces of a part, parts, 32 lanes, 8] as `thirds._tile` reads them, zeros as padding, and the
    bits of the bfloat16 scales of int4 [tiles of N, steps, parts, block_n]."""
    numbers, block_n, block_k = 16 // shape.bits, shape.block_n, shape.block_k
    n = -(-config.n // block_n) * block_n
    offset = 8 if config.group else 128
    q = torch.full((n, shape.columns), offset, dtype=torch.int32, device=weight.device)
    q[: config.n, : config.k] = (int4.unpack(weight, config.k) if config.group else weight).int() + offset
    if (
        block_k == 8 and LANE == 4
    ):  # a lane's two elements hold four numbers that follow each other, and four 16 further on
        q = q.view(-1, 2, 4, 2, 2).transpose(2, 3).contiguous()
    parts = q.view(-1, block_n, shape.steps, shape.batch, numbers, block_k).unbind(4)
    element = sum((part << shape.bits * j for j, part in enumerate(parts)), torch.zeros_like(parts[0]))
    tiles = n // block_n
    if block_k == 8:  # n32, n16, n8, n1, step, batch, lane, k1
        split = element.view(tiles, -1, 2, 2, 8, shape.steps, shape.batch, 4, 2)
        fragments = split.permute(0, 5, 1, 6, 4, 7, 2, 3, 8)
    else:  # n16, n8, n1, step, batch, k16, and within 16 of K two of a lane, four lanes, and two of a lane
        inner, lane, more = ((2, 4), 8, 7) if LANE == 2 else ((4, 2), 7, 8)
        split = element.view(tiles, -1, 2, 8, shape.steps, shape.batch, block_k // 16, *inner, 2)
        fragments = split.permute(0, 4, 1, 6, 5, 3, lane, more, 2, 9)
    fragments = fragments.to(torch.int16).contiguous()
    if group_scale is None:
        return fragments, None
    group = torch.arange(shape.steps * shape.batch, device=weight.device) * shape.part // config.group
    scales = torch.zeros((n, int(group[-1]) + 1), device=weight.device)
    scales[: config.n, : group_scale.shape[1]] = group_scale[:, : scales.shape[1]]
    bits = scales[:, group].bfloat16().view(torch.int16).view(tiles, block_n, shape.steps, shape.batch)
    return fragments, bits.permute(0, 2, 3, 1).contiguous()


def prepared(op: str, config: KernelConfig, low: Mapping[str, Any], problem: Problem) -> Prepared:
    """x float32 [M, K] and, where the form has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    shape, spec = Shape.of(config, problem.matrix_rows), specialize(config, problem.matrix_rows)
    weight, scales = pack(config, shape, low["weight"], low.get("group_scale"))
    weights = {"weight_ptr": weight} if scales is None else {"weight_ptr": weight, "scale_ptr": scales}
    return prepared_call(op, config, low, problem, spec, weights)
