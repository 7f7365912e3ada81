"""W4A16 and W8A16 for up to eight rows of large layers on tensor cores, x not rounded: each number of x is three of bfloat16.

`gemv_float_kernel` issues a mask, a subtraction and a multiply-add for each weight, and a load of x. Here weights are the first
factor of the tensor cores, two to a mask and a multiply-add (_gpu/triton_bfloat16.py), and 16 outputs by 16 numbers along K are
one instruction. The second factor has 8 columns at least: the three thirds of a row of x (_gpu/triton_thirds.py) and one of zeros
are four of them. Weights and thirds are exact in bfloat16, so are their products, and sums are float32.

A program has all of K for its outputs, so nothing is exchanged between programs. Its warps share K: tl.dot has a batch, each
part of K is one of it, and warps lie along it. Parts are added at the end.

Weights go from memory to the registers in which tensor cores want them. The layout of a load is that each lane has 16 bytes,
lanes follow each other, and warps do. Weights are packed so that numbers of this layout are those of a fragment. `_tile` says
which: it moves nothing, for Triton sees that both layouts are the same. If it ever saw a difference, it would move them, to the
same result.

Thirds go through shared memory, once for each step of K.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_bfloat16 import bfloat16_of, worth
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, store_outputs
from rtaccel.kernels._gpu.triton_thirds import thirds_of, total


@triton.jit
def _tile(w, LANE: tl.constexpr, BATCH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """[BATCH, BLOCK_N, BLOCK_K] of elements as they are loaded, [pieces * BATCH, 32 lanes * 8].

    LANE: numbers along K that a lane has of 16 in a row of a fragment, 2 or 4. A lane's 8 elements are 2 along K, then 2 of 16
    outputs, then 2 more along K, or with BLOCK_K 8 of the other 16 outputs.
    """
    if BLOCK_K == 8:
        w = tl.reshape(w, (BLOCK_N // 32, BATCH, 8, 4, 2, 2, 2))  # n32, batch, n1, lane, n16, n8, k1
        w = tl.permute(w, (1, 0, 4, 5, 2, 3, 6))
    else:
        w = tl.reshape(w, (BLOCK_N // 16, BLOCK_K // 16, BATCH, 8, 4, 2, 2, 2))  # n16, k16, batch, n1, lane, k, n8, k1
        w = tl.permute(w, (2, 0, 6, 3, 1, 5, 4, 7) if LANE == 2 else (2, 0, 6, 3, 1, 4, 5, 7))
    return tl.reshape(w, (BATCH, BLOCK_N, BLOCK_K))


@triton.jit
def _behind(a, b):
    """[batch, n, 2 k]: b behind a along K."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 1, 3, 2)), (a.shape[0], a.shape[1], 2 * a.shape[2]))


@triton.jit
def _weights(w, LANE: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """The numbers of all elements, the first of each and behind them the second ones: [batch, n, 16 / BITS * k].

    With 8 elements of a row and LANE 4, a lane's 2 of the first numbers and its 2 of the second ones follow each other.
    """
    a, b = bfloat16_of(w, 0, BITS, ASM), bfloat16_of(w, 1, BITS, ASM)
    if BITS == 4:
        c, d = bfloat16_of(w, 2, BITS, ASM), bfloat16_of(w, 3, BITS, ASM)
    if w.shape[2] == 8 and LANE == 4:
        r = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (w.shape[0], w.shape[1], 4, 2, 2, 2))
        r = tl.reshape(tl.permute(r, (0, 1, 4, 2, 5, 3)), (w.shape[0], w.shape[1], 32))
    elif BITS == 4:
        r = _behind(_behind(a, b), _behind(c, d))
    else:
        r = _behind(a, b)
    return r


@triton.jit
def _of_row(first, second, third):
    """[..., 2, 2]: the columns of a row of x, first third, zero, second and third."""
    return tl.join(tl.join(first, second), tl.join(tl.zeros_like(first), third))


@triton.jit
def _columns(x, BATCH: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr, ASM: tl.constexpr):
    """float32 x [BATCH * ROWS, PART] as the second factor, [BATCH, PART, 4 * ROWS]."""
    even, odd = tl.split(tl.reshape(x, (BATCH * ROWS, PART // 2, 2)))
    a0, b0, a1, b1, a2, b2 = thirds_of(even, odd, ASM)
    columns = tl.join(_of_row(a0, a1, a2), _of_row(b0, b1, b2))  # [BATCH * ROWS, PART / 2, 2, 2 of columns, 2 of K]
    columns = tl.permute(tl.reshape(columns, (BATCH, ROWS, PART // 2, 2, 2, 2)), (0, 1, 3, 4, 2, 5))
    return tl.permute(tl.reshape(columns, (BATCH, 4 * ROWS, PART)), (0, 2, 1))


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def thirds_kernel(
    x_ptr, weight_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr,
    GROUPS: tl.constexpr, STEPS: tl.constexpr, WARPS: tl.constexpr, LANE: tl.constexpr, ROWS: tl.constexpr, BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """GROUPS: whether weights have scales, one for an output in a part of K."""
    PART: tl.constexpr = 16 // BITS * BLOCK_K
    ELEMENTS: tl.constexpr = BATCH * BLOCK_N * BLOCK_K
    ALL: tl.constexpr = ROWS == 1 and K == STEPS * BATCH * PART
    m0 = tl.program_id(0).to(tl.int64) * ROWS
    first = tl.program_id(1).to(tl.int64) * STEPS
    w_tile = weight_ptr + first * ELEMENTS + (tl.arange(0, ELEMENTS // 256)[:, None] * 256 + tl.arange(0, 256)[None, :])
    if GROUPS:
        s_at = tl.arange(0, BATCH)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        # Not so. But a load of 8 would have x read in pieces of 8, too, where both have one shape.
        s_at = tl.max_contiguous(s_at, (1, 4))
        s_tile = scale_ptr + first * (BATCH * BLOCK_N) + s_at
    at = tl.arange(0, BATCH * ROWS)[:, None]
    row, k0 = at % ROWS, at // ROWS * PART + tl.arange(0, PART)[None, :]
    x_rows = x_ptr + (m0 + row) * K
    nothing = tl.zeros((BATCH, BLOCK_N, 4 * ROWS), tl.float32)
    acc = nothing
    coming = tl.load(w_tile)
    n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    multiplier = tl.load(
        multiplier_ptr + n, mask=n < N, other=0.0
    )  # [1, BLOCK_N]; a way to memory that is not at the end
    offset = tl.load(offset_ptr + n, mask=n < N, other=0.0)
    for step in range(STEPS):
        w = _tile(coming, LANE, BATCH, BLOCK_N, BLOCK_K)
        if STEPS > 1:
            coming = tl.load(w_tile + tl.minimum(step + 1, STEPS - 1) * ELEMENTS)  # on their way meanwhile
        k = step * (BATCH * PART) + k0
        inside = None if ALL else (k < K) & (m0 + row < rows)
        x = tl.load(x_rows + k, mask=inside, other=None if ALL else 0.0)  # [BATCH * ROWS, PART]
        columns = _columns(x, BATCH, ROWS, PART, ASM)
        if GROUPS:
            bits = tl.load(s_tile + step * (BATCH * BLOCK_N))  # [BATCH, BLOCK_N]
            own = tl.dot(_weights(w, LANE, BITS, ASM), columns, nothing)
            scale = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
            acc = tl.fma(own, tl.broadcast_to(scale[:, :, None], own.shape), acc)
        else:
            acc = tl.dot(_weights(w, LANE, BITS, ASM), columns, acc)

    sums = tl.sum(tl.reshape(acc, (BATCH // WARPS, WARPS, BLOCK_N * ROWS, 2, 2)), 4)
    sums = total(tl.sum(sums, 0))  # of a warp, [WARPS, BLOCK_N * ROWS]
    y = tl.reshape(tl.sum(sums, 0), (BLOCK_N, ROWS)) * worth(BITS)
    m = (m0 + tl.arange(0, ROWS))[:, None]
    store_outputs(tl.trans(y), multiplier, offset, None, m * N, n, (m < rows) & (n < N), Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, None, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N, ACTIVATION,
        INT8_OUT, ASM,
    ))  # fmt: skip
