"""Linear of float32 rows for up to eight of them: bfloat16, W8A16 and W4A16 weights, one warp per output, the weights read once.

Below the tensor cores' tile of 16 rows most of what they do is padding, and x would be rounded to bfloat16. Here weights are
read as 32-bit words of several, made float32 and multiplied as such; float32 sums, no rounding of x.

The order of weights in a word spares every exchange: of a line of G numbers along K, held by S = G / P words of P weights each,
word i holds numbers i, i + S, i + 2 S, ... So the first weights of a lane's words meet consecutive numbers of x, and those of its
neighbors go on from there; so do the second ones. With S = 32 eight lanes read a line of 128 bytes of x. In lines of 16 bytes
lanes would be 128 bytes apart for int4, and each load of x take 32 wavefronts for 4. S numbers lie within a group of int4; a line
may have several. Where a line of S = 32 would be padded by more than a twentieth, S is smaller.

An integer becomes a float32 without a conversion: the bits of q + offset below those of 2^23 are the number 2^23 + offset + q,
from which one exact subtraction leaves q. Bits that lie higher by AT are that below those of 2^(23 - AT), so they need no shift.

A lane has one scale in a step of int4, and neighbors often the same. Triton 3.6 then lays them out down the rows, and moves
every sum there through shared memory, with two barriers. It is told that two neighbors read two numbers that follow each
other, which has no other effect where a lane has one. The weights of a step are loaded while those of the step before are
multiplied.

Where tiles are few, programs share the sum over K (triton/split.py). The end is that of every other form (triton_epilogue.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.formats import int4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_types
from rtaccel.kernels._gpu.triton_rows import too_many_rows
from rtaccel.kernels._gpu.triton_spec import (
    MAX_N,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    leave_out,
    power_of_two,
)
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton.float_call import prepared_call
from rtaccel.kernels.linear.triton.mixed_config import WEIGHTS, KernelConfig
from rtaccel.kernels.linear.triton.split import parts_of, split_epilogue


@triton.jit
def _weight(word, j: tl.constexpr, BITS: tl.constexpr):
    """Weight j of every word as float32; int8 and int4 are stored with 128 and 8 added."""
    if BITS == 16:
        bits = word << 16 if j == 0 else word & -65536
        w = bits.to(tl.float32, bitcast=True)
    else:
        OFFSET: tl.constexpr = 128 if BITS == 8 else 8
        # Bits of a number must be within the 23 of a fraction; those that are not come down by one shift of the word.
        DOWN: tl.constexpr = 12 if BITS == 4 and j > 4 else 16 if BITS == 8 and j > 1 else 0
        AT: tl.constexpr = BITS * j - DOWN
        ONE: tl.constexpr = (150 - AT) << 23  # the bits of 2^(23 - AT), of which bit AT is worth 1
        there = (word >> DOWN if DOWN else word) & (((1 << BITS) - 1) << AT)
        w = (there | ONE).to(tl.float32, bitcast=True) - (2.0 ** (23 - AT) + OFFSET)
    return w


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def gemv_float_kernel(
    x_ptr, weight_ptr, scale_ptr, work_ptr, count_ptr,
    y_ptr, multiplier_ptr, offset_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    BITS: tl.constexpr, LINE: tl.constexpr, RUN: tl.constexpr, GROUP: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    PER_WORD: tl.constexpr = 32 // BITS
    SHARE: tl.constexpr = LINE // PER_WORD  # words of a line
    STEPS: tl.constexpr = (WORDS + BLOCK_W - 1) // BLOCK_W
    EACH: tl.constexpr = (STEPS + SPLIT - 1) // SPLIT
    m0 = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    word = tl.arange(0, BLOCK_W)[None, :]
    in_n = (n < N)[:, None]
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    w_row = weight_ptr + n[:, None].to(tl.int64) * WORDS
    x_row = x_ptr + m0 * K

    QUAD: tl.constexpr = 4 if GROUP else 1  # words of a lane: they have the same scales, which are loaded once
    RUNS: tl.constexpr = PER_WORD // RUN
    GROUPS: tl.constexpr = (K + GROUP - 1) // GROUP if GROUP else 0
    accs = ()
    for _ in tl.static_range(ROWS):
        accs = accs + (tl.zeros((BLOCK_N, BLOCK_W // QUAD), tl.float32),)  # noqa: RUF005
    last = tl.minimum((part + 1) * EACH * BLOCK_W, WORDS)
    at = part * EACH * BLOCK_W + word
    # Without padding nothing that a program reads is outside, and loads need no mask.
    ALL: tl.constexpr = ROWS == 1 and K == WORDS * PER_WORD and WORDS == STEPS * BLOCK_W and EACH * SPLIT == STEPS
    WHOLE: tl.constexpr = ALL and N % BLOCK_N == 0
    words = (
        tl.load(w_row + at) if WHOLE else tl.load(w_row + at, mask=in_n & (at < last), other=0)
    )  # [BLOCK_N, BLOCK_W]
    for step in range(EACH):
        first = (part * EACH + step) * BLOCK_W
        at = first + word
        ahead = at + BLOCK_W
        coming = tl.load(w_row + ahead, mask=in_n & (ahead < last), other=0)  # on their way while these are multiplied
        k0 = at // SHARE * LINE + at % SHARE + zero
        for run in tl.static_range(RUNS):
            sums = ()
            for r in tl.static_range(ROWS):
                within = m0 + zero + r < rows  # a tile, because the interpreter of triton 3.9 widens a scalar condition
                total = tl.zeros((BLOCK_N, BLOCK_W), tl.float32) if GROUP else accs[r]
                for j in tl.static_range(RUN):
                    k = k0 + (run * RUN + j) * SHARE
                    inside = None if ALL else (k < K) & within
                    x = tl.load(x_row + r * K + k, mask=inside, other=None if ALL else 0.0)  # [BLOCK_N, BLOCK_W]
                    total = tl.fma(x, _weight(words, run * RUN + j, BITS), total)
                sums = sums + (total,)  # noqa: RUF005
            if GROUP:
                quad = first // QUAD + tl.arange(0, BLOCK_W // QUAD)[None, :]
                group = (quad // (SHARE // QUAD) * LINE + run * RUN * SHARE) // GROUP
                group = tl.max_contiguous(group, (1, 2))  # not so, see above; a lane has one
                s_row = scale_ptr + n[:, None].to(tl.int64) * GROUPS
                known = None if WHOLE else in_n & (group < GROUPS)
                bits = tl.load(s_row + group, mask=known, other=None if WHOLE else 0)  # [BLOCK_N, BLOCK_W // QUAD]
                scale = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
                scaled = ()
                for r in tl.static_range(ROWS):
                    own = tl.sum(tl.reshape(sums[r], (BLOCK_N, BLOCK_W // QUAD, QUAD)), 2)
                    scaled = scaled + (tl.fma(own, scale, accs[r]),)  # noqa: RUF005
                accs = scaled
            else:
                accs = sums
        words = coming

    row = tl.arange(0, ROWS)
    acc = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for r in tl.static_range(ROWS):
        acc = tl.where((row == r)[:, None], tl.sum(accs[r], 1)[None, :], acc)
    m = tl.program_id(0) * ROWS + row
    in_m = m < rows
    split_epilogue(acc, m, in_m, n, None, work_ptr, count_ptr, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, None, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N, ACTIVATION,
        INT8_OUT, ASM,
    ), SPLIT)  # fmt: skip


ROWS_OF_A_PROGRAM = 4
"""With eight the assembler of triton 3.9 runs out of registers for compute capability 10.0. Two programs then share the weights
by way of L2."""

REGISTERS = 64
"""Of a thread where a program has one row: four programs fit a multiprocessor. Left to itself the assembler takes 32 and loads
weights of the next step at the end of this one."""

BITS = {"bf16": 16, "int8": 8, "int4": 4}


PADDED = 1.05
"""Weights with their padding, of those that are there, up to which a line is as long as it may be."""


@dataclass(frozen=True)
class Shape:
    """How the weights of a form lie: `bits` each, in lines of `line` numbers along K, `words` int32 words a row. run: numbers of
    a word, one after the other, that lie in the same group; all where there are no groups."""

    bits: int
    line: int
    words: int
    run: int

    @classmethod
    def of(cls, config: KernelConfig) -> Shape:
        bits, group = BITS[config.weight], config.group
        per_word = 32 // bits
        fitting = [share for share in (32, 16, 8, 4) if group % share == 0]
        share = next((s for s in fitting if _lines(config.k, s * per_word) * s * per_word <= PADDED * config.k), 4)
        line, run = share * per_word, per_word
        if group and group % line:
            run = group // share if line % group == 0 else 1
        return cls(bits, line, _lines(config.k, line) * share, run)


def _lines(k: int, line: int) -> int:
    return -(-k // line)


def supports(problem: Problem) -> str | None:
    """Of `linear`, and of `fused_linear` with no quantization of its own."""
    if problem.in_dtypes[0] != "float32":
        return f"reads float32 activations, not {problem.in_dtypes[0]}"
    if WEIGHTS.get(problem.weight_format) not in BITS:
        return f"has no form for {problem.weight_format} weights"
    if problem.out_widths[0] > MAX_N:
        return f"has a program for each 8 outputs, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    shape = Shape.of(KernelConfig.of_linear(problem))
    params = 128 // shape.bits  # of 16 bytes: a multiply-add each, and a load of x for four
    return too_many_rows(problem.matrix_rows, 4 * shape.words * problem.out_widths[0], params + params // 4)


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    shape = Shape.of(config)
    outputs, block_w = power_of_two(config.n, 1, 8), power_of_two(shape.words, 32, 128)
    split = parts_of(-(-config.n // outputs), -(-shape.words // block_w))
    tile = Tiling(power_of_two(rows, 1, ROWS_OF_A_PROGRAM), outputs, block_w * 32 // shape.bits, num_warps=outputs)
    signature, absent = leave_out(
        {
            "x_ptr": "*fp32", "weight_ptr": "*i32", "scale_ptr": "*i16", "work_ptr": "*fp32", "count_ptr": "*i32",
            **epilogue_types(config.int8_out, "residual_ptr"), "rows": "i32",
        },
        scale_ptr=config.group, work_ptr=split > 1, count_ptr=split > 1, residual_ptr=config.residual,
    )  # fmt: skip
    return Specialisation(
        name=f"linear_gemv_M{tile.block_m}_{config}" + (f"_split{split}" if split > 1 else ""),
        kernel=gemv_float_kernel,
        signature=signature,
        constants={
            "N": config.n, "ACTIVATION": config.activation, "INT8_OUT": config.int8_out, "ASM": not settings.triton_interpret(),
            "K": config.k, "BITS": shape.bits, "LINE": shape.line, "RUN": shape.run, "GROUP": config.group, "WORDS": shape.words,
            "ROWS": tile.block_m, "SPLIT": split, "BLOCK_N": outputs, "BLOCK_W": block_w, **absent,
        },
        tiling=tile,
        registers=REGISTERS if tile.block_m == 1 else 0,
    )  # fmt: skip


def pack(config: KernelConfig, weight: Tensor) -> Tensor:
    """int32 words [N, words] in the order above."""
    shape = Shape.of(config)
    per_word = 32 // shape.bits
    share = shape.line // per_word
    lines = shape.words // share
    if config.weight == "bf16":
        params = weight.view(torch.int16).to(torch.int32) & 0xFFFF
    elif config.weight == "int8":
        params = weight.to(torch.int32) + 128
    else:
        params = int4.unpack(weight, config.k).to(torch.int32) + 8
    padded = torch.zeros((config.n, lines * shape.line), dtype=torch.int64)
    padded[:, : config.k] = params
    parts = padded.view(config.n, lines, per_word, share)
    shifts = shape.bits * torch.arange(per_word)[:, None]
    words = (parts << shifts).sum(2)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).view(config.n, shape.words)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""
    return prepared("linear", KernelConfig.of_linear(problem), contract.lower(stage), problem)


def prepared(op: str, config: KernelConfig, low: Mapping[str, Any], problem: Problem) -> Prepared:
    """x float32 [M, K] and, where the form has one, residual float32 [M, N] -> y [M, N]."""
    weights = {"weight_ptr": pack(config, low["weight"])}
    if config.group:
        weights["scale_ptr"] = low["group_scale"].bfloat16().view(torch.int16).contiguous()
    return prepared_call(op, config, low, problem, specialize(config, problem.matrix_rows), weights)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    make = contract_weights.make_stage
    for stage, rows in (
        (make(1024, 1024, "w4a16"), 1),
        (make(1024, 1024, "w4a16", "relu", group_size=128), 8),
        (make(4096, 256, "w8a16", "gelu"), 4),
        (make(640, 128, "bfloat16", "relu"), 1),
        (make(4096, 4096, "w4a16", group_size=128), 1),
    ):
        yield specialize(KernelConfig.of_linear(Problem.of(stage, rows, "cuda")), rows).with_requirements(
            WIDE_LOAD, "FFMA"
        )


register_impl(Impl("linear", "triton_gemv_float", "triton", 20, supports, prepare))
