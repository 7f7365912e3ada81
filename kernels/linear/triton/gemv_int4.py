"""W4A8 linear for up to eight rows: dp4a on packed words, one warp per output, the weights read once.

As triton_gemv, with words of eight weights. A word holds four weights of a run in the lower halves of its bytes and four
of the next run in the upper ones: a run is 128 numbers along K, of one group or of several, so that eight lanes read a line of x
side by side; it is shorter where K would be padded by more than a twentieth. So `(w << 4) & 0xF0F0F0F0` and `w & 0xF0F0F0F0`
are the operands of two dp4a, each byte 16 times the weight; 1/16 is in the scale, exactly. Two groups that share words share
a word of two bfloat16 scales, and so do the four words of a lane. All tiles have two dimensions [outputs, words], and no value
changes its layout: five instructions for eight weights, and the conversion to float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, epilogue_types, sums_of_rows
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_rows import MAX_ROWS, too_many_rows
from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    MAX_N,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    leave_out,
    power_of_two,
    require_matrix,
    require_row_scale,
)
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.linear import contract, contract_weights

INSTRUCTIONS_PER_ROW = 23
"""Of a lane for 16 bytes of weights: loads of x, dp4a, conversions and masks. Counted in the code."""


@triton.jit
def _row(x_ptr, at, in_low, in_high, low, high, low_scale, high_scale, acc, RUN: tl.constexpr, ASM: tl.constexpr):
    """acc + the products of one row of x with a tile of weights, times the scales of their groups."""
    zero = tl.zeros_like(low)
    first = dot4(low, tl.load(x_ptr + at, mask=in_low, other=0), zero, ASM)  # [n, words]
    second = dot4(high, tl.load(x_ptr + at + RUN, mask=in_high, other=0), zero, ASM)  # [n, words]
    return tl.fma(second.to(tl.float32), high_scale, tl.fma(first.to(tl.float32), low_scale, acc))


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def int4_gemv_kernel(
    x_ptr, weight_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    GROUP: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    X_WORDS: tl.constexpr = K // 4
    HALF: tl.constexpr = GROUP // 4  # words of a pair of groups; RUN: of a pair of runs
    W_WORDS: tl.constexpr = (K + 8 * RUN - 1) // (8 * RUN) * RUN
    PAIRS: tl.constexpr = W_WORDS // HALF
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, BLOCK_W)[None, :]
    in_n = (n < N)[:, None]
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    w_row = weight_ptr + n[:, None].to(tl.int64) * W_WORDS
    s_row = scale_ptr + n[:, None].to(tl.int64) * PAIRS
    x_row = x_ptr + m * X_WORDS

    accs = (tl.zeros((BLOCK_N, BLOCK_W), tl.float32),) * ROWS
    for w0 in range(0, W_WORDS, BLOCK_W):
        at = w0 + word
        inside = in_n & (at < W_WORDS)
        w = tl.load(w_row + at, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        quad = w0 // 4 + tl.arange(0, BLOCK_W // 4)[None, :]  # four words of a lane have the same scales
        pair = tl.max_contiguous(quad // (HALF // 4), (1, 2))  # triton_tiles.repeated
        scales = tl.load(s_row + pair, mask=in_n & (pair < PAIRS), other=0)  # two scales each
        scales = repeated(scales, 4)  # [BLOCK_N, BLOCK_W]
        low, high = (w << 4) & -252645136, w & -252645136  # 0xF0F0F0F0
        low_scale, high_scale = (
            (scales << 16).to(tl.float32, bitcast=True),
            (scales & -65536).to(tl.float32, bitcast=True),
        )
        x_at = at // RUN * (2 * RUN) + at % RUN + zero
        in_low, in_high = x_at < X_WORDS, x_at + RUN < X_WORDS
        sums = ()
        for r in tl.static_range(ROWS):
            within = m + zero + r < rows
            total = _row(
                x_row + r * X_WORDS, x_at, in_low & within, in_high & within, low, high, low_scale, high_scale, accs[r],
                RUN, ASM,
            )  # fmt: skip
            sums = sums + (total,)  # noqa: RUF005
        accs = sums

    epilogue_of_rows(sums_of_rows(accs, ROWS), m, rows, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, None, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N, ACTIVATION,
        INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def supports(problem: Problem) -> str | None:
    if problem.weight_format is not WeightFormat.INT4 or problem.in_dtypes[0] != "int8":
        return f"multiplies int8 by int4, not {problem.in_dtypes[0]} by {problem.weight_format}"
    reason = too_many_rows(problem.matrix_rows, problem.in_widths[0] * problem.out_widths[0] // 2, INSTRUCTIONS_PER_ROW)
    if reason is not None:
        return reason
    if problem.out_widths[0] > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    k = problem.in_widths[0]
    if k % 4 or not 0 < k <= contract.MAX_K:
        return f"reads x in words of 4 bytes: K must be a positive multiple of 4, at most {contract.MAX_K}, not {k}"
    return None


def tiling(problem: Problem) -> Tiling:
    """One warp per output, up to eight in a program, four words per lane and step. Not measured on a card."""
    outputs = power_of_two(problem.out_widths[0], 1, 8)
    words = power_of_two(problem.in_widths[0] // 8, 32, 128)
    return Tiling(power_of_two(problem.matrix_rows, 1, MAX_ROWS), outputs, 8 * words, num_warps=outputs)


def specialize(problem: Problem) -> Specialisation:
    n, k, group = problem.out_widths[0], problem.in_widths[0], int(problem.attrs["group_size"])
    dynamic, int8_out = len(problem.in_widths) == 2, problem.out_dtypes[0] == "int8"
    activation, tile = str(problem.attrs.get("activation", "none")), tiling(problem)
    pointers = dict.fromkeys(("x_ptr", "weight_ptr", "scale_ptr"), "*i32")
    types = epilogue_types(int8_out, "row_scale_ptr")
    signature, absent = leave_out({**pointers, **types, "rows": "i32"}, row_scale_ptr=dynamic)
    constants: dict[str, Any] = {
        "N": n, "ACTIVATION": activation, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(), "K": k, "GROUP": group,
        "RUN": run_of(k, group) // 4, "ROWS": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_W": tile.block_k // 8, **absent,
    }  # fmt: skip
    kind, out = "dynamic" if dynamic else "static", "int8" if int8_out else "float32"
    name = f"linear_int4_gemv_M{tile.block_m}_N{n}_K{k}_g{group}_{kind}_{activation}_{out}"
    return Specialisation(name, int4_gemv_kernel, signature, constants, tile)


PADDED = 1.05
"""Weights with their padding, of those that are there, up to which a run is as long as it may be."""


def run_of(k: int, group: int) -> int:
    """Numbers of a run: whole groups."""
    fitting = (run for run in (128, 64, 32) if run % group == 0 and -(-k // (2 * run)) * 2 * run <= PADDED * k)
    return next(fitting, group)


def pack(weight: Tensor, group_scale: Tensor, k: int, group: int, run: int) -> tuple[Tensor, Tensor]:
    """int32 words [N, pairs * group / 4] and int32 pairs of bfloat16 scales / 16 [N, pairs]; zeros beyond K."""
    n, pairs, each = weight.shape[0], -(-k // (2 * run)), run // group
    q = torch.zeros((n, pairs * 2 * run), dtype=torch.int8, device=weight.device)
    q[:, :k] = int4.unpack(weight, k)
    low, high = q.view(n, pairs, 2, run).unbind(2)
    scales = torch.zeros((n, pairs * 2 * each), device=weight.device)
    scales[:, : group_scale.shape[1]] = group_scale / 16
    bits = scales.bfloat16().view(torch.int16).to(torch.int32).view(n, pairs, 2, each)
    words = ((low & 15) | (high << 4)).reshape(n, pairs * run).contiguous().view(torch.int32)
    both = (bits[:, :, 0] & 0xFFFF) | (bits[:, :, 1] << 16)
    return words, both.reshape(n, pairs * each).contiguous()


@dataclass(frozen=True)
class Operands:
    weight: Tensor
    scales: Tensor
    multiplier: Tensor
    offset: Tensor


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    low, spec = contract.lower(stage), specialize(problem)
    n, k, tile, launch = problem.out_widths[0], problem.in_widths[0], spec.tiling, bind(spec)
    words, scales = pack(low["weight"], low["group_scale"], k, low["group_size"], run_of(k, low["group_size"]))
    ops = Operands(*(t.contiguous().to(problem.device) for t in (words, scales, low["multiplier"], low["offset"])))
    parameter, y_inv_scale, y_zero_point = low["activation_parameter"], low["y_inv_scale"], low["y_zero_point"]
    dtype = torch.int8 if stage.outputs[0].dtype == "int8" else torch.float32
    dynamic = bool(low["dynamic"])

    def call(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        require_matrix("linear", x, k, torch.int8)
        require_row_scale("linear", x, row_scale, dynamic)
        y = torch.empty((x.shape[0], n), dtype=dtype, device=x.device)
        if y.numel():
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(n, tile.block_n))
            scale = {"row_scale_ptr": row_scale[0]} if row_scale else {}
            launch(
                grid, x_ptr=x.view(torch.int32), weight_ptr=ops.weight, scale_ptr=ops.scales, y_ptr=y,
                multiplier_ptr=ops.multiplier, offset_ptr=ops.offset, rows=x.shape[0], parameter=parameter,
                y_inv_scale=y_inv_scale, y_zero_point=y_zero_point, **scale,
            )  # fmt: skip
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stage, rows, requires in (
        (contract_weights.make_stage(1024, 1024, "w4a8-static", "relu", out="int8"), 1, (GPU_DP4A, WIDE_LOAD)),
        (contract_weights.make_stage(4096, 4096, "w4a8-dynamic", group_size=128), 4, (GPU_DP4A, WIDE_LOAD)),
        (contract_weights.make_stage(1024, 1024, "w4a8-static", "relu"), 8, (GPU_DP4A, WIDE_LOAD)),
    ):  # fmt: skip
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(*requires)


register_impl(Impl("linear", "triton_gemv_int4", "triton", 20, supports, prepare))
