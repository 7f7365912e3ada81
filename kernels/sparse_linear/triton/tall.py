"""Blocks of several outputs times up to four rows of x: int8 by words, with dp4a, or float32 x by weights of any format.

Outputs that share their columns share x as well. So a warp takes 16 bytes of a row of each of eight outputs in eight neighboring
lanes, a line of 128 bytes, which meet the same 16 bytes of x. Its groups of eight lanes, and the program's warps, are at
different places along the row; their sums meet at the end. The kernels of gemv.py and gemv_float.py have this form for such
blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.sparse_linear.triton.rows import MAX_ROWS, KernelConfig, held_words
from rtaccel.kernels.sparse_linear.triton.walk import finite_row, held_rows, row_units, x_words

WORD = 4
WARPS = 8
"""Of a program, at most."""


@triton.jit
def take(weights, columns, u0, pieces, B: tl.constexpr, C: tl.constexpr, PIECE: tl.constexpr, X: tl.constexpr,
         BLOCK_N: tl.constexpr, BLOCK_U: tl.constexpr, EACH: tl.constexpr):  # fmt: skip
    """(w, x_at, inside) of BLOCK_U pieces of every output, from u0 on, a tile [pieces, outputs * PIECE]. EACH: elements of a
    lane."""
    u = u0 + tl.arange(0, BLOCK_U)[:, None]
    element = tl.arange(0, BLOCK_N * PIECE)[None, :]
    inside = u + tl.zeros((BLOCK_U, BLOCK_N * PIECE), tl.int32) < pieces
    w = tl.load(weights + u * (B * PIECE) + element, mask=inside, other=0)  # [u, element]
    at = u * PIECE + element % PIECE  # along the row
    if C % EACH == 0:  # a lane has one column
        part = tl.arange(0, BLOCK_N * PIECE // EACH)[None, :]
        column_at = tl.max_contiguous((u * PIECE + part % (PIECE // EACH) * EACH) // C, (1, 2))  # triton_tiles.repeated
        there = u + tl.zeros((BLOCK_U, BLOCK_N * PIECE // EACH), tl.int32) < pieces
        column = repeated(tl.load(columns + column_at, mask=there, other=0).to(tl.int32), EACH)
        x_at = tl.max_contiguous(tl.multiple_of(column * C + at % C, (1, EACH)), (1, EACH))
    else:
        column = tl.load(columns + at // C, mask=inside, other=0).to(tl.int32)  # [u, element]
        x_at = tl.max_contiguous(column, (1, 2)) * C + at % C  # not so, for the layout alone (triton_tiles.repeated)
    if X % C:
        inside = inside & (x_at < X)
    return w, x_at, inside


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def sparse_tall_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    QUANTIZE: tl.constexpr, SCALED: tl.constexpr, FLOATS: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr,
    PIECE: tl.constexpr, EACH: tl.constexpr, HELD: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """B outputs share their columns; a block has C weights of each, PIECE are 16 bytes, UNIT a unit of the stream: of words where
    x is int8. HELD: words of a row of x that the program holds, 0 for none."""
    X: tl.constexpr = K if FLOATS else (K + 3) // 4
    m = tl.program_id(0).to(tl.int64) * ROWS
    n0 = tl.program_id(1) * BLOCK_N
    n = n0 + tl.arange(0, BLOCK_N)
    zero = tl.zeros((BLOCK_U, BLOCK_N * PIECE), tl.int32)
    x_row = x_ptr + m * (X if QUANTIZE == "" else K)
    held, scales = held_rows(x_row, m, rows, x_inv_scale, x_zero_point, ROWS, K, HELD, QUANTIZE)
    first = tl.load(starts_ptr + n0 // B)
    pieces = row_units(first, tl.load(starts_ptr + n0 // B + 1), X, C, UNIT) * (UNIT // PIECE)
    wide = first.to(tl.int64)
    weights, columns = weight_ptr + wide * (UNIT * B) + n0 % B * PIECE, columns_ptr + wide * (UNIT // C)

    accs = (zero.to(tl.float32) if FLOATS else zero,) * ROWS
    for u0 in range(0, pieces, BLOCK_U):
        w, x_at, inside = take(weights, columns, u0, pieces, B, C, PIECE, X, BLOCK_N, BLOCK_U, EACH)
        sums = ()
        for r in tl.static_range(ROWS):
            x = x_words(held[r], x_row + r * X, x_at, inside & (m + zero + r < rows), HELD)  # [u, element]
            acc = tl.fma(w.to(tl.float32), x, accs[r]) if FLOATS else dot4(w, x, accs[r], ASM)
            sums = sums + (acc,)  # noqa: RUF005
        accs = sums

    totals = ()
    for r in tl.static_range(ROWS):
        total = tl.sum(tl.sum(tl.reshape(accs[r], (BLOCK_U, BLOCK_N, PIECE)), 2), 0)  # [n]
        if FLOATS:  # noqa: SIM102 - decided by the compiler
            if m + r < rows:
                total = tl.where(finite_row(x_row + r * K, K, BLOCK_U, BLOCK_N * PIECE), total, float("nan"))
        totals = totals + (total,)  # noqa: RUF005
    epilogue_of_rows(totals, m, rows, n, scales if SCALED else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """Steps of an eighth of a row, up to 512 bytes of it, with a lane for each 16 bytes, or each four weights in floats. Not
    measured on a card."""
    floats = config.weight != "int8" or (config.x == "float32" and not config.quantize)
    size = 1 if floats else WORD  # weights in an element
    outputs, m, piece = config.together, power_of_two(rows, 1, MAX_ROWS), config.piece // size
    each = 8 if floats and m == 1 and config.weight != "float32" else 4
    most = WARPS * 32 * each // (outputs * piece)
    steps = most if config.quantize else power_of_two(config.k // (8 * config.piece), 1, most)
    steps = max(steps, 32 * each // (outputs * piece), 1)
    warps = max(steps * outputs * piece // each // 32, 1)
    held = held_words(config.k, warps) if not floats and (config.quantize or config.c == WORD) else 0
    name = "sparse_gemv_float" if floats else "sparse_gemv"
    types = {} if floats else {"weight_ptr": "*i32", **config.x_in_words}
    return Specialisation(
        name=f"{name}_M{m}_{config}",
        kernel=sparse_tall_kernel,
        signature=config.signature(config.where, **types),
        constants={
            **config.constants, **config.quantizing, "FLOATS": floats, "B": config.b, "C": config.c // size,
            "UNIT": config.unit // size, "PIECE": piece, "EACH": each, "HELD": held, "ROWS": m, "BLOCK_N": outputs,
            "BLOCK_U": steps,
        },
        tiling=Tiling(block_m=m, block_n=outputs, block_k=steps * config.piece, num_warps=warps),
    )  # fmt: skip
