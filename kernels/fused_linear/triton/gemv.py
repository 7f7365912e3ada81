"""Fused linear for up to eight rows of W8A8 and W4A8: dp4a on packed words, one warp per output, the weights read once.

As linear's triton_gemv and triton_gemv_int4, with what stands around the layer: float32 rows are quantized in front, and a
residual is added behind. Every program finds max |x| of its rows, x lying in L2, and rounds what it reads.

Rows that are quantized here are read as float32, 16 bytes at a time: of a line of 4 S numbers along K, word i of S holds
numbers i, S + i, 2 S + i and 3 S + i. So a lane's four words meet four consecutive numbers of x four times, and nothing is
exchanged. With S = 32 eight lanes read a line of 128 bytes of x; with 4 they would read four. A line lies within a group of int4
and pads K by no more than a twentieth, or is as short as it can be. x that is int8 already is read as it lies.
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
from rtaccel.kernels._gpu.triton_device import dot4, round_half_even
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, epilogue_types, sums_of_rows
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_rows import too_many_rows
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
from rtaccel.kernels.linear.triton.w8a8 import pad_rows

PADDED = 1.05
"""Weights with their padding, of those that are there, up to which a line is as long as it may be."""

ROWS_OF_A_PROGRAM = 4
TINY = tl.constexpr(2.0**-100)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def row_scale(x_row, inside, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(inverse, scale) of one row of float32, as `quantize` has them; inverse 0 where the row counts as zeros."""
    k = tl.arange(0, BLOCK_K)
    bits = tl.zeros((BLOCK_K,), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        x = tl.load(x_row + k0 + k, mask=(k0 + k < K) & inside, other=0.0)  # [BLOCK_K]
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    peak_bits = tl.max(bits, 0)
    finite = peak_bits < INFINITY_BITS
    keep = finite & (peak_bits.to(tl.float32, bitcast=True) >= TINY)
    safe = tl.where(keep, peak_bits.to(tl.float32, bitcast=True), 1.0)
    limit = tl.full((), 127.0, tl.float32)
    scale = tl.where(keep, tl.div_rn(safe, limit), tl.where(finite, 1.0, float("nan")))
    return tl.where(keep, tl.div_rn(limit, safe), 0.0), scale


@triton.jit
def quantize4(a, b, c, d, ASM: tl.constexpr):
    """int32 words of four float32 numbers, each |v| < 127.5, rounded half to even; a in the lowest byte. A NaN or an infinity
    gives some number."""
    if ASM:
        r = tl.inline_asm_elementwise(
            """{
            .reg .s32 p, q, u, v, w;
            cvt.rni.s32.f32 p, $1;
            cvt.rni.s32.f32 q, $2;
            cvt.rni.s32.f32 u, $3;
            cvt.rni.s32.f32 v, $4;
            cvt.pack.sat.s8.s32.b32 w, v, u, 0;
            cvt.pack.sat.s8.s32.b32 $0, q, p, w;
            }""",
            "=r,f,f,f,f", [a, b, c, d], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        r = _byte(a) | (_byte(b) << 8) | (_byte(c) << 16) | (_byte(d) << 24)
    return r


@triton.jit
def _byte(v):
    return round_half_even(tl.minimum(tl.maximum(v, -127.0), 127.0)).to(tl.int32) & 255


@triton.jit
def x_words(
    x_row, at, inside, inverse, K: tl.constexpr, QUANTIZE: tl.constexpr, SHARE: tl.constexpr, ASM: tl.constexpr
):
    """Words of a row of x as int8: those at `at`; QUANTIZE: of the float32 numbers at, at + SHARE, at + 2 and 3 SHARE.

    Every load has the shape of `at`, [n, words]."""
    if QUANTIZE:
        k = at
        a = tl.load(x_row + k, mask=inside & (k < K), other=0.0) * inverse
        b = tl.load(x_row + k + SHARE, mask=inside & (k + SHARE < K), other=0.0) * inverse
        c = tl.load(x_row + k + 2 * SHARE, mask=inside & (k + 2 * SHARE < K), other=0.0) * inverse
        d = tl.load(x_row + k + 3 * SHARE, mask=inside & (k + 3 * SHARE < K), other=0.0) * inverse
        words = quantize4(a, b, c, d, ASM)
    else:
        words = tl.load(x_row + at, mask=inside & (at < K // 4), other=0)
    return words


@triton.jit
def _add(acc, w, scales, x_row, at, inside, inverse, K: tl.constexpr, GROUP: tl.constexpr, QUANTIZE: tl.constexpr,
         SHARE: tl.constexpr, RUN: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """acc + the products of one row of x with a tile of weights."""
    NEXT: tl.constexpr = 4 * RUN if QUANTIZE else RUN  # from a run of int4 to the other one of its words
    if QUANTIZE:
        x_at = at // SHARE * (4 * SHARE) + at % SHARE
        if GROUP:
            x_at += at // RUN * (4 * RUN)
    elif GROUP:
        x_at = at // RUN * (2 * RUN) + at % RUN
    else:
        x_at = at
    if GROUP:
        low = dot4(
            (w << 4) & -252645136, x_words(x_row, x_at, inside, inverse, K, QUANTIZE, SHARE, ASM), tl.zeros_like(w), ASM
        )
        acc = tl.fma(low.to(tl.float32), (scales << 16).to(tl.float32, bitcast=True), acc)
        high = dot4(
            w & -252645136, x_words(x_row, x_at + NEXT, inside, inverse, K, QUANTIZE, SHARE, ASM), tl.zeros_like(w), ASM
        )  # fmt: skip
        acc = tl.fma(high.to(tl.float32), (scales & -65536).to(tl.float32, bitcast=True), acc)
    else:
        acc = dot4(w, x_words(x_row, x_at, inside, inverse, K, QUANTIZE, SHARE, ASM), acc, ASM)
    return acc


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def fused_gemv_kernel(
    x_ptr, weight_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    WORDS: tl.constexpr, GROUP: tl.constexpr, QUANTIZE: tl.constexpr, SHARE: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, BLOCK_W)[None, :]
    in_n = (n < N)[:, None]
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    w_row = weight_ptr + n[:, None].to(tl.int64) * WORDS
    X_STEP: tl.constexpr = K if QUANTIZE else K // 4
    x_row = x_ptr + m * X_STEP
    inverses, scales_of_rows, accs = (), (), ()
    for r in tl.static_range(ROWS):
        inverse, scale = 1.0, 1.0
        if QUANTIZE:
            inverse, scale = row_scale(x_row + r * K, m + tl.zeros((BLOCK_K,), tl.int32) + r < rows, K, BLOCK_K)
        inverses = inverses + (inverse,)  # noqa: RUF005
        scales_of_rows = scales_of_rows + (scale,)  # noqa: RUF005
        accs = accs + (tl.zeros((BLOCK_N, BLOCK_W), tl.float32 if GROUP else tl.int32),)  # noqa: RUF005
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
        sums = ()
        for r in tl.static_range(ROWS):
            within = m + zero + r < rows
            total = _add(
                accs[r], w, scales, x_row + r * X_STEP, at, within, inverses[r], K, GROUP, QUANTIZE, SHARE, RUN, ASM
            )  # fmt: skip
            sums = sums + (total,)  # noqa: RUF005
        accs = sums
    epilogue_of_rows(sums_of_rows(accs, ROWS), m, rows, n, scales_of_rows if QUANTIZE else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def instructions(problem: Problem) -> int:
    """Of a lane for 16 bytes of weights and a row: dp4a, loads and what rounds x. Counted in the code."""
    words = 8 if problem.weight_format is WeightFormat.INT4 else 4
    return words * (14 if problem.attrs.get("input_format") == "int8" else 2) + (10 if words == 8 else 0)


def supports(problem: Problem) -> str | None:
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"multiplies int8 x by int8 or int4 weights, not by {problem.weight_format}"
    quantized = problem.attrs.get("input_format") == "int8"
    if problem.in_dtypes[0] == "float32" and not quantized:
        return "multiplies int8 x, not float32"
    k, n = problem.in_widths[0], problem.out_widths[0]
    if n > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {n}"
    if not 0 < k <= MAX_K or (not quantized and k % 4):
        return f"reads x in words of 4 bytes: K must be a positive multiple of 4, at most {MAX_K}, not {k}"
    weight_bytes = n * k // (2 if problem.weight_format is WeightFormat.INT4 else 1)
    return too_many_rows(problem.matrix_rows, weight_bytes, instructions(problem))


def share_of(problem: Problem) -> int:
    """Words of a line."""
    k = problem.in_widths[0]
    if problem.weight_format is WeightFormat.INT4:
        group = int(problem.attrs["group_size"])
        return next((s for s in (32, 16, 8) if group % (4 * s) == 0), 4)
    if problem.attrs.get("input_format") != "int8":
        return 4
    return next((s for s in (32, 16, 8) if -(-k // (4 * s)) * 4 * s <= PADDED * k), 4)


def words_of(problem: Problem) -> int:
    """int32 words of a row of weights."""
    k = problem.in_widths[0]
    if problem.weight_format is WeightFormat.INT4:
        run = run_of(k, int(problem.attrs["group_size"]))
        return -(-k // (2 * run)) * (run // 4)
    share = share_of(problem)
    return -(-k // (4 * share)) * share


def specialize(problem: Problem) -> Specialisation:
    n, k, words = problem.out_widths[0], problem.in_widths[0], words_of(problem)
    outputs, block_w = power_of_two(n, 1, 8), power_of_two(words, 32, 128)
    group = int(problem.attrs["group_size"]) if problem.weight_format is WeightFormat.INT4 else 0
    quantize, residual = problem.attrs.get("input_format") == "int8", bool(problem.attrs.get("residual"))
    int8_out, activation = problem.out_dtypes[0] == "int8", str(problem.attrs.get("activation", "none"))
    tile = Tiling(power_of_two(problem.matrix_rows, 1, ROWS_OF_A_PROGRAM), outputs, 4 * block_w, num_warps=outputs)
    signature, absent = leave_out(
        {
            "x_ptr": "*fp32" if quantize else "*i32", "weight_ptr": "*i32", "scale_ptr": "*i32",
            **epilogue_types(int8_out, "compensation_ptr", "residual_ptr"), "rows": "i32",
        },
        scale_ptr=group, compensation_ptr=not group and not quantize, residual_ptr=residual,
    )  # fmt: skip
    kind = (f"int4_g{group}" if group else "int8") + ("_rows8" if quantize else "_a8")
    more = "".join(f"_{w}" for w, on in (("residual", residual), ("int8", int8_out)) if on)
    return Specialisation(
        name=f"fused_gemv_M{tile.block_m}_{kind}_N{n}_K{k}_{activation}{more}",
        kernel=fused_gemv_kernel,
        signature=signature,
        constants={
            "N": n, "ACTIVATION": activation, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(), "K": k,
            "WORDS": words, "GROUP": group, "QUANTIZE": quantize, "SHARE": share_of(problem),
            "RUN": run_of(k, group) // 4 if group else 0, "ROWS": tile.block_m,
            "BLOCK_N": outputs, "BLOCK_W": block_w, "BLOCK_K": power_of_two(k, 32, 1024), **absent,
        },
        tiling=tile,
    )  # fmt: skip


def in_lines(q: Tensor, share: int) -> Tensor:
    """int8 [N, K] -> [N, K padded to lines], the numbers of each line in the order in which rows are quantized: 0, share,
    2 share, 3 share, 1, ..."""
    n, k = q.shape
    line = 4 * share
    padded = q.new_zeros((n, -(-k // line) * line))
    padded[:, :k] = q
    return padded.view(n, -1, 4, share).transpose(2, 3).reshape(padded.shape).contiguous()


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    low, spec = contract.lower(stage), specialize(problem)
    launch, tile, given = bind(spec), spec.tiling, spec.constants
    n, k, quantize, share = given["N"], given["K"], given["QUANTIZE"], given["SHARE"]
    pointers = {"multiplier_ptr": low["multiplier"].contiguous(), "offset_ptr": low["offset"].contiguous()}
    if given["GROUP"]:
        q = int4.unpack(low["weight"], k)
        q = in_lines(q, share) if quantize else pad_rows(q)
        run = 4 * given["RUN"]
        q = q[:, : -(-k // (2 * run)) * 2 * run]  # what pads a line beyond the last run is zero
        words, scales = pack_int4(int4.pack(q), low["group_scale"], q.shape[1], given["GROUP"], run)
        pointers |= {"weight_ptr": words, "scale_ptr": scales}
    else:
        lines = in_lines(low["weight"], share) if quantize else pad_rows(low["weight"])
        pointers["weight_ptr"] = lines.view(torch.int32)
        if "compensation_ptr" in spec.signature:
            pointers["compensation_ptr"] = -low["x_zero_point"] * low["weight"].sum(1, dtype=torch.int32)
    pointers = {name: tensor.contiguous().to(problem.device) for name, tensor in pointers.items()}
    scalars: dict[str, Any] = {
        "parameter": low["activation_parameter"], "y_inv_scale": low["y_inv_scale"], "y_zero_point": low["y_zero_point"],
    }  # fmt: skip
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
    ):
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(GPU_DP4A, WIDE_LOAD)


register_impl(Impl("fused_linear", "triton_gemv", "triton", 20, supports, prepare))
