"""2:4 weights on the tensor cores, any M: the compressed form is read, and spread out in registers.

Triton has no sparse tensor-core instruction, so the multiplications are those of the dense weight; the bytes are not. A step
takes block_k / 4 groups of four inputs. Input j of every group is a product of its own: its weights are those values whose place
is j, else 0, and its x every fourth number. Four products of a quarter of the width do the work of the dense one, and nothing
has to move between threads to spread the weights out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue
from rtaccel.kernels._gpu.triton_nan_propagation import nan_propagator
from rtaccel.kernels._gpu.triton_spec import BF16_MMA, INT8_MMA, Specialisation, Tiling, power_of_two
from rtaccel.kernels.linear.triton.mixed import as_operand
from rtaccel.kernels.sparse_linear.triton.rows import KernelConfig, launcher, operands_of, problem_of_size, unsupported
from rtaccel.kernels.sparse_linear.triton.semi import WHERE, nibble, pair_values, pairs_of
from rtaccel.kernels.sparse_linear.triton.semi_pack import pack_pairs


@triton.jit
def _x_of_place(x_row, words, group, in_m, PLACE: tl.constexpr, K: tl.constexpr, WORDS: tl.constexpr):
    """Number 4 group + PLACE of rows of x: a byte of the words that are loaded, or a load of its own."""
    if WORDS:
        x = ((words << (24 - 8 * PLACE)) >> 24).to(tl.int8)
    else:
        at = 4 * group + PLACE
        x = tl.load(x_row + at, mask=in_m & (at < K), other=0)  # [m, groups]
    return x


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def semi_dot_kernel(
    x_ptr, weight_ptr, metadata_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    DOT: tl.constexpr, BF16: tl.constexpr, WORDS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_G: tl.constexpr,
):  # fmt: skip
    """WORDS: x is int8 and lies in words of four, one a group."""
    PAIRS: tl.constexpr = (K + 4 * BLOCK_G - 1) // (4 * BLOCK_G) * BLOCK_G
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < rows, n < N
    row_at = n[:, None].to(tl.int64) * PAIRS
    x_row = x_ptr + m[:, None].to(tl.int64) * (K // 4 if WORDS else K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if DOT == "int8" else tl.float32)
    for g0 in range(0, PAIRS, BLOCK_G):
        group = g0 + tl.arange(0, BLOCK_G)[None, :]
        inside = in_n[:, None] & (group < PAIRS)
        pairs = tl.load(weight_ptr + row_at + group, mask=inside, other=0)  # [BLOCK_N, BLOCK_G]
        first, second = pair_values(pairs, BF16)
        metadata = nibble(metadata_ptr + row_at // 2, group + tl.zeros((BLOCK_N, BLOCK_G), tl.int32), inside)
        words = 0
        if WORDS:
            words = tl.load(x_row + group, mask=in_m[:, None] & (group < K // 4), other=0)  # [BLOCK_M, BLOCK_G]
        for place in tl.static_range(4):
            w = tl.where((metadata & 3) == place, first, 0) + tl.where((metadata >> 2) == place, second, 0)
            x = _x_of_place(x_row, words, group, in_m[:, None], place, K, WORDS)
            w = as_operand(w if BF16 else w.to(tl.int8), DOT, ASM)
            acc = tl.dot(as_operand(x, DOT, ASM), tl.trans(w), acc, out_dtype=acc.dtype)  # [BLOCK_M, BLOCK_N]

    epilogue(acc, m, in_m, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem, ("2:4",))
    if reason is not None:
        return reason
    if problem.weight_format is WeightFormat.FLOAT32:
        return "has no form for float32 values, whose places take what the zeros save"
    return None


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """Not measured on a card."""
    groups = 64 if config.x == "int8" else 32
    tile = Tiling(power_of_two(rows, 16, 64), 16 if config.n <= 2048 else 32, 4 * groups, num_warps=4, num_stages=3)
    words = config.x == "int8" and config.k % 4 == 0
    return Specialisation(
        name=f"sparse_semi_dot_M{tile.block_m}_{config}",
        kernel=semi_dot_kernel,
        signature=config.signature(WHERE, weight_ptr=pairs_of(config), **({"x_ptr": "*i32"} if words else {})),
        constants={
            **config.constants, "DOT": "int8" if config.x == "int8" else "bf16", "BF16": config.weight == "bfloat16",
            "WORDS": words, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_G": groups,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of(problem, 1, 4)
    spec = specialize(config, problem.matrix_rows)
    groups = spec.constants["BLOCK_G"]
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack_pairs(weight, groups))
    if config.x == "int8":
        return launcher(config, spec, there, scalars, torch.int32 if spec.constants["WORDS"] else torch.int8)
    return launcher(config, spec, there, scalars, torch.float32, nan_propagator(config.k, config.n))


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, activation, out, requires in (
        ("dynamic", 1024, 2304, 64, "none", "float32", (INT8_MMA,)),
        ("bfloat16", 1024, 2304, 16, "none", "float32", (BF16_MMA,)),
    ):
        problem = problem_of_size(k, n, kind, "2:4", rows, activation=activation, out=out)
        yield specialize(KernelConfig.of(problem, 1, 4), rows).with_requirements(*requires)


register_impl(Impl("sparse_linear", "triton_semi_dot", "triton", 10, supports, prepare))
