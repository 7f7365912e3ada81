"""Convolution along time, a step of many streams, in Triton: int8 and float32, dense and in groups, over a ring of past columns.

    one group        a product of [streams, taps * channels] by [taps * channels, N], as in window.py and float32.py
    several groups   one tap of one channel of each output's group at a time, as in grouped.py

The ring lies in the device's memory, in int8 where the weights are. Each stream has the number of its call, so a column is
written once, where it stays. The newest is read from x, and its row in the ring by nobody: all programs of a stream may run while
the first writes it. float32 x becomes int8 on the way; a column that holds what int8 cannot counts as zeros, as on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue, epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    FUSED,
    INT8_MMA,
    MAX_N,
    Specialisation,
    Tiling,
    ffma_tiling,
    leave_out,
    power_of_two,
)
from rtaccel.kernels.conv import cases, lowering
from rtaccel.kernels.conv.triton import grouped, window
from rtaccel.kernels.conv.triton.window_config import check_inputs


class Ring(NamedTuple):
    """What the kernel knows of its layer. ROWS: of a stream's ring, [ROWS, C]. QUANTIZES: float32 x becomes int8 here."""

    C: int
    ROWS: int
    TAPS: int
    DILATION: int
    GROUPS: int
    QUANTIZES: bool


@triton.jit
def columns(x_ptr, ring_ptr, m, newest, finite, inside, age, c, x_inv_scale, x_zero_point, RING: tl.constexpr):
    """Channels c of the columns of so many calls ago, as the ring has them, [m, c]. m, newest and finite are [m, 1], age and c
    [1, c]."""
    row = newest - age
    row = tl.where(row < 0, row + RING.ROWS, row)
    old = tl.load(ring_ptr + (m * RING.ROWS + row) * RING.C + c, mask=inside & (age > 0), other=0)
    new = tl.load(x_ptr + m * RING.C + c, mask=inside & (age == 0), other=0)
    if RING.QUANTIZES:
        new = tl.where(finite, to_int8(new * x_inv_scale, x_zero_point), 0).to(tl.int8)
    return tl.where(age == 0, new, old)


@triton.jit(do_not_specialize=["samples", "x_zero_point", "y_zero_point"])
def conv_stream_kernel(
    x_ptr, ring_ptr, tick_ptr, weight_ptr, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, parameter,
    y_inv_scale, y_zero_point, samples, x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr,
    RING: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    EACH: tl.constexpr = RING.C // RING.GROUPS
    K: tl.constexpr = RING.TAPS * EACH
    PADDED_K: tl.constexpr = (K + 15) // 16 * 16
    NUMBER: tl.constexpr = tl.int32 if INT8 else tl.float32
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m, n = rows[:, None], tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < samples, n < N
    newest = (tl.load(tick_ptr + m, mask=in_m, other=0) % RING.ROWS).to(tl.int32)
    channels = tl.arange(0, BLOCK_C)[None, :]
    finite = in_m
    if RING.QUANTIZES:
        zeros = tl.zeros((BLOCK_M, 1), tl.float32)
        for c0 in range(0, RING.C, BLOCK_C):
            x = tl.load(x_ptr + m * RING.C + c0 + channels, mask=in_m & (c0 + channels < RING.C), other=0.0)
            zeros += tl.sum(x * 0.0, 1, keep_dims=True)
        finite = zeros == 0.0

    acc = tl.zeros((BLOCK_M, BLOCK_N), NUMBER)
    if RING.GROUPS == 1:
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            age = ((RING.TAPS - 1 - tl.minimum(k // EACH, RING.TAPS - 1)) * RING.DILATION)[None, :]
            inside = in_m & (k < K)[None, :]
            x = columns(
                x_ptr, ring_ptr, m, newest, finite, inside, age, (k % EACH)[None, :], x_inv_scale, x_zero_point, RING
            )
            if INT8:
                w_at = weight_ptr + n[:, None].to(tl.int64) * PADDED_K + k[None, :]
                w = tl.load(w_at, mask=in_n[:, None] & (k < PADDED_K)[None, :], other=0)  # [BLOCK_N, BLOCK_K]
                acc = tl.dot(x, tl.trans(w), acc, out_dtype=tl.int32)
            else:
                w = tl.load(weight_ptr + k[:, None] * N + n[None, :], mask=(k < K)[:, None] & in_n[None, :], other=0.0)
                acc = tl.dot(x, w, acc, input_precision="ieee")
    else:
        channel = (n // (N // RING.GROUPS) * EACH)[None, :]
        inside = in_m & in_n[None, :]
        for k in range(K):
            age = tl.zeros((1, BLOCK_N), tl.int32) + (RING.TAPS - 1 - k // EACH) * RING.DILATION
            c = channel + k % EACH
            x = columns(x_ptr, ring_ptr, m, newest, finite, inside, age, c, x_inv_scale, x_zero_point, RING)
            w = tl.load(weight_ptr + k * N + n, mask=in_n, other=0)[None, :]
            acc += x.to(NUMBER) * w.to(NUMBER)

    if INT8:
        epilogue(acc, rows, rows < samples, n, None, Epilogue(
            y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
            ACTIVATION, INT8_OUT, ASM, True,
        ))  # fmt: skip
    else:
        t = acc + tl.load(offset_ptr + n, mask=in_n, other=0.0)[None, :]
        if residual_ptr is not None:
            t += tl.load(residual_ptr + m * N + n[None, :], mask=in_m & in_n[None, :], other=0.0)
        tl.store(y_ptr + m * N + n[None, :], activate(t, parameter, ACTIVATION), mask=in_m & in_n[None, :])
    if tl.program_id(1) == 0:
        for c0 in range(0, RING.C, BLOCK_C):
            c, inside = c0 + channels, in_m & (c0 + channels < RING.C)
            age = tl.zeros((1, BLOCK_C), tl.int32)
            x = columns(x_ptr, ring_ptr, m, newest, finite, inside, age, c, x_inv_scale, x_zero_point, RING)
            tl.store(ring_ptr + (m * RING.ROWS + newest) * RING.C + c, x, mask=inside)


def supports(problem: Problem) -> str | None:
    if not problem.attrs.get("ticks"):
        return "computes a step of streams whose calls are numbered"
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.FLOAT32):
        return f"computes int8 and float32 weights, not {problem.weight_format}"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    return None


def ring_of(problem: Problem) -> Ring:
    a, int8 = problem.attrs, problem.weight_format is WeightFormat.INT8
    taps, groups = int(a["kernel"][1]), int(a.get("groups", 1))
    dilation = int(a.get("dilation", (1, 1))[1])
    quantizes = int8 and problem.in_dtypes[0] == "float32"
    return Ring(problem.in_widths[0], problem.in_steps[1], taps, dilation, groups, quantizes)


def tiling(problem: Problem, ring: Ring) -> Tiling:
    """Not measured on a card."""
    n, k = problem.out_widths[0], ring.TAPS * ring.C // ring.GROUPS
    if ring.GROUPS > 1:
        return Tiling(power_of_two(problem.rows, 1, 16), power_of_two(n, 32, 64), 1, num_warps=4)
    return (
        window.tiling(problem.rows, n, k)
        if problem.weight_format is WeightFormat.INT8
        else ffma_tiling(problem.rows, n, k)
    )


def specialize(problem: Problem) -> Specialisation:
    ring, n, int8 = ring_of(problem), problem.out_widths[0], problem.weight_format is WeightFormat.INT8
    tile = tiling(problem, ring)
    residual, int8_out = len(problem.in_widths) > 3, problem.out_dtypes[0] == "int8"
    activation = str(problem.attrs.get("activation", "none"))
    number = "*i8" if int8 else "*fp32"
    signature, absent = leave_out(
        {
            "x_ptr": "*i8" if problem.in_dtypes[0] == "int8" else "*fp32", "ring_ptr": number, "tick_ptr": "*i64",
            "weight_ptr": number, **epilogue_types(int8_out, "compensation_ptr", "residual_ptr"), "samples": "i32",
            "x_inv_scale": "fp32", "x_zero_point": "i32",
        },
        residual_ptr=residual, multiplier_ptr=int8, compensation_ptr=int8,
    )  # fmt: skip
    x = "quantizes" if ring.QUANTIZES else problem.in_dtypes[0]
    ends = f"{activation}{'_residual' if residual else ''}_{problem.out_dtypes[0]}"
    sizes = f"C{ring.C}_N{n}_G{ring.GROUPS}_{ring.TAPS}x{ring.DILATION}"
    return Specialisation(
        name=f"conv_stream_M{tile.block_m}_{sizes}_{x}_{ends}",
        kernel=conv_stream_kernel,
        signature=signature,
        constants={
            "N": n, "ACTIVATION": activation, "INT8": int8, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(),
            "RING": ring, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
            "BLOCK_C": power_of_two(ring.C, 16, max(1024 // tile.block_m, 16)), **absent,
        },
        tiling=tile,
    )  # fmt: skip


class Step:
    """x, ring, tick and other, as the contract has them -> (y, the ring after the call); any M, tiles for problem.rows.

    over: the new ring may lie over the one before; then its one new column is all that is written."""

    over: Mapping[int, int] = MappingProxyType({1: 1})

    def __init__(self, stage: Stage, problem: Problem) -> None:
        low, device, self._stage = lowering.lower(stage), problem.device, stage
        spec, ring, weight = specialize(problem), ring_of(problem), low["weight"]
        self._launch, self._tile, self._n = bind(spec), spec.tiling, problem.out_widths[0]
        self._dtype = getattr(torch, stage.outputs[0].dtype)
        int8 = weight.dtype == torch.int8
        fixed: dict[str, Any] = {"weight_ptr": (window if int8 and ring.GROUPS == 1 else grouped).pack(weight)}
        fixed |= {"offset_ptr": low["offset" if int8 else "bias"], "multiplier_ptr": low.get("multiplier")}
        if int8:
            fixed["compensation_ptr"] = -low["x_zero_point"] * weight.flatten(1).sum(1, dtype=torch.int32)
        self._fixed = {name: t.contiguous().to(device) for name, t in fixed.items() if t is not None}
        self._fixed |= {"parameter": low["activation_parameter"], "y_inv_scale": low.get("y_inv_scale", 1.0)}
        names = ("y_zero_point", "x_zero_point", "x_inv_scale")
        self._fixed |= {name: low.get(name, 0.0 if name == "x_inv_scale" else 0) for name in names}

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.into((None, None), *given)

    def into(self, outputs: Sequence[Tensor | None], *given: Tensor) -> tuple[Tensor, ...]:
        """outputs: where each result goes; None for one in memory of its own."""
        check_inputs(self._stage, given)
        (x, ring, tick), samples = given[:3], given[0].shape[0]
        shape = (samples, *self._stage.outputs[0].shape)
        y = torch.empty(shape, dtype=self._dtype, device=x.device) if outputs[0] is None else outputs[0]
        made = torch.empty_like(ring) if outputs[1] is None else outputs[1]
        if made.data_ptr() != ring.data_ptr():
            made.copy_(ring)
        if samples:
            residual = {"residual_ptr": given[3]} if len(given) > 3 else {}
            grid = (triton.cdiv(samples, self._tile.block_m), triton.cdiv(self._n, self._tile.block_n))
            self._launch(
                grid, x_ptr=x, ring_ptr=made, tick_ptr=tick, y_ptr=y, samples=samples, **residual, **self._fixed
            )
        return y, made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    return Step(stage, problem)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    causal = cases.Shape(64, 64, (1, 1), (1, 3), dilation=(1, 4), stream=True, ticks=True)
    depthwise = cases.Shape(64, 64, (1, 1), (1, 3), groups=64, stream=True, ticks=True)
    for shape, rows, scheme, out, residual, requires in (
        (causal, 1, "static", "int8", True, (INT8_MMA,)),
        (causal, 1000, "self", "float32", False, (INT8_MMA,)),
        (depthwise, 1, "static", "int8", False, ()),
    ):
        stage = cases.make_stage(shape, scheme, "relu", out=out, residual=residual)
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(*requires, forbids=(FUSED,))
    yield specialize(Problem.of(cases.make_stage(causal, "float32", "relu"), 1, "cuda"))


register_impl(Impl("conv", "triton_stream", "triton", 10, supports, prepare))
