"""One time step of many streams of a small LSTM or GRU in Triton: a program has a tile of streams, tensor cores its products.

`triton_stack` has a program for each stream, which reads all weights for one row. Here a tile of 32 streams reads them once. Sums
are exact in int32, and what follows rounds as `kernel.py` does, operation by operation: so the bits are the same. A stream with a
NaN or an infinity, in x or in its states, is NaN, and the others of its tile are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_device import multiply_rn, to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.recurrent import lengths
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.cells import gru_cell, lstm_cell
from rtaccel.kernels.recurrent.triton.config import KernelConfig, Operands
from rtaccel.kernels.recurrent.triton.stack import POINTERS, InPlace, problem_of, states_over

BLOCK_M = 32
"""Streams of a program."""

MIN_STREAMS = 512
"""Of fewer, a program each is on the card at once. Not measured on a card."""

MAX_SIZE = 64
"""Inputs and units: with more, the sums of all gates of a tile do not fit the registers."""

INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def products(q, words_ptr, GATES: tl.constexpr, DEPTH: tl.constexpr, BH: tl.constexpr):
    """int32 [BLOCK_M, BH] for each gate. words: int8 [gates, DEPTH, BH]."""
    d, n = tl.arange(0, DEPTH)[:, None], tl.arange(0, BH)[None, :]
    sums = ()
    for g in tl.static_range(GATES):
        weights = tl.load(words_ptr + (g * DEPTH + d) * BH + n)
        sums = sums + (tl.dot(q, weights, out_dtype=tl.int32),)  # noqa: RUF005
    return sums


@triton.jit
def cells(sums_x, sums_h, params_ptr, compensation_ptr, state, FIRST: tl.constexpr, GATES: tl.constexpr, BH: tl.constexpr,
          ASM: tl.constexpr):  # fmt: skip
    """(h, the state that is carried), as `cell` of kernel.py for a tile of streams."""
    u = tl.arange(0, BH)[None, :]
    from_x, from_h, biases = (), (), ()
    for g in tl.static_range(GATES):
        acc = sums_x[g]
        if FIRST:
            acc += tl.load(compensation_ptr + g * BH + u)
        from_x = from_x + (multiply_rn(acc.to(tl.float32), tl.load(params_ptr + g * BH + u), ASM),)  # noqa: RUF005
        other = tl.load(params_ptr + (GATES + g) * BH + u)
        from_h = from_h + (multiply_rn(sums_h[g].to(tl.float32), other, ASM),)  # noqa: RUF005
        biases = biases + (tl.load(params_ptr + (2 * GATES + g) * BH + u),)  # noqa: RUF005
    t0 = (from_x[0] + from_h[0]) + biases[0]
    t1 = (from_x[1] + from_h[1]) + biases[1]
    if GATES == 4:
        t2, t3 = (from_x[2] + from_h[2]) + biases[2], (from_x[3] + from_h[3]) + biases[3]
        h, after = lstm_cell(t0, t1, t2, t3, state, ASM)
    else:
        bias_n = tl.load(params_ptr + 3 * GATES * BH + u)
        h = gru_cell(t0, t1, from_x[2] + biases[2], from_h[2] + bias_n, state, ASM)
        after = h
    return h, after


@triton.jit
def finite(x):
    """int32 [BLOCK_M, 1]: 1 where all of a row are numbers."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (tl.max(bits, 1, keep_dims=True) < INFINITY_BITS).to(tl.int32)


@triton.jit(do_not_specialize=["x_zero_point", "y_zero_point", "rows"])
def many_kernel(
    x_ptr, y_ptr, h0_ptr, c0_ptr, hn_ptr, cn_ptr, words_ptr, params_ptr, compensation_ptr, x_inverse, x_zero_point, h_inverse,
    y_inverse, y_zero_point, rows, GATES: tl.constexpr, LAYERS: tl.constexpr, K: tl.constexpr, H: tl.constexpr,
    B: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BH: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of streams,). Streams are rows: x [rows, K], y [rows, H], states [rows / B, LAYERS, B, H]."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    there, m = row < rows, row.to(tl.int64)
    k, n = tl.arange(0, BK)[None, :], tl.arange(0, BH)[None, :]
    x = tl.load(x_ptr + m * K + k, mask=there & (k < K), other=0)
    alive = tl.full((BM, 1), 1, tl.int32)
    q = x
    if x.dtype == tl.float32:
        alive = finite(x)
        q = tl.where(k < K, to_int8(x * x_inverse, x_zero_point), 0).to(tl.int8)
    inside = there & (n < H)
    for layer in tl.static_range(LAYERS):
        at = ((m // B * LAYERS + layer) * B + m % B) * H + n
        alive = alive & finite(tl.load(h0_ptr + at, mask=inside, other=0.0))
        if GATES == 4:
            alive = alive & finite(tl.load(c0_ptr + at, mask=inside, other=0.0))
    NUMBERS: tl.constexpr = (3 * GATES + (GATES == 3)) * BH
    for layer in tl.static_range(LAYERS):
        at = ((m // B * LAYERS + layer) * B + m % B) * H + n
        before = tl.load(h0_ptr + at, mask=inside, other=0.0)
        sums_h = products(
            to_int8(before * h_inverse, 0), words_ptr + GATES * (BK if layer == 0 else BH) * BH, GATES, BH, BH
        )
        sums_x = products(q, words_ptr, GATES, BK if layer == 0 else BH, BH)
        words_ptr += GATES * ((BK if layer == 0 else BH) + BH) * BH
        state = before
        if GATES == 4:
            state = tl.load(c0_ptr + at, mask=inside, other=0.0)
        h, after = cells(
            sums_x, sums_h, params_ptr + layer * NUMBERS, compensation_ptr, state, layer == 0, GATES, BH, ASM
        )
        q = to_int8(h * h_inverse, 0)
        tl.debug_barrier()  # states may be written where they lie: all threads have read those of this layer
        tl.store(hn_ptr + at, tl.where(alive != 0, h, float("nan")), mask=inside)
        if GATES == 4:
            tl.store(cn_ptr + at, tl.where(alive != 0, after, float("nan")), mask=inside)
        if layer == LAYERS - 1:
            if y_ptr.dtype.element_ty == tl.int8:
                tl.store(
                    y_ptr + m * H + n, to_int8(tl.where(alive != 0, h, 0.0) * y_inverse, y_zero_point), mask=inside
                )
            else:
                tl.store(y_ptr + m * H + n, tl.where(alive != 0, h, float("nan")), mask=inside)


def unsupported(problem: Problem) -> str | None:
    """None, or why the kernel does not compute a stage at all, however many streams there are."""
    geometry = Geometry.of(problem.attrs)
    if problem.weight_format is not WeightFormat.INT8:
        return f"takes int8 weights, not {problem.weight_format}"
    if geometry.directions != 1 or geometry.time != 1 or len(problem.in_widths) == 1:
        return "computes one time step, with the states in and out"
    if problem.in_dtypes[0] == "float32" and "x_scale" not in problem.attrs:
        return "quantizes x with a static scale"
    if max(problem.in_widths[0], geometry.hidden) > MAX_SIZE:
        return f"has all gates of a tile at once, up to {MAX_SIZE} inputs and units"
    return lengths.refused(problem)


def supports(problem: Problem) -> str | None:
    if problem.rows * Geometry.of(problem.attrs).batch < MIN_STREAMS:
        return f"is for {MIN_STREAMS} streams and more"
    return unsupported(problem)


def _sizes(problem: Problem) -> tuple[int, int]:
    return power_of_two(problem.in_widths[0], 32, MAX_SIZE), power_of_two(
        Geometry.of(problem.attrs).hidden, 32, MAX_SIZE
    )


def specialize(problem: Problem, gates: int) -> Specialisation:
    g, (bk, bh) = Geometry.of(problem.attrs), _sizes(problem)
    x, y = problem.in_dtypes[0], problem.out_dtypes[0]
    floats = ("h0_ptr", "c0_ptr", "hn_ptr", "cn_ptr")
    return Specialisation(
        name=f"{problem.op}_many_K{problem.in_widths[0]}_H{g.hidden}_L{g.layers}_B{g.batch}_{x}_{y}",
        kernel=many_kernel,
        signature={
            "x_ptr": POINTERS[x], "y_ptr": POINTERS[y], **dict.fromkeys(floats, "*fp32"), "words_ptr": "*i8",
            "params_ptr": "*fp32", "compensation_ptr": "*i32", "x_inverse": "fp32", "x_zero_point": "i32", "h_inverse": "fp32",
            "y_inverse": "fp32", "y_zero_point": "i32", "rows": "i32",
        },
        constants={
            "GATES": gates, "LAYERS": g.layers, "K": problem.in_widths[0], "H": g.hidden, "B": g.batch,
            "BM": BLOCK_M, "BK": bk, "BH": bh,
            "ASM": not settings.triton_interpret(),
        },
        tiling=Tiling(BLOCK_M, bh, bk, num_warps=bh // 8),
    )  # fmt: skip


def example(op: str, gates: int, geometry: Geometry, inputs: int) -> Specialisation:
    """The form of a stack of this size, for what is only compiled."""
    return specialize(problem_of(op, gates, geometry, inputs, rows=10_000), gates)


def words_of(low: Mapping[str, Any], geometry: Geometry, gates: int, bk: int, bh: int) -> Tensor:
    """int8: of each layer the weights of x, then those of h, [gates, columns padded, units padded]."""
    found = []
    for layer, _, suffix in geometry.suffixes():
        for which, depth in (("ih", bk if layer == 0 else bh), ("hh", bh)):
            weight = low[f"weight_{which}{suffix}"].cpu().view(gates, geometry.hidden, -1).transpose(1, 2)
            padded = torch.zeros((gates, depth, bh), dtype=torch.int8)
            padded[:, : weight.shape[1], : geometry.hidden] = weight
            found.append(padded.flatten())
    return torch.cat(found)


def prepare(gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> Callable[[Stage, Problem], Prepared]:
    """x [M, batch, K], states [M, layers * batch, H] -> y [M, batch, H], states; any M."""

    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        low, geometry, (bk, bh) = lower(stage), Geometry.of(stage.attrs), _sizes(problem)
        alone = KernelConfig(geometry, problem.in_widths[0], gates, bh, 1, geometry.layers)
        launch, ops = bind(specialize(problem, gates)), Operands.of(low, alone, problem.device)
        words = words_of(low, geometry, gates, bk, bh).to(problem.device)

        def run(made: Sequence[Tensor], *inputs: Tensor) -> None:
            x, rows = inputs[0], inputs[0].shape[0] * geometry.batch
            if rows:
                launch(
                    (triton.cdiv(rows, BLOCK_M),), x_ptr=x, y_ptr=made[0], h0_ptr=inputs[1], c0_ptr=inputs[-1],
                    hn_ptr=made[1], cn_ptr=made[-1], words_ptr=words, params_ptr=ops.params,
                    compensation_ptr=ops.compensation, x_inverse=ops.x_inverse, x_zero_point=ops.x_zero_point,
                    h_inverse=ops.h_inverse, y_inverse=ops.y_inverse, y_zero_point=ops.y_zero_point, rows=rows,
                )  # fmt: skip

        return InPlace(stage, run, states_over(stage, False))

    return prepare_stage


def register(op: str, gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> None:
    """`triton_many` of an operator."""
    register_impl(Impl(op, "triton_many", "triton", 20, supports, prepare(gates, lower)))
