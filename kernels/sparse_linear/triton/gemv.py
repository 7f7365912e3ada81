"""Sparse W8A8 linear for up to four rows: dp4a on the words that are there, one warp per output, each weight read once.

As the dense kernel (linear/triton/gemv.py), but a row of weights is only its blocks, and x is gathered: word j of a row
multiplies word columns[j // c] * c + j % c of x, c being the words of a block. A weight without a pattern gathers word by word,
from the shared memory where its program holds x. Its words are packed so that few lanes of a warp meet in a bank. Blocks of
several outputs are computed by tall.py.

With the operator `fused_sparse_linear` x is float32, and the program that holds it quantizes it first: a layer with dynamic rows
is one launch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, sums_of_rows
from rtaccel.kernels._gpu.triton_spec import FUSED, GPU_DP4A, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels.sparse_linear.triton import tall
from rtaccel.kernels.sparse_linear.triton.pack import pack
from rtaccel.kernels.sparse_linear.triton.rows import (
    LARGEST,
    MAX_ROWS,
    OUTPUTS,
    KernelConfig,
    held_words,
    launcher,
    more_than_few,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import held_rows, streams, take, x_words

WORD = 4


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def sparse_gemv_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    QUANTIZE: tl.constexpr, SCALED: tl.constexpr, C: tl.constexpr, LEAD: tl.constexpr, HELD: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """C words are a block, LEAD units a whole number of lines. HELD: words of a row of x that the program holds, 0 for none."""
    X_WORDS: tl.constexpr = (K + 3) // 4
    UNIT: tl.constexpr = C if C > 4 else 4
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    x_row = x_ptr + m * (X_WORDS if QUANTIZE == "" else K)
    held, scales = held_rows(x_row, m, rows, x_inv_scale, x_zero_point, ROWS, K, HELD, QUANTIZE)
    weights, columns, begin, end = streams(weight_ptr, columns_ptr, starts_ptr, n, N, X_WORDS, C, UNIT, LEAD)

    accs = (zero,) * ROWS
    for w0 in range(0, tl.max(end), BLOCK_W):
        w, x_at, inside = take(weights, columns, w0, begin, end, X_WORDS, C, BLOCK_N, BLOCK_W)
        sums = ()
        for r in tl.static_range(ROWS):
            within = inside & (m + zero + r < rows)
            x = x_words(held[r], x_row + r * X_WORDS, x_at, within, HELD)  # [BLOCK_N, BLOCK_W]
            sums = sums + (dot4(w, x, accs[r], ASM),)  # noqa: RUF005
        accs = sums

    epilogue_of_rows(sums_of_rows(accs, ROWS, True), m, rows, n[None, :], scales if SCALED else None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem, ("window", "blocks"))
    if reason is None and problem.in_dtypes[0] != "int8":
        reason = f"reads int8 activations, not {problem.in_dtypes[0]}"
    reason = reason or more_than_few(problem)
    if reason is None and problem.in_widths[0] % WORD:
        reason = f"reads x in words of 4 bytes: K must be a multiple of 4, not {problem.in_widths[0]}"
    return reason


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """One warp per output, up to eight in a program, four words per lane and step. Not measured on a card."""
    if config.together > 1:
        return tall.specialize(config, rows)
    outputs, m = power_of_two(config.n, 1, OUTPUTS), power_of_two(rows, 1, MAX_ROWS)
    tile = Tiling(block_m=m, block_n=outputs, block_k=512, num_warps=outputs)
    held = held_words(config.k, outputs) if config.quantize or config.c == WORD else 0
    return Specialisation(
        name=f"sparse_gemv_M{m}_{config}",
        kernel=sparse_gemv_kernel,
        signature=config.signature(config.where, weight_ptr="*i32", **config.x_in_words),
        constants={
            **config.constants, **config.quantizing, "C": config.c // WORD, "LEAD": config.lead, "HELD": held, "ROWS": m,
            "BLOCK_N": outputs, "BLOCK_W": tile.block_k // WORD,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem, quantize: str = "") -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the
    problem. quantize: x is float32 instead, and quantized here."""
    config = KernelConfig.of_blocks(stage, problem, 1, WORD).fused(quantize)
    spec = specialize(config, problem.matrix_rows)
    gathers = config.c == WORD and config.together == 1 and spec.constants["HELD"]
    each = config.gathered(spec.constants["BLOCK_W"]) if gathers else 0
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, config, each=each))
    there["weight_ptr"] = there["weight_ptr"].view(torch.int32)
    return launcher(config, spec, there, scalars, config.word)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for (k, n, scheme, activation, out), rows, (b, c), forbids in (
        ((1024, 1024, "static", "relu", "int8"), 1, (16, 16), (FUSED,)),
        ((4096, 256, "static", "none", "float32"), 1, (1, WORD), (FUSED,)),
        ((4096, 256, "dynamic", "gelu", "float32"), 4, (LARGEST, LARGEST), ()),
    ):
        problem = problem_of_size(k, n, scheme, "window", rows, activation=activation, out=out)
        config = KernelConfig.of(problem, b, c)
        yield specialize(config, rows).with_requirements(GPU_DP4A, WIDE_LOAD, forbids=forbids)


register_impl(Impl("sparse_linear", "triton_gemv", "triton", 20, supports, prepare))
