"""2:4 weights from their compressed form, for few rows: what is read is the two values of each four and their places.

int8 x int8: a word of weights holds the values of two groups of four inputs, a byte beside it their four places. The places
become the selector of one byte permutation that picks what the values multiply from two words of x; one dp4a sums it. For each 32
inputs, 16 bytes of values and 4 of places, 20 where dense weights have 32. Of `fused_sparse_linear` x is float32, which the
warps of a program round together:

    values [N, lines, S]  int32   word j of a line: groups j and S + j of its 2 S
    places [N, lines, S]  uint8   two bits each, of group j in the low four

Float32 x: two values of a group in one word (bfloat16) or half a word (int8). The warps read x together, four numbers of a group
at a time, and give it to each other by way of shared memory. A lane has all four and selects the two that its places name. So
nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows
from rtaccel.kernels._gpu.triton_rows import is_marked, row_scale, shared_words, split4
from rtaccel.kernels._gpu.triton_spec import FUSED, GPU_DP4A, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.sparse_linear.triton.permute import pick_bytes
from rtaccel.kernels.sparse_linear.triton.rows import (
    MAX_ROWS,
    KernelConfig,
    launcher,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.semi_pack import pack_lines, pack_pairs, share_of

SHARED_WORDS = 512
"""Of weights in a step, of all rows, where warps share the rounding of x: 16 in a lane, with 32 of x."""

PERMUTE = r"PRMT"
WHERE = {"metadata_ptr": "*u8"}


@triton.jit
def selector(metadata):
    """Of `pick_bytes`, from the places of two groups: bytes 0 and 1 from the first word, 2 and 3 from the second."""
    apart = (metadata | (metadata << 4)) & 0x0F0F
    return ((apart | (apart << 2)) & 0x3333) | 0x4400


@triton.jit
def _rows_of_x(
    x_row, m, rows, inverse, ROWS: tl.constexpr, K: tl.constexpr, QUANTIZE: tl.constexpr, SHAPE: tl.constexpr
):  # fmt: skip
    """(what rows are multiplied by, their scales, sums of zeros), tuples; x_row is the first."""
    inverses, scales, nan_marks = (), (), ()
    for r in tl.static_range(ROWS):
        factor, scale = 1.0, 1.0
        if QUANTIZE == "rows":
            factor, scale = row_scale(x_row + r * K, m + tl.zeros((1024,), tl.int32) + r < rows, K, 1024)
        elif QUANTIZE == "static":
            factor = inverse
        inverses = inverses + (factor,)  # noqa: RUF005
        scales = scales + (scale,)  # noqa: RUF005
        nan_marks = nan_marks + (tl.zeros((SHAPE,), tl.float32),)  # noqa: RUF005
    return inverses, scales, nan_marks


@triton.jit
def _ended(accs, scales, nan_marks, ROWS: tl.constexpr, STATIC: tl.constexpr):
    """(sums of rows [1, n], their scales). A row that a static scale cannot hold counts as zeros, and is NaN in float32."""
    totals, ends = (), ()
    for r in tl.static_range(ROWS):
        total = tl.sum(accs[r], 1)[None, :]
        scale = scales[r]
        if STATIC:
            bad = is_marked(tl.sum(nan_marks[r], 0) + tl.zeros_like(total).to(tl.float32))
            total = tl.where(bad, tl.zeros_like(total), total)
            scale = tl.where(bad, float("nan"), 1.0)
        totals = totals + (total,)  # noqa: RUF005
        ends = ends + (scale,)  # noqa: RUF005
    return totals, ends


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def semi_gemv_kernel(
    x_ptr, weight_ptr, metadata_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    QUANTIZE: tl.constexpr, SCALED: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """SHARE: words of half a line of x."""
    X_WORDS: tl.constexpr = (K + 3) // 4
    W_WORDS: tl.constexpr = (K + 8 * SHARE - 1) // (8 * SHARE) * SHARE
    X_STEP: tl.constexpr = X_WORDS if QUANTIZE == "" else K
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    row_at = n[:, None].to(tl.int64) * W_WORDS
    x_row = x_ptr + m * X_STEP
    inverses, scales, nan_marks = _rows_of_x(x_row, m, rows, x_inv_scale, ROWS, K, QUANTIZE, BLOCK_W)

    accs = (zero,) * ROWS
    for w0 in range(0, W_WORDS, BLOCK_W):
        word = w0 + tl.arange(0, BLOCK_W)
        at = word[None, :] + zero
        inside = (at < W_WORDS) & (n < N)[:, None]
        w = tl.load(weight_ptr + row_at + at, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        fours = (
            at // 4 * 4 + at % 4
        )  # `at`, but a lane is to have no more than four: their words would lie 64 bytes apart
        metadata = tl.load(metadata_ptr + row_at + fours, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        pick = selector(metadata.to(tl.int32))
        sums, nans = (), ()
        for r in tl.static_range(ROWS):
            nan = nan_marks[r]
            if QUANTIZE == "":
                x_at = at // SHARE * (2 * SHARE) + at % SHARE
                there = m + zero + r < rows
                low = tl.load(x_row + r * X_STEP + x_at, mask=there & (x_at < X_WORDS), other=0)  # [BLOCK_N, BLOCK_W]
                high = tl.load(x_row + r * X_STEP + x_at + SHARE, mask=there & (x_at + SHARE < X_WORDS), other=0)
            else:
                first = word // SHARE * (2 * SHARE) + word % SHARE
                there = m + r + tl.zeros((BLOCK_W, 1), tl.int32) < rows
                low_words, nan = shared_words(
                    x_row + r * X_STEP, first, there, inverses[r], x_zero_point, nan, K, QUANTIZE == "static", ASM
                )  # fmt: skip
                high_words, nan = shared_words(
                    x_row + r * X_STEP, first + SHARE, there, inverses[r], x_zero_point, nan, K, QUANTIZE == "static", ASM
                )  # fmt: skip
                low, high = low_words[None, :] + zero, high_words[None, :] + zero
            sums = sums + (dot4(w, pick_bytes(low, high, pick, ASM), accs[r], ASM),)  # noqa: RUF005
            nans = nans + (nan,)  # noqa: RUF005
        accs, nan_marks = sums, nans

    totals, ends = _ended(accs, scales, nan_marks, ROWS, QUANTIZE == "static")
    epilogue_of_rows(totals, m, rows, n[None, :], ends if SCALED else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


@triton.jit
def pair_values(pair, BF16: tl.constexpr):
    """The two values of a group, of a word of two bfloat16 or of half a word of two int8; as float32 or int32."""
    if BF16:
        first = (pair << 16).to(tl.float32, bitcast=True)
        second = (pair & -65536).to(tl.float32, bitcast=True)
    else:
        wide = pair.to(tl.int32)
        first = (wide << 24) >> 24
        second = (wide << 16) >> 24
    return first, second


@triton.jit
def one_of(a, b, c, d, place):
    """The number that the two lower bits of `place` name."""
    odd = place & 1 != 0
    return tl.where(place & 2 != 0, tl.where(odd, d, c), tl.where(odd, b, a))


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def semi_gemv_float_kernel(
    x_ptr, weight_ptr, metadata_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    BF16: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """A row of x per program."""
    PAIRS: tl.constexpr = (K + 31) // 32 * 8
    m = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_row = x_ptr + m * K
    row_at = n[:, None].to(tl.int64) * PAIRS
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    acc, nan_mark = zero, tl.zeros((BLOCK_W, 4), tl.float32)
    for g0 in range(0, PAIRS, BLOCK_W):
        groups = g0 + tl.arange(0, BLOCK_W)
        group = groups[None, :] + tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
        inside = (group < PAIRS) & (n < N)[:, None]
        pairs = tl.load(weight_ptr + row_at + group, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        first, second = pair_values(pairs, BF16)
        byte = g0 // 2 + tl.arange(0, BLOCK_W // 2)[None, :]  # of two groups, in the lane that has both
        places = tl.load(metadata_ptr + row_at // 2 + byte, mask=(byte * 2 < PAIRS) & (n < N)[:, None], other=0)
        places = repeated(places.to(tl.int32), 2) >> (group % 2 * 4)
        at = groups[:, None] * 4 + tl.arange(0, 4)[None, :]
        x = tl.load(x_row + at, mask=at < K, other=0.0)  # [BLOCK_W, 4]
        nan_mark = tl.fma(x, tl.zeros_like(x), nan_mark)
        a, b, c, d = split4(x)
        a, b, c, d = a[None, :] + zero, b[None, :] + zero, c[None, :] + zero, d[None, :] + zero
        acc = tl.fma(first.to(tl.float32), one_of(a, b, c, d, places), acc)
        acc = tl.fma(second.to(tl.float32), one_of(a, b, c, d, places >> 2), acc)
    sums = tl.sum(acc, 1)[None, :]
    total = tl.where(is_marked(tl.sum(tl.sum(nan_mark, 1), 0) + tl.zeros_like(sums)), float("nan"), sums)
    epilogue_of_rows((total,), m, rows, n[None, :], None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), 1)  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem, ("2:4",))
    if reason is not None:
        return reason
    if problem.weight_format is WeightFormat.FLOAT32:
        return "has no form for float32 values, whose places take what the zeros save"
    if problem.in_dtypes[0] == "int8" and problem.in_widths[0] % 4:
        return f"reads x in words of 4 bytes: K must be a multiple of 4, not {problem.in_widths[0]}"
    return None


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """One warp per output, up to eight in a program, 16 bytes of values per lane and step. Not measured on a card."""
    outputs, int8 = power_of_two(config.n, 1, 8), config.x == "int8" or config.quantize
    m = power_of_two(rows, 1, MAX_ROWS) if int8 else 1
    quantized = bool(config.quantize)
    share = share_of(config.k)
    words_of_row = -(-config.k // (8 * share)) * share if int8 else -(-config.k // 32) * 8
    most = (SHARED_WORDS // m if quantized else 128) if int8 else 256
    block_w = power_of_two(words_of_row, 32, most) if quantized or not int8 else most
    tile = Tiling(block_m=m, block_n=outputs, block_k=block_w * (8 if int8 else 4), num_warps=outputs)
    words: dict[str, object] = {"BLOCK_N": outputs, "BLOCK_W": block_w}
    if int8:
        words |= {"ROWS": m, **config.quantizing, "SHARE": share}
    else:
        words["BF16"] = config.weight == "bfloat16"
    return Specialisation(
        name=f"sparse_semi_gemv_M{m}_{config}",
        kernel=semi_gemv_kernel if int8 else semi_gemv_float_kernel,
        signature=config.signature(
            WHERE, **(config.x_in_words | {"weight_ptr": "*i32"} if int8 else {"weight_ptr": pairs_of(config)})
        ),
        constants={**config.constants, **words},
        tiling=tile,
        registers=64 if m == MAX_ROWS and not quantized else 0,  # left to itself triton 3.6 spills two
    )


def pairs_of(config: KernelConfig) -> str:
    return "*i32" if config.weight == "bfloat16" else "*i16"


def prepare(stage: Stage, problem: Problem, quantize: str = "") -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem.
    quantize: x is float32 instead of int8, and quantized here."""
    plain = KernelConfig.of(problem, 1, 4)
    config, int8 = plain.fused(quantize), plain.x == "int8"
    there, scalars = operands_of(stage, config, problem.device, pack_lines if int8 else pack_pairs)
    return launcher(
        config, specialize(config, problem.matrix_rows), there, scalars, config.word if int8 else torch.float32
    )


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, activation, out, requires, forbids in (
        ("static", 4096, 256, 1, "relu", "int8", (GPU_DP4A, WIDE_LOAD, PERMUTE), (FUSED,)),
        ("dynamic", 1024, 1024, 4, "none", "float32", (GPU_DP4A, WIDE_LOAD, PERMUTE), (FUSED,)),
        ("bfloat16", 4096, 256, 1, "gelu", "float32", (WIDE_LOAD,), ()),
    ):
        problem = problem_of_size(k, n, kind, "2:4", rows, activation=activation, out=out)
        yield specialize(KernelConfig.of(problem, 1, 4), rows).with_requirements(*requires, forbids=forbids)


register_impl(Impl("sparse_linear", "triton_semi", "triton", 20, supports, prepare))
