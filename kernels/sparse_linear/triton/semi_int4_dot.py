"""2:4 weights with int4 values on the tensor cores, W4A8, any number of rows.

A step multiplies a piece of a scale group: its fours side by side, four times over, once for each place that a number of a four
can have, by the x of those places. The order of a sum does not matter, and nothing has to move between threads to spread the
weights out. For each four inputs

    values [N, fours]        int8    first value in the low half, second in the high one
    places [N, fours / 2]    uint8   of fours f and f + F / 2 of a piece of F fours: the first in the low half
    scales [N, groups]       int16   the bits of bfloat16

Sums of a group are int32, exact; groups are added in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue
from rtaccel.kernels._gpu.triton_spec import INT8_MMA, Specialisation, Tiling, power_of_two
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear.triton.rows import KernelConfig, launcher, operands_of, problem_of_size
from rtaccel.kernels.sparse_linear.triton.semi_int4 import LINE, select_config, unsupported
from rtaccel.kernels.sparse_linear.triton.semi_pack import grouped

WHERE = {"metadata_ptr": "*u8", "scale_ptr": "*i16"}


@triton.jit
def _piece(weights, metadata, at, half_at, inside, F: tl.constexpr, BLOCK_N: tl.constexpr):
    """int8 [BLOCK_N, 4 F]: the weights of a piece, by place and four. at: of its first value; half_at: of its first places."""
    j = tl.arange(0, 4 * F)[None, :] + tl.zeros((BLOCK_N, 4 * F), tl.int32)
    four, place = j % F, j // F
    values = tl.load(weights + at + four, mask=inside, other=0)  # [BLOCK_N, 4 F]
    both = tl.load(metadata + half_at + four % (F // 2), mask=inside, other=0).to(tl.int32)  # [BLOCK_N, 4 F]
    where = (both >> (four // (F // 2) * 4)) & 15
    first, second = (values << 4).to(tl.int8) >> 4, values >> 4
    return (tl.where((where & 3) == place, first, 0) + tl.where((where >> 2) == place, second, 0)).to(tl.int8)


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def semi_int4_dot_kernel(
    x_ptr, weight_ptr, metadata_ptr, scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    GROUP: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """F: fours of a piece of a group."""
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP
    PIECES: tl.constexpr = GROUP // (4 * F)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < rows, n < N
    j = tl.arange(0, 4 * F)[None, :]
    x_row = x_ptr + m[:, None].to(tl.int64) * K
    values = weight_ptr + n[:, None].to(tl.int64) * (GROUPS * GROUP // 4)
    metadata = metadata_ptr + n[:, None].to(tl.int64) * (GROUPS * GROUP // 8)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for group in range(GROUPS):
        part = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
        for piece in tl.static_range(PIECES):
            at = (group * PIECES + piece) * F
            w = _piece(values, metadata, at, at // 2, in_n[:, None], F, BLOCK_N)
            k = 4 * (at + j % F) + j // F
            x = tl.load(x_row + k, mask=in_m[:, None] & (k < K), other=0)  # [BLOCK_M, 4 F]
            part = tl.dot(x, tl.trans(w), part, out_dtype=tl.int32)  # [BLOCK_M, BLOCK_N]
        bits = tl.load(scale_ptr + n.to(tl.int64) * GROUPS + group, mask=in_n, other=0).to(tl.int32)  # [BLOCK_N]
        acc += part.to(tl.float32) * (bits << 16).to(tl.float32, bitcast=True)[None, :]

    epilogue(acc, m, in_m, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem)
    if reason is None and not 0 < problem.in_widths[0] <= linear.MAX_K:
        return f"takes 1 to {linear.MAX_K} inputs, not K = {problem.in_widths[0]}"
    return reason


def piece_of(group: int) -> int:
    """Inputs of a piece: the largest power of two that divides a group, from LINE to 128."""
    return min(group & -group, 4 * LINE)


def specialize(config: KernelConfig, group: int, rows: int) -> Specialisation:
    """Not measured on a card."""
    piece = piece_of(group)
    tile = Tiling(power_of_two(rows, 16, 64), 16 if config.n <= 2048 else 32, piece, num_warps=4, num_stages=2)
    return Specialisation(
        name=f"sparse_semi_int4_dot_g{group}_M{tile.block_m}_{config}",
        kernel=semi_int4_dot_kernel,
        signature=config.signature(WHERE),
        constants={
            **config.constants, "GROUP": group, "F": piece // 4, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
        },
        tiling=tile,
    )  # fmt: skip


def pack(packed: Tensor, group_scale: Tensor, k: int, group: int) -> dict[str, Tensor]:
    """As above, of an int4 weight as a state dict stores it, dense; zeros beyond K."""
    values, metadata = grouped(int4.unpack(packed, k))
    fours = -(-k // group) * group // 4
    more = fours - values.shape[1]
    if more < 0:
        values, metadata = values[:, :fours], metadata[:, :fours]
    values, metadata = (
        torch.nn.functional.pad(values, (0, 0, 0, max(more, 0))),
        torch.nn.functional.pad(metadata, (0, max(more, 0))),
    )
    low, high = metadata.reshape(metadata.shape[0], -1, 2, piece_of(group) // 8).unbind(2)
    return {
        "weight_ptr": (values[..., 0] & 15) | (values[..., 1] << 4),
        "metadata_ptr": (low | (high << 4)).flatten(1),
        "scale_ptr": group_scale.bfloat16().view(torch.int16),
    }


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    config, group = select_config(problem), int(stage.attrs["group_size"])
    scale = stage.tensors["group_scale"]
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, scale, config.k, group))
    return launcher(config, specialize(config, group, problem.matrix_rows), there, scalars, torch.int8)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, group, activation in (
        ("w4a8-dynamic", 1024, 2304, 16, 128, "none"),
        ("w4a8-static", 1024, 1024, 64, 32, "relu"),
    ):
        problem = problem_of_size(k, n, kind, "2:4", rows, activation=activation, group_size=group)
        yield specialize(select_config(problem), group, rows).with_requirements(INT8_MMA)


register_impl(Impl("sparse_linear", "triton_semi_int4_dot", "triton", 10, supports, prepare))
