"""2:4 weights from their compressed form, up to four rows: what is read is the two values of each four and their places.

int8 x int8: a word of weights holds the values of two groups of four inputs, a byte beside it their four places. The places
become the selector of one byte permutation that picks what the values multiply from two words of x; one dp4a sums it. For each 32
inputs, 16 bytes of values and 4 of places, 20 where dense weights have 32. Of `fused_sparse_linear` x is float32, which the
program rounds and holds:

    values [N, lines, 4]  int32   word j of a line: groups j and 4 + j of its eight
    places [N, lines, 4]  uint8   two bits each, of group j in the low four

Float32 x: two values of a group in one word (bfloat16) or half a word (int8), multiplied by the x that they name.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import semi
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, sums_of_rows
from rtaccel.kernels._gpu.triton_spec import FUSED, GPU_DP4A, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.sparse_linear.triton.gemv_float import finite_row
from rtaccel.kernels.sparse_linear.triton.permute import pick_bytes
from rtaccel.kernels.sparse_linear.triton.rows import (
    MAX_ROWS,
    KernelConfig,
    held_words,
    launcher,
    more_than_few,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import held_rows, x_words

GROUPS = 8
"""Of a line: 32 inputs."""

PERMUTE = r"PRMT"
WHERE = {"metadata_ptr": "*u8"}


@triton.jit
def selector(metadata):
    """Of `pick_bytes`, from the places of two groups: bytes 0 and 1 from the first word, 2 and 3 from the second."""
    apart = (metadata | (metadata << 4)) & 0x0F0F
    return ((apart | (apart << 2)) & 0x3333) | 0x4400


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def semi_gemv_kernel(
    x_ptr, weight_ptr, metadata_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    QUANTIZE: tl.constexpr, HELD: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """HELD: words of a row of x that the program holds, 0 for none."""
    X_WORDS: tl.constexpr = (K + 3) // 4
    W_WORDS: tl.constexpr = (K + 31) // 32 * 4
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, BLOCK_W)[None, :]
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    row_at = n[:, None].to(tl.int64) * W_WORDS
    x_row = x_ptr + m * (K if QUANTIZE else X_WORDS)
    held, scales = held_rows(x_row, m, rows, ROWS, K, HELD, QUANTIZE)

    accs = (zero,) * ROWS
    for w0 in range(0, W_WORDS, BLOCK_W):
        at = w0 + word + zero
        inside = (at < W_WORDS) & (n < N)[:, None]
        w = tl.load(weight_ptr + row_at + at, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        metadata = tl.load(metadata_ptr + row_at + at, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        pick = selector(metadata.to(tl.int32))
        x_at = at // 4 * 8 + at % 4
        first, second = x_at < X_WORDS, x_at + 4 < X_WORDS
        sums = ()
        for r in tl.static_range(ROWS):
            within = m + zero + r < rows
            low = x_words(held[r], x_row + r * X_WORDS, x_at, first & within, HELD)
            high = x_words(held[r], x_row + r * X_WORDS, x_at + 4, second & within, HELD)
            sums = sums + (dot4(w, pick_bytes(low, high, pick, ASM), accs[r], ASM),)  # noqa: RUF005
        accs = sums

    epilogue_of_rows(sums_of_rows(accs, ROWS, True), m, rows, n[None, :], scales if QUANTIZE else None, Epilogue(
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
def nibble(metadata_ptr, group, mask):
    """Places of a group, two in a byte."""
    return (tl.load(metadata_ptr + group // 2, mask=mask, other=0).to(tl.int32) >> (group % 2 * 4)) & 15


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
    acc = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    for g0 in range(0, PAIRS, BLOCK_W):
        group = g0 + tl.arange(0, BLOCK_W)[None, :] + tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
        inside = (group < PAIRS) & (n < N)[:, None]
        pairs = tl.load(weight_ptr + row_at + group, mask=inside, other=0)  # [BLOCK_N, BLOCK_W]
        first, second = pair_values(pairs, BF16)
        byte = g0 // 2 + tl.arange(0, BLOCK_W // 2)[None, :]  # of two groups, in the lane that has both
        metadata = tl.load(metadata_ptr + row_at // 2 + byte, mask=(byte * 2 < PAIRS) & (n < N)[:, None], other=0)
        metadata = (repeated(metadata.to(tl.int32), 2) >> (group % 2 * 4)) & 15
        # Not so, for the layout alone (triton_tiles.repeated): they may be odd, so no load takes two at once.
        first_at = tl.max_contiguous(group * 4 + (metadata & 3), (1, 2))
        second_at = tl.max_contiguous(group * 4 + (metadata >> 2), (1, 2))
        x_first = tl.load(x_row + first_at, mask=inside & (first_at < K), other=0.0)  # [BLOCK_N, BLOCK_W]
        x_second = tl.load(x_row + second_at, mask=inside & (second_at < K), other=0.0)  # [BLOCK_N, BLOCK_W]
        acc = tl.fma(second.to(tl.float32), x_second, tl.fma(first.to(tl.float32), x_first, acc))
    total = tl.where(finite_row(x_row, K, BLOCK_N, BLOCK_W), tl.sum(acc, 1)[None, :], float("nan"))
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
    reason = more_than_few(problem)
    if reason is None and problem.in_dtypes[0] == "int8" and problem.in_widths[0] % 4:
        reason = f"reads x in words of 4 bytes: K must be a multiple of 4, not {problem.in_widths[0]}"
    return reason


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """One warp per output, up to eight in a program, 16 bytes of values per lane and step. Not measured on a card."""
    outputs, int8 = power_of_two(config.n, 1, 8), config.x == "int8" or config.quantize
    m = power_of_two(rows, 1, MAX_ROWS) if int8 else 1
    tile = Tiling(block_m=m, block_n=outputs, block_k=1024 if int8 else 512, num_warps=outputs)
    words: dict[str, object] = {"BLOCK_N": outputs, "BLOCK_W": 128}
    if int8:
        words |= {
            "ROWS": m,
            "QUANTIZE": config.quantize,
            "HELD": held_words(config.k, outputs) if config.quantize else 0,
        }
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
        registers=64 if m == MAX_ROWS else 0,  # left to itself triton 3.6 spills two
    )


def pairs_of(config: KernelConfig) -> str:
    return "*i32" if config.weight == "bfloat16" else "*i16"


def grouped(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N, groups, 2] and places uint8 [N, groups], two bits each; the groups padded to whole lines."""
    values, positions = semi.pack(weight, "sparse_linear")
    n, groups = weight.shape[0], semi.groups_of(weight.shape[1])
    more = -groups % GROUPS
    metadata = torch.stack((positions & 15, positions >> 4), 2).flatten(1)[:, :groups]
    return (
        torch.nn.functional.pad(values.view(n, groups, 2), (0, 0, 0, more)),
        torch.nn.functional.pad(metadata, (0, more)),
    )


def pack_lines(weight: Tensor) -> dict[str, Tensor]:
    """As the int8 kernel reads them."""
    values, metadata = grouped(weight)
    n = weight.shape[0]
    words = values.view(n, -1, 2, 4, 2).transpose(2, 3).flatten(1).contiguous().view(torch.int32)
    low, high = metadata.view(n, -1, 2, 4).unbind(2)
    return {"weight_ptr": words, "metadata_ptr": (low | (high << 4)).reshape(n, -1)}


def pack_pairs(weight: Tensor, groups: int = GROUPS) -> dict[str, Tensor]:
    """A word or half a word a group, and places two in a byte; the groups a multiple of so many."""
    values, metadata = grouped(weight)
    more = -metadata.shape[1] % groups
    values, metadata = (
        torch.nn.functional.pad(values, (0, 0, 0, more)).contiguous(),
        torch.nn.functional.pad(metadata, (0, more)),
    )
    pairs = values.view(torch.int32 if weight.dtype == torch.bfloat16 else torch.int16).squeeze(2)
    return {"weight_ptr": pairs, "metadata_ptr": metadata[:, 0::2] | (metadata[:, 1::2] << 4)}


def prepare(stage: Stage, problem: Problem, quantize: bool = False) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem.
    quantize: x is float32 instead of int8, and quantized here."""
    config = KernelConfig.of(problem, 1, 4)
    int8 = config.x == "int8"
    there, scalars = operands_of(stage, config, problem.device, pack_lines if int8 else pack_pairs)
    config = config.fused(quantize)
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
