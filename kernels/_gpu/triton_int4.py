"""int4 weights in groups times int8 vectors, as sums in the order that the CPU's kernels have: the same float32 bits.

    acc = 0;  for each group g along k, in order:  acc = fma(float32(D_g), scale_g, acc),  D_g = sum over the group, exact

A word holds eight weights that follow each other along k: byte b has k = b in its lower half and k = 4 + b in its upper one. So
`(w << 4) & 0xF0F0F0F0` and `w & 0xF0F0F0F0` are the operands of two dp4a with two words of x that follow each other, each
byte 16 times the weight; 1/16 is in the scale, exactly. A lane reads 16 bytes of weights, a group of 32: its sum stays in the
lane. A row of TILE weights lies in a few lanes, which hand their sums over one after the other: the order is fixed, and
no value changes its layout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_device import dot4, fma_rn

GROUP_SIZES = (16, 32, 64, 128)
"""That the kernels take: a tile of 128 weights is whole groups."""


@triton.jit
def dot8(w, low, high, ASM: tl.constexpr):
    """16 times the sum of eight products: the int4 of the words w, and int8 of the words low and high; tiles of one shape.

    One block of assembly, and volatile: weights that stay in registers would else be unpacked before the loop, to twice as many.
    """
    if ASM:
        r = tl.inline_asm_elementwise(
            """{
            .reg .b32 part;
            shl.b32 part, $1, 4;
            and.b32 part, part, 0xF0F0F0F0;
            dp4a.s32.s32 part, part, $2, 0;
            .reg .b32 upper;
            and.b32 upper, $1, 0xF0F0F0F0;
            dp4a.s32.s32 $0, upper, $3, part;
            }""",
            "=r,r,r,r", [w, low, high], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        r = dot4((w << 4) & -252645136, low, tl.zeros_like(w), False)  # 0xF0F0F0F0
        r = dot4(w & -252645136, high, r, False)
    return r


@triton.jit
def add_groups(
    acc, tile, low, high, scales_ptr, stride, n, FIRST: tl.constexpr, GROUP: tl.constexpr, ASM: tl.constexpr
):
    """acc float32 [N] after the groups of one tile [N, W] of words, in order. low, high: the even and the odd words of x [W].

    scales: words of two bfloat16, those of group 2 i and 2 i + 1 of row n at [i, n], rows `stride` apart; FIRST: the tile's first
    group.
    """
    W: tl.constexpr = tile.shape[1]
    COUNT: tl.constexpr = W * 8 // GROUP
    sums = dot8(tile, tl.broadcast_to(low[None, :], tile.shape), tl.broadcast_to(high[None, :], tile.shape), ASM)
    sums = tl.sum(tl.reshape(sums, (tile.shape[0], COUNT, GROUP // 8)), 2)
    group = tl.arange(0, COUNT)[None, :]
    for g in tl.static_range(COUNT):
        one = sums
        if COUNT > 1:
            one = tl.where(group == g, sums, 0)
        total = tl.sum(one, 1).to(tl.float32)
        pair = tl.load(scales_ptr + (FIRST + g) // 2 * stride + n)
        if (FIRST + g) % 2 == 0:
            scale = (pair << 16).to(tl.float32, bitcast=True)
        else:
            scale = (pair & -65536).to(tl.float32, bitcast=True)
        acc = fma_rn(total, scale, acc, ASM)
    return acc


def pack_words(q: Tensor) -> Tensor:
    """int32 words [N, K / 8] of int8 q [N, K] in -8..7, K a multiple of 8."""
    low, high = q.view(q.shape[0], -1, 2, 4).unbind(2)
    return ((low & 15) | (high << 4)).reshape(q.shape[0], -1).contiguous().view(torch.int32)


def unpacked(
    weight: Tensor, group_scale: Tensor, k: int, group_size: int, rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """(int8 q [rows, columns], words of scales / 16 [ceil(groups / 2), rows]) of a weight [N, k] as the format stores it; zeros
    beyond it. columns: a multiple of the group size."""
    q = torch.zeros((rows, columns), dtype=torch.int8)
    q[: weight.shape[0], :k] = int4.unpack(weight.cpu(), k)
    groups = columns // group_size
    scales = torch.zeros((rows, groups + groups % 2))
    scales[: weight.shape[0], : group_scale.shape[1]] = group_scale.cpu() / 16
    bits = scales.bfloat16().view(torch.int16).to(torch.int32).view(rows, -1, 2)
    return q, ((bits[..., 0] & 0xFFFF) | (bits[..., 1] << 16)).T.contiguous()
