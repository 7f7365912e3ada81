"""W8A8 convolution over windows in Triton: an implicit GEMM on the int8 tensor cores, for sequences and images, one group.

One program computes block_n channels of block_m positions, of one sample or of several. The sum runs over taps and channels as
one axis, k = tap * C + c: a layer of one or two channels fills its tiles as one of many does, and nothing is unfolded in memory.
Each element of a tile finds its own row of x; where all rows of the image are there, from k and the position by arithmetic with
constants, else (in_steps, out_steps) through a table [out steps, taps].

Padding is the zero point, so that the compensation of kernels/linear/triton_w8a8.py, -zero_point times the sum of all weights
of an output, holds at the edges too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._shared.geometry import Geometry
from rtaccel.kernels._shared.triton_device import activate, multiply_rn, to_int8
from rtaccel.kernels._shared.triton_launch import bind
from rtaccel.kernels._shared.triton_spec import FUSED, INT8_MMA, MAX_N, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels.conv import cases, contract
from rtaccel.kernels.linear.triton_w8a8 import pad_rows


@triton.jit(do_not_specialize=["samples", "x_zero_point", "y_zero_point"])
def window_kernel(
    x_ptr, weight_ptr, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, samples, x_inverse, x_zero_point, parameter,
    y_inverse, y_zero_point, other_ptr, table_ptr,
    C: tl.constexpr, N: tl.constexpr, STEPS: tl.constexpr, POSITIONS: tl.constexpr, KERNEL: tl.constexpr,
    SIZE: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TABLE: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Pairs of constants are (vertical, horizontal). STEPS: rows of x in a sample; POSITIONS: those of y."""
    TAPS: tl.constexpr = KERNEL[0] * KERNEL[1]
    K: tl.constexpr = TAPS * C
    PADDED_K: tl.constexpr = (K + 15) // 16 * 16
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n, in_m = n < N, m < samples.to(tl.int64) * POSITIONS
    sample, position = m // POSITIONS, (m % POSITIONS).to(tl.int32)
    first_row = (sample * STEPS)[:, None]
    top = (position // OUT_WIDTH * STRIDE[0] - PADDING[0])[:, None]
    left = (position % OUT_WIDTH * STRIDE[1] - PADDING[1])[:, None]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        tap, c = k // C, k % C
        if TABLE:
            at = table_ptr + position[:, None] * TAPS + tap[None, :]
            row = tl.load(at, mask=in_m[:, None] & (k < K)[None, :], other=-1)
            inside = row >= 0
        else:
            across = top + (tap // KERNEL[1] * DILATION[0])[None, :]
            along = left + (tap % KERNEL[1] * DILATION[1])[None, :]
            inside = (across >= 0) & (across < SIZE[0]) & (along >= 0) & (along < SIZE[1])
            inside = inside & in_m[:, None] & (k < K)[None, :]
            row = across * SIZE[1] + along
        x = tl.load(x_ptr + (first_row + row) * C + c[None, :], mask=inside, other=0)
        if x.dtype == tl.float32:
            x = to_int8(x * x_inverse, x_zero_point)
        q = tl.where(inside, x.to(tl.int32), x_zero_point).to(tl.int8)
        w_at = weight_ptr + n[:, None].to(tl.int64) * PADDED_K + k[None, :]
        w = tl.load(w_at, mask=in_n[:, None] & (k < PADDED_K)[None, :], other=0)
        acc = tl.dot(q, tl.trans(w), acc, out_dtype=tl.int32)

    acc += tl.load(compensation_ptr + n, mask=in_n, other=0)[None, :]
    multiplier = tl.load(multiplier_ptr + n, mask=in_n, other=0.0)[None, :]
    offset = tl.load(offset_ptr + n, mask=in_n, other=0.0)[None, :]
    t = multiply_rn(acc.to(tl.float32), multiplier, ASM) + offset
    at = m[:, None] * N + n[None, :]
    mine = in_m[:, None] & in_n[None, :]
    if RESIDUAL:
        t += tl.load(other_ptr + at, mask=mine, other=0.0)
    y = activate(t, parameter, ACTIVATION)
    if INT8_OUT:
        y = to_int8(y * y_inverse, y_zero_point)
    tl.store(y_ptr + at, y, mask=mine)


def supports(problem: Problem) -> str | None:
    if problem.weight_dtype != "int8":
        return f"computes int8 weights, not {problem.weight_dtype}"
    if problem.attrs.get("stream", 0):
        return "computes windows; a stream stays on the GPU as a whole"
    if int(problem.attrs.get("groups", 1)) != 1:
        return f"computes one group, not {problem.attrs['groups']}"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.in_dtypes[0] != "int8" and "x_scale" not in problem.attrs:
        return "takes x with a static scale: pass calibration="
    return None


def geometry_of(problem: Problem) -> Geometry:
    a = problem.attrs
    return Geometry(
        a["in_size"], a["kernel"], a.get("stride", (1, 1)), a.get("padding", (0, 0)), a.get("dilation", (1, 1)),
        a["out_size"], a.get("in_steps"), a.get("out_steps"),
    )  # fmt: skip


def tiling(positions: int, n: int, k: int) -> Tiling:
    """Positions of all samples. Narrow tiles of N, so that short windows spread too. Not measured on a card."""
    return Tiling(
        block_m=power_of_two(positions, 16, 64),
        block_n=16 if n <= 64 else 32 if n <= 256 else 64,
        block_k=power_of_two(k, 32, 128),
        num_warps=4,
        num_stages=3 if k > 256 else 1,
    )


def specialise(problem: Problem) -> Specialisation:
    g, attrs = geometry_of(problem), problem.attrs
    n, positions = problem.out_widths[0], problem.out_steps[0]
    steps = g.in_size[0] * g.in_size[1] if g.in_steps is None else len(g.in_steps)
    c = problem.in_widths[0] * problem.in_steps[0] // steps
    table = g.in_steps is not None or g.out_steps is not None
    residual, int8_out = len(problem.in_widths) > 1, problem.out_dtypes[0] == "int8"
    activation = str(attrs.get("activation", "none"))
    tile = tiling(problem.rows * positions, n, g.taps * c)
    signature = {
        "x_ptr": "*i8" if problem.in_dtypes[0] == "int8" else "*fp32", "weight_ptr": "*i8",
        "y_ptr": "*i8" if int8_out else "*fp32", "multiplier_ptr": "*fp32", "offset_ptr": "*fp32",
        "compensation_ptr": "*i32", "samples": "i32", "x_inverse": "fp32", "x_zero_point": "i32", "parameter": "fp32",
        "y_inverse": "fp32", "y_zero_point": "i32",
    }  # fmt: skip
    constants: dict[str, Any] = {
        "C": c, "N": n, "STEPS": steps, "POSITIONS": positions, "KERNEL": g.kernel, "SIZE": g.in_size,
        "STRIDE": g.stride, "PADDING": g.padding, "DILATION": g.dilation, "OUT_WIDTH": g.out_size[1], "TABLE": table,
        "RESIDUAL": residual, "ACTIVATION": activation, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(),
        "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
    }  # fmt: skip
    for name, used, kind in (("other_ptr", residual, "*fp32"), ("table_ptr", table, "*i32")):
        if used:
            signature[name] = kind
        else:
            constants[name] = None
    ends = f"{activation}{'_residual' if residual else ''}_{problem.out_dtypes[0]}{'_table' if table else ''}"
    kernel, size = "x".join(map(str, g.kernel)), "x".join(map(str, g.in_size))
    return Specialisation(
        name=f"conv_window_M{tile.block_m}_{size}_C{c}_N{n}_{kernel}_{problem.in_dtypes[0]}_{ends}",
        kernel=window_kernel,
        signature=signature,
        constants=constants,
        tiling=tile,
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 or float32 [M, in steps, C], other float32 [M, out steps, N] -> y; any M, tiles for problem.rows."""
    low, spec, device = contract.lower(stage), specialise(problem), problem.device
    launch, tile = bind(spec), spec.tiling
    n, positions = problem.out_widths[0], problem.out_steps[0]
    weight = low["weight"].permute(0, 2, 3, 1).reshape(n, -1)
    compensation = (-low["x_zero_point"] * weight.sum(1, dtype=torch.int32)).to(device)
    table = Geometry.of(stage).index("conv").to(torch.int32).to(device)  # checks in_steps where it is not read, too
    weight, multiplier, offset = (
        t.contiguous().to(device) for t in (pad_rows(weight), low["multiplier"], low["offset"])
    )
    dtype = getattr(torch, stage.outputs[0].dtype)

    def call(*inputs: Tensor) -> tuple[Tensor]:
        _check(stage, inputs)
        samples = inputs[0].shape[0]
        y = torch.empty((samples, *stage.outputs[0].shape), dtype=dtype, device=inputs[0].device)
        if y.numel():
            given: dict[str, Any] = {}
            if "other_ptr" in spec.signature:
                given["other_ptr"] = inputs[1]
            if "table_ptr" in spec.signature:
                given["table_ptr"] = table
            grid = (triton.cdiv(samples * positions, tile.block_m), triton.cdiv(n, tile.block_n))
            launch(
                grid, x_ptr=inputs[0], weight_ptr=weight, y_ptr=y, multiplier_ptr=multiplier, offset_ptr=offset,
                compensation_ptr=compensation, samples=samples, x_inverse=low["x_inv_scale"],
                x_zero_point=low["x_zero_point"], parameter=low["activation_parameter"], y_inverse=low["y_inv_scale"],
                y_zero_point=low["y_zero_point"], **given,
            )  # fmt: skip
        return (y,)

    return call


def _check(stage: Stage, inputs: tuple[Tensor, ...]) -> None:
    """Raises ShapeError for inputs that are not those of the stage: the kernel reads raw addresses."""
    if len(inputs) != len(stage.inputs):
        raise ShapeError("conv", f"{len(inputs)} inputs", f"{len(stage.inputs)}", "Pass the inputs of the stage.")
    for value, t in zip(stage.inputs, inputs):
        wanted = (inputs[0].shape[0], *value.shape)
        if tuple(t.shape) != wanted or t.dtype != getattr(torch, value.dtype) or not t.is_contiguous():
            raise ShapeError(
                "conv", f"{value.name}: {t.dtype} {tuple(t.shape)}, strides {t.stride()}",
                f"a contiguous {value.dtype} tensor {wanted}", "Convert, or call .contiguous().",
            )  # fmt: skip


def specialisations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    causal = cases.Shape(64, 64, (1, 100), (1, 3), dilation=(1, 4), causal=True)
    few = cases.Shape(1, 32, (1, 400), (1, 8), stride=(1, 4), causal=True)
    newest = cases.Shape(48, 48, (1, 64), (1, 3), dilation=(1, 8), causal=True, live=(47, 63))
    for shape, scheme, out, residual, requires in (
        (causal, "static", "int8", True, (INT8_MMA, WIDE_LOAD)),
        (few, "self", "int8", False, (INT8_MMA,)),
        (newest, "static", "float32", False, (INT8_MMA, WIDE_LOAD)),
    ):
        stage = cases.make_stage(shape, scheme, "relu", out=out, residual=residual)
        yield specialise(Problem.of(stage, 1, "cuda")).demanding(*requires, forbids=(FUSED,))


register_impl(Impl("conv", "triton_window", "triton", 10, supports, prepare))
