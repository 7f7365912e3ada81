"""Fused linear for up to eight rows of W8A8 and W4A8: dp4a on packed words, one warp per output, the weights read once.

As linear's triton_gemv and triton_gemv_int4, with what stands around the layer: float32 rows are quantized in front, and a
residual is added behind. Every program finds max |x| of its rows, x lying in L2, and rounds what it reads.

The warps of a program share the rounding of float32 rows (kernels/_gpu/triton_rows.py). x that is int8 already is read as it
lies.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_rows import is_marked, row_scale, shared_words, too_many_rows
from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    MAX_N,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    leave_out,
    power_of_two,
    require_matrix,
    require_residual,
)
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.linear.triton.gemv_int4 import pack as pack_int4
from rtaccel.kernels.linear.triton.gemv_int4 import run_of
from rtaccel.kernels.linear.triton.w8a8 import LINE, pad_rows

ROWS_OF_A_PROGRAM = 4
SHARED_WORDS = 1024
"""Of x in a step, of all rows, where warps share the rounding: 32 in a lane, beside as many of weights for a row."""


@triton.jit
def add_products(acc, w, scales, low, high, GROUP: tl.constexpr, ASM: tl.constexpr):
    """acc with the products of words of x and a tile of weights: low meets words of int8, or the lower halves of bytes."""
    if GROUP:
        sums = dot4((w << 4) & -252645136, low, tl.zeros_like(w), ASM)
        acc = tl.fma(sums.to(tl.float32), (scales << 16).to(tl.float32, bitcast=True), acc)
        sums = dot4(w & -252645136, high, tl.zeros_like(w), ASM)
        acc = tl.fma(sums.to(tl.float32), (scales & -65536).to(tl.float32, bitcast=True), acc)
    else:
        acc = dot4(w, low, acc, ASM)
    return acc


@triton.jit
def end_of_sums(sums, nan_marks, scales_of_rows, ROWS: tl.constexpr, X: tl.constexpr):
    """(sums of rows, their scales). A row that a static scale cannot hold counts as zeros, and is NaN in float32."""
    accs, scales = (), ()
    for r in tl.static_range(ROWS):
        acc = tl.sum(sums[r], 1)
        if X == "static":
            bad = is_marked(tl.sum(nan_marks[r], 0) + tl.zeros_like(acc).to(tl.float32))
            acc = tl.where(bad, tl.zeros_like(acc), acc)
            scales = scales + (tl.where(bad, float("nan"), 1.0),)  # noqa: RUF005
        accs = accs + (acc,)  # noqa: RUF005
    return accs, scales if X == "static" else scales_of_rows


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def fused_gemv_kernel(
    x_ptr, weight_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    WORDS: tl.constexpr, GROUP: tl.constexpr, X: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """X: "int8", or float32 that is quantized here, by a scale for each row ("rows") or one for all ("static")."""
    SHARED: tl.constexpr = X != "int8"
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, BLOCK_W)[None, :]
    in_n = (n < N)[:, None]
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    w_row = weight_ptr + n[:, None].to(tl.int64) * WORDS
    X_STEP: tl.constexpr = K // 4 if X == "int8" else K
    x_row = x_ptr + m * X_STEP
    inverses, scales_of_rows, accs, nan_marks = (), (), (), ()
    for r in tl.static_range(ROWS):
        inverse, scale = 1.0, 1.0
        if X == "rows":
            inverse, scale = row_scale(x_row + r * K, m + tl.zeros((BLOCK_K,), tl.int32) + r < rows, K, BLOCK_K)
        elif X == "static":
            inverse = x_inv_scale
        inverses = inverses + (inverse,)  # noqa: RUF005
        scales_of_rows = scales_of_rows + (scale,)  # noqa: RUF005
        accs = accs + (tl.zeros((BLOCK_N, BLOCK_W), tl.float32 if GROUP else tl.int32),)  # noqa: RUF005
        nan_marks = nan_marks + (tl.zeros((BLOCK_W,), tl.float32),)  # noqa: RUF005
    for w0 in range(0, WORDS, BLOCK_W):
        at = w0 + word + zero
        inside = in_n & (at < WORDS)
        w = tl.load(w_row + at, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        scales = w
        if GROUP:
            PAIRS: tl.constexpr = WORDS // (GROUP // 4)
            s_row = scale_ptr + n[:, None].to(tl.int64) * PAIRS
            quad = w0 // 4 + tl.arange(0, BLOCK_W // 4)[None, :]  # four words of a lane have the same scales
            pair = tl.max_contiguous(quad // (GROUP // 16), (1, 2))  # triton_tiles.repeated
            scales = repeated(tl.load(s_row + pair, mask=in_n & (pair < PAIRS), other=0), 4)  # two each
        sums, nan_mark = (), ()
        for r in tl.static_range(ROWS):
            if SHARED:
                within = m + r + tl.zeros((BLOCK_W, 1), tl.int32) < rows
                first = w0 + tl.arange(0, BLOCK_W)
                if GROUP:
                    first = first // RUN * (2 * RUN) + first % RUN
                low, nan = shared_words(
                    x_row + r * X_STEP, first, within, inverses[r], x_zero_point, nan_marks[r], K, X == "static", ASM
                )  # fmt: skip
                low = low[None, :] + zero
                high = low
                if GROUP:
                    high, nan = shared_words(
                        x_row + r * X_STEP, first + RUN, within, inverses[r], x_zero_point, nan, K, X == "static", ASM
                    )  # fmt: skip
                    high = high[None, :] + zero
            else:
                nan = nan_marks[r]
                there = m + zero + r < rows
                x_at = at // RUN * (2 * RUN) + at % RUN if GROUP else at
                low = tl.load(x_row + r * X_STEP + x_at, mask=there & (x_at < K // 4), other=0)  # [BLOCK_N, BLOCK_W]
                high = low
                if GROUP:
                    high = tl.load(x_row + r * X_STEP + x_at + RUN, mask=there & (x_at + RUN < K // 4), other=0)
            total = add_products(accs[r], w, scales, low, high, GROUP, ASM)
            sums = sums + (total,)  # noqa: RUF005
            nan_mark = nan_mark + (nan,)  # noqa: RUF005
        accs, nan_marks = sums, nan_mark
    totals, ends = end_of_sums(accs, nan_marks, scales_of_rows, ROWS, X)
    epilogue_of_rows(totals, m, rows, n, ends if X == "rows" or (X == "static" and not INT8_OUT) else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


QUANTIZED = {"int8": "rows", "static": "static"}
"""What a stage says of its rows -> what the kernel does to x."""


def x_of(problem: Problem) -> str:
    return QUANTIZED.get(str(problem.attrs.get("input_format", "none")), "int8")


def instructions(problem: Problem) -> int:
    """Of a lane for 16 bytes of weights and a row: dp4a, loads and what rounds x. Counted in the code."""
    words = 8 if problem.weight_format is WeightFormat.INT4 else 4
    return words * (2 if x_of(problem) == "int8" else 5) + (10 if words == 8 else 0)


def supports(problem: Problem) -> str | None:
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"multiplies int8 x by int8 or int4 weights, not by {problem.weight_format}"
    quantized = x_of(problem) != "int8"
    if problem.in_dtypes[0] == "float32" and not quantized:
        return "multiplies int8 x, not float32"
    k, n = problem.in_widths[0], problem.out_widths[0]
    if n > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {n}"
    if not 0 < k <= MAX_K or (not quantized and k % 4):
        return f"reads x in words of 4 bytes: K must be a positive multiple of 4, at most {MAX_K}, not {k}"
    weight_bytes = n * k // (2 if problem.weight_format is WeightFormat.INT4 else 1)
    return too_many_rows(problem.matrix_rows, weight_bytes, instructions(problem))


def words_of(problem: Problem) -> int:
    """int32 words of a row of weights."""
    k = problem.in_widths[0]
    if problem.weight_format is WeightFormat.INT4:
        run = run_of(k, int(problem.attrs["group_size"]))
        return -(-k // (2 * run)) * (run // 4)
    return -(-k // LINE) * (LINE // 4)


def specialize(problem: Problem) -> Specialisation:
    n, k, words = problem.out_widths[0], problem.in_widths[0], words_of(problem)
    outputs, m = power_of_two(n, 1, 8), power_of_two(problem.matrix_rows, 1, ROWS_OF_A_PROGRAM)
    group = int(problem.attrs["group_size"]) if problem.weight_format is WeightFormat.INT4 else 0
    x, residual = x_of(problem), bool(problem.attrs.get("residual"))
    int8_out, activation = problem.out_dtypes[0] == "int8", str(problem.attrs.get("activation", "none"))
    most = 128 if x == "int8" else SHARED_WORDS // (2 * m if group else m)
    block_w = power_of_two(words, 32, most)
    tile = Tiling(m, outputs, 4 * block_w, num_warps=outputs)
    signature, absent = leave_out(
        {
            "x_ptr": "*i32" if x == "int8" else "*fp32", "weight_ptr": "*i32", "scale_ptr": "*i32",
            **epilogue_types(int8_out, "compensation_ptr", "residual_ptr"), "rows": "i32",
            "x_inv_scale": "fp32", "x_zero_point": "i32",
        },
        scale_ptr=group, compensation_ptr=not group and x != "rows", residual_ptr=residual, x_inv_scale=x == "static",
        x_zero_point=x == "static",
    )  # fmt: skip
    kind = (f"int4_g{group}" if group else "int8") + {"rows": "_rows8", "static": "_static", "int8": "_a8"}[x]
    more = "".join(f"_{w}" for w, on in (("residual", residual), ("int8", int8_out)) if on)
    return Specialisation(
        name=f"fused_gemv_M{tile.block_m}_{kind}_N{n}_K{k}_{activation}{more}",
        kernel=fused_gemv_kernel,
        signature=signature,
        constants={
            "N": n, "ACTIVATION": activation, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(), "K": k,
            "WORDS": words, "GROUP": group, "X": x,
            "RUN": run_of(k, group) // 4 if group else 0, "ROWS": tile.block_m,
            "BLOCK_N": outputs, "BLOCK_W": block_w, "BLOCK_K": power_of_two(k, 32, 1024), **absent,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    low, spec = contract.lower(stage), specialize(problem)
    launch, tile, given = bind(spec), spec.tiling, spec.constants
    n, k, quantize = given["N"], given["K"], given["X"] != "int8"
    pointers = {"multiplier_ptr": low["multiplier"].contiguous(), "offset_ptr": low["offset"].contiguous()}
    if given["GROUP"]:
        q, run = pad_rows(int4.unpack(low["weight"], k)), 4 * given["RUN"]
        q = q[:, : -(-k // (2 * run)) * 2 * run]  # what pads a line beyond the last run is zero
        words, scales = pack_int4(int4.pack(q), low["group_scale"], q.shape[1], given["GROUP"], run)
        pointers |= {"weight_ptr": words, "scale_ptr": scales}
    else:
        pointers["weight_ptr"] = pad_rows(low["weight"]).view(torch.int32)
        if "compensation_ptr" in spec.signature:
            pointers["compensation_ptr"] = -low["x_zero_point"] * low["weight"].sum(1, dtype=torch.int32)
    pointers = {name: tensor.contiguous().to(problem.device) for name, tensor in pointers.items()}
    scalars: dict[str, Any] = {
        "parameter": low["activation_parameter"], "y_inv_scale": low["y_inv_scale"], "y_zero_point": low["y_zero_point"],
    }  # fmt: skip
    if given["X"] == "static":
        scalars["x_inv_scale"], scalars["x_zero_point"] = contract.static_scale(stage)
    dtype = torch.int8 if given["INT8_OUT"] else torch.float32

    def call(x: Tensor, *residual: Tensor) -> tuple[Tensor]:
        require_matrix("fused_linear", x, k, torch.float32 if quantize else torch.int8)
        require_residual("fused_linear", x, residual, "residual_ptr" in spec.signature, n)
        y = torch.empty((x.shape[0], n), dtype=dtype, device=x.device)
        if y.numel():
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(n, tile.block_n))
            more = {"residual_ptr": residual[0]} if residual else {}
            launch(
                grid, x_ptr=x if quantize else x.view(torch.int32), y_ptr=y, rows=x.shape[0], **pointers, **scalars, **more
            )  # fmt: skip
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stage, rows in (
        (contract.make_stage(1024, 1024, "w8a8-rows", "relu", out="int8"), 1),
        (contract.make_stage(1024, 1024, "w8a8-rows", residual=True), 4),
        (contract.make_stage(1024, 1024, "w8a8-static", residual=True), 1),
        (contract.make_stage(1024, 1024, "w4a8-rows", "gelu"), 1),
        (contract.make_stage(1024, 1024, "w8a8-inside"), 1),
        (contract.make_stage(1024, 1024, "w8a8-inside", "relu", residual=True, out="int8"), 4),
        (contract.make_stage(1024, 1024, "w4a8-inside", "gelu"), 1),
    ):
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(GPU_DP4A, WIDE_LOAD)


register_impl(Impl("fused_linear", "triton_gemv", "triton", 20, supports, prepare))
