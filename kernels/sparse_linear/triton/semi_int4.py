"""2:4 weights with int4 values, W4A8, for few rows: for each 64 inputs 16 bytes of values, 8 of places, two scales.

As in linear/triton/gemv_int4.py, a word holds eight int4 numbers of a pair of groups (those of one scale each): the low halves
of its bytes are of the first group, the high ones of the second, 16 q once they are alone. Each half is four values of two fours
of inputs, and a byte of places is the selector of one byte permutation, as in triton/semi.py:

    values [N / 8, pairs, lines, 8, 4]  int32   word j of a line: fours j and 4 + j of each group's eight
    places [N / 8, pairs, lines, 8, 4]  int16   of the first group in the low byte
    scales [N / 8, pairs, 8]            int32   two bfloat16, of q / 16

A line is 32 inputs of both groups, so groups are multiples of 32. Eight outputs lie side by side, in eight neighboring lanes,
which meet the same 16 bytes of x. The sums of a word are whole numbers, words are added in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows
from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, MAX_N, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear.triton.permute import pick_bytes
from rtaccel.kernels.sparse_linear.triton.rows import (
    MAX_ROWS,
    OUTPUTS,
    KernelConfig,
    held_words,
    launcher,
    operands_of,
    problem_of_size,
)
from rtaccel.kernels.sparse_linear.triton.semi import PERMUTE, selector
from rtaccel.kernels.sparse_linear.triton.semi_pack import grouped
from rtaccel.kernels.sparse_linear.triton.walk import held_rows, x_words

LINE = 32
WHERE = {"metadata_ptr": "*i16", "scale_ptr": "*i32"}

REGISTERS = 128
"""Of a thread at most, for four rows: the assembler spills some rather than take more than 112, unless it is told."""


@triton.jit
def _row(
    acc, held, x_row, x_at, more, low, high, low_pick, high_pick, low_scale, high_scale, X_WORDS: tl.constexpr,
    HALF: tl.constexpr, HELD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """acc and what a tile of words adds to it for one row of x."""
    zero = tl.zeros_like(low)
    a = x_words(held, x_row, x_at, more & (x_at < X_WORDS), HELD)
    b = x_words(held, x_row, x_at + 4, more & (x_at + 4 < X_WORDS), HELD)
    c = x_words(held, x_row, x_at + HALF, more & (x_at + HALF < X_WORDS), HELD)
    d = x_words(held, x_row, x_at + HALF + 4, more & (x_at + HALF + 4 < X_WORDS), HELD)
    first = dot4(low, pick_bytes(a, b, low_pick, ASM), zero, ASM)
    second = dot4(high, pick_bytes(c, d, high_pick, ASM), zero, ASM)
    return tl.fma(second.to(tl.float32), high_scale, tl.fma(first.to(tl.float32), low_scale, acc))


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def semi_int4_kernel(
    x_ptr, weight_ptr, metadata_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    QUANTIZE: tl.constexpr, SCALED: tl.constexpr, HELD: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """HELD: words of a row of x that the program holds, 0 for none."""
    X_WORDS: tl.constexpr = (K + 3) // 4
    HALF: tl.constexpr = GROUP // 4  # words of x of a group
    LINES: tl.constexpr = GROUP // 32  # of a pair of groups
    PAIRS: tl.constexpr = (K + 2 * GROUP - 1) // (2 * GROUP)
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    element = tl.arange(0, BLOCK_N * 4)[None, :]  # of outputs, four words of each
    zero = tl.zeros((BLOCK_U, BLOCK_N * 4), tl.int32)
    first = tl.program_id(1).to(tl.int64) * PAIRS
    x_row = x_ptr + m * (X_WORDS if QUANTIZE == "" else K)
    held, x_scales = held_rows(x_row, m, rows, x_inv_scale, x_zero_point, ROWS, K, HELD, QUANTIZE)

    accs = (tl.zeros((BLOCK_U, BLOCK_N * 4), tl.float32),) * ROWS
    for u0 in range(0, PAIRS * LINES, BLOCK_U):
        u = u0 + tl.arange(0, BLOCK_U)[:, None]
        inside = u + zero < PAIRS * LINES
        at = first * LINES * (BLOCK_N * 4) + u * (BLOCK_N * 4) + element
        w = tl.load(weight_ptr + at, mask=inside, other=0)  # [BLOCK_U, BLOCK_N * 4]
        metadata = tl.load(metadata_ptr + at, mask=inside, other=0).to(tl.int32)  # [BLOCK_U, BLOCK_N * 4]
        pair, output = u // LINES, tl.arange(0, BLOCK_N)[None, :]
        in_scales = u + tl.zeros((BLOCK_U, BLOCK_N), tl.int32) < PAIRS * LINES
        scales = repeated(tl.load(scale_ptr + first * BLOCK_N + pair * BLOCK_N + output, mask=in_scales, other=0), 4)
        low, high = (w << 4) & -252645136, w & -252645136  # 0xF0F0F0F0
        low_pick, high_pick = selector(metadata & 255), selector((metadata >> 8) & 255)
        low_scale, high_scale = (
            (scales << 16).to(tl.float32, bitcast=True),
            (scales & -65536).to(tl.float32, bitcast=True),
        )
        x_at = u // LINES * (2 * HALF) + u % LINES * 8 + element % 4
        x_at = tl.max_contiguous(tl.multiple_of(x_at, (1, 4)), (1, 4))
        sums = ()
        for r in tl.static_range(ROWS):
            total = _row(
                accs[r], held[r], x_row + r * X_WORDS, x_at, m + zero + r < rows, low, high, low_pick, high_pick, low_scale,
                high_scale, X_WORDS, HALF, HELD, ASM,
            )  # fmt: skip
            sums = sums + (total,)  # noqa: RUF005
        accs = sums

    totals = ()
    for r in tl.static_range(ROWS):
        totals = totals + (tl.sum(tl.sum(tl.reshape(accs[r], (BLOCK_U, BLOCK_N, 4)), 2), 0),)  # noqa: RUF005
    epilogue_of_rows(totals, m, rows, n, x_scales if SCALED else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def supports(problem: Problem) -> str | None:
    if problem.attrs["layout"] != "2:4":
        return f"packs 2:4, and this weight is packed as {problem.attrs['layout']}"
    if problem.weight_format is not WeightFormat.INT4 or problem.in_dtypes[0] != "int8":
        return f"multiplies int8 by int4, not {problem.in_dtypes[0]} by {problem.weight_format}"
    if problem.out_widths[0] > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if int(problem.attrs["group_size"]) % LINE:
        return f"takes groups of a multiple of {LINE} inputs, not of {problem.attrs['group_size']}"
    k = problem.in_widths[0]
    if k % 4 or not 0 < k <= linear.MAX_K:
        return f"reads x in words of 4 bytes: K must be a positive multiple of 4, at most {linear.MAX_K}, not {k}"
    return None


def select_config(problem: Problem) -> KernelConfig:
    """The zero point of x is in the offset, as linear/contract_weights.py has it."""
    return replace(KernelConfig.of(problem, 1, 4), compensated=False)


def specialize(config: KernelConfig, group: int, rows: int) -> Specialisation:
    """Eight outputs in a program, 16 bytes of values of each per warp's eight lanes and step. Not measured on a card."""
    m = power_of_two(rows, 1, MAX_ROWS)
    tile = Tiling(block_m=m, block_n=OUTPUTS, block_k=2048, num_warps=8)
    return Specialisation(
        name=f"sparse_semi_int4_g{group}_M{m}_{config}",
        kernel=semi_int4_kernel,
        signature=config.signature(WHERE, weight_ptr="*i32", **config.x_in_words),
        constants={
            **config.constants, **config.quantizing, "HELD": held_words(config.k, tile.num_warps) if config.quantize else 0,
            "GROUP": group, "ROWS": m, "BLOCK_N": OUTPUTS, "BLOCK_U": 32,
        },
        tiling=tile,
        registers=REGISTERS if m == MAX_ROWS else 0,
    )  # fmt: skip


def pack(packed: Tensor, group_scale: Tensor, k: int, group: int) -> dict[str, Tensor]:
    """As above, of an int4 weight as a state dict stores it, dense; zeros beyond K."""
    weight = torch.nn.functional.pad(int4.unpack(packed, k), (0, 0, 0, -packed.shape[0] % OUTPUTS))
    values, metadata = grouped(weight)
    n, pairs, lines = values.shape[0], -(-k // (2 * group)), group // LINE
    more = pairs * group // 2 - values.shape[1]
    values = torch.nn.functional.pad(values, (0, 0, 0, more)).view(n, pairs, 2, lines, 2, 4, 2).transpose(4, 5)
    low, high = values.unbind(2)
    words = ((low & 15) | (high << 4)).reshape(n, -1).contiguous().view(torch.int32)
    both = torch.nn.functional.pad(metadata, (0, more)).view(n, pairs, 2, lines, 2, 4)
    of_group = both[:, :, :, :, 0] | (both[:, :, :, :, 1] << 4)
    picks = of_group.permute(0, 1, 3, 4, 2).reshape(n, -1).contiguous().view(torch.int16)
    scales = torch.zeros((n, pairs * 2), device=packed.device)
    scales[: group_scale.shape[0], : group_scale.shape[1]] = group_scale / 16
    bits = scales.bfloat16().view(torch.int16).to(torch.int32).view(n, pairs, 2)
    return {
        "weight_ptr": _side_by_side(words, 4), "metadata_ptr": _side_by_side(picks, 4),
        "scale_ptr": _side_by_side((bits[..., 0] & 0xFFFF) | (bits[..., 1] << 16), 1),
    }  # fmt: skip


def _side_by_side(rows: Tensor, each: int) -> Tensor:
    """[N, width] as [N / 8, width / each, 8, each]."""
    return rows.view(-1, OUTPUTS, rows.shape[1] // each, each).transpose(1, 2).contiguous()


def prepare(stage: Stage, problem: Problem, quantize: str = "") -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the
    problem. quantize: x is float32 instead, and quantized here."""
    config, group = select_config(problem).fused(quantize), int(stage.attrs["group_size"])
    scale = stage.tensors["group_scale"]
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, scale, config.k, group))
    return launcher(config, specialize(config, group, problem.matrix_rows), there, scalars, config.word)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    problem = problem_of_size(4096, 256, "w4a8-dynamic", "2:4", MAX_ROWS, group_size=128)
    yield specialize(select_config(problem), 128, MAX_ROWS).with_requirements(GPU_DP4A, WIDE_LOAD, PERMUTE)


register_impl(Impl("sparse_linear", "triton_semi_int4", "triton", 20, supports, prepare))
