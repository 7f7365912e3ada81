"""Convolution in float32 over windows in Triton: bias, residual and activation in the same launch.

    one group        an implicit GEMM on FFMA units: the sum runs over taps and channels as one axis, as in triton/window.py
    several groups   one tap of one channel of each output's group at a time, as in triton/grouped.py

Sums are float32 from end to end; nothing goes through tensor cores, which would round x to 10 bits. PyTorch's own convolution is
several launches here: padding, a change of layout, the product, the bias, the activation and the layout back.
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
from rtaccel.kernels._common.geometry import Geometry
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import MAX_N, Specialisation, Tiling, ffma_tiling, leave_out, power_of_two
from rtaccel.kernels.conv import cases, lowering
from rtaccel.kernels.conv.triton.window_config import by_table, check_inputs, geometry_of, optional_pointers, window_of


@triton.jit
def row_of(position, tap, table_ptr, WINDOW: tl.constexpr):
    """(the row of x that a tap of a position reads, whether there is one); position and tap broadcast."""
    if table_ptr is not None:
        row = tl.load(table_ptr + position * (WINDOW.KERNEL[0] * WINDOW.KERNEL[1]) + tap)
        inside = row >= 0
    else:
        across = (
            position // WINDOW.OUT_WIDTH * WINDOW.STRIDE[0]
            - WINDOW.PADDING[0]
            + tap // WINDOW.KERNEL[1] * WINDOW.DILATION[0]
        )
        along = (
            position % WINDOW.OUT_WIDTH * WINDOW.STRIDE[1]
            - WINDOW.PADDING[1]
            + tap % WINDOW.KERNEL[1] * WINDOW.DILATION[1]
        )
        inside = (across >= 0) & (across < WINDOW.SIZE[0]) & (along >= 0) & (along < WINDOW.SIZE[1])
        row = across * WINDOW.SIZE[1] + along
    return row, inside


@triton.jit(do_not_specialize=["samples"])
def conv_float32_kernel(
    x_ptr, weight_ptr, table_ptr, bias_ptr, residual_ptr, y_ptr, parameter, samples,
    N: tl.constexpr, ACTIVATION: tl.constexpr, WINDOW: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = WINDOW.KERNEL[0] * WINDOW.KERNEL[1]
    EACH: tl.constexpr = WINDOW.C // GROUPS
    K: tl.constexpr = TAPS * EACH
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    in_m = m < samples.to(tl.int64) * WINDOW.POSITIONS
    sample, position = m // WINDOW.POSITIONS, (m % WINDOW.POSITIONS).to(tl.int32)
    first_row = sample * WINDOW.STEPS
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if GROUPS == 1:
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)[None, :]
            row, inside = row_of(position, tl.minimum(k // EACH, TAPS - 1), table_ptr, WINDOW)
            x_at = x_ptr + (first_row + row) * EACH + k % EACH
            x = tl.load(x_at, mask=inside & in_m & (k < K), other=0.0)  # [BLOCK_M, BLOCK_K]
            kk = k0 + tl.arange(0, BLOCK_K)[:, None]
            w = tl.load(weight_ptr + kk * N + n, mask=(kk < K) & (n < N), other=0.0)  # [BLOCK_K, BLOCK_N]
            acc = tl.dot(x, w, acc, input_precision="ieee")
    else:
        channel = n // (N // GROUPS) * EACH
        for k in range(K):
            row, inside = row_of(position, k // EACH, table_ptr, WINDOW)
            x_at = x_ptr + (first_row + row) * WINDOW.C + channel + k % EACH
            x = tl.load(x_at, mask=inside & in_m & (n < N), other=0.0)  # [BLOCK_M, BLOCK_N]
            acc += x * tl.load(weight_ptr + k * N + n, mask=n < N, other=0.0)
    t = acc + tl.load(bias_ptr + n, mask=n < N, other=0.0)
    if residual_ptr is not None:
        t += tl.load(residual_ptr + m * N + n, mask=in_m & (n < N), other=0.0)
    tl.store(y_ptr + m * N + n, activate(t, parameter, ACTIVATION), mask=in_m & (n < N))


def supports(problem: Problem) -> str | None:
    if problem.weight_format is not WeightFormat.FLOAT32:
        return f"computes float32 weights, not {problem.weight_format}"
    if problem.attrs.get("stream", 0):
        return "computes windows; a stream stays on the GPU as a whole"
    if problem.attrs.get("x_planes") or problem.attrs.get("y_planes"):
        return "reads and writes a row of channels for each position, not planes"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    return None


def specialize(problem: Problem) -> Specialisation:
    """Not measured on a card."""
    g, n, groups = geometry_of(problem), problem.out_widths[0], int(problem.attrs.get("groups", 1))
    window = window_of(problem)
    table = by_table(g)
    positions, k = problem.rows * problem.out_steps[0], g.taps * window.C // groups
    if groups == 1:
        tile = ffma_tiling(positions, n, k)
    else:
        tile = Tiling(power_of_two(positions, 1, 16), power_of_two(n, 32, 64), 1, num_warps=4)
    residual, activation = len(problem.in_widths) > 1, str(problem.attrs.get("activation", "none"))
    pointers = ("x_ptr", "weight_ptr", "table_ptr", "bias_ptr", "residual_ptr", "y_ptr")
    signature, absent = leave_out(
        {name: "*i32" if name == "table_ptr" else "*fp32" for name in pointers} | {"parameter": "fp32", "samples": "i32"},
        table_ptr=table, residual_ptr=residual,
    )  # fmt: skip
    sizes = f"{'x'.join(map(str, g.in_size))}_C{window.C}_N{n}_G{groups}_{'x'.join(map(str, g.kernel))}"
    return Specialisation(
        name=f"conv_float32_M{tile.block_m}_{sizes}_{activation}{'_residual' if residual else ''}{'_table' if table else ''}",
        kernel=conv_float32_kernel,
        signature=signature,
        constants={
            "N": n, "ACTIVATION": activation, "WINDOW": window, "GROUPS": groups, "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, **absent,
        },
        tiling=tile,
    )  # fmt: skip


def pack(weight: Tensor) -> Tensor:
    """[taps * channels of a group, N]."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, in steps, C], other float32 [M, out steps, N] -> y; any M, tiles for problem.rows."""
    low, spec, device = lowering.lower(stage), specialize(problem), problem.device
    launch, tile, n, positions = bind(spec), spec.tiling, problem.out_widths[0], problem.out_steps[0]
    weight, bias = (t.contiguous().to(device) for t in (pack(low["weight"]), low["bias"]))
    table = Geometry.of(stage).index("conv").to(torch.int32).to(device)  # checks in_steps where it is not read, too

    def call(*inputs: Tensor) -> tuple[Tensor]:
        check_inputs(stage, inputs)
        x, samples = inputs[0], inputs[0].shape[0]
        y = torch.empty((samples, *stage.outputs[0].shape), dtype=torch.float32, device=x.device)
        if y.numel():
            grid = (triton.cdiv(samples * positions, tile.block_m), triton.cdiv(n, tile.block_n))
            launch(
                grid, x_ptr=x, weight_ptr=weight, bias_ptr=bias, y_ptr=y, samples=samples,
                parameter=low["activation_parameter"], **optional_pointers(spec, inputs, table),
            )  # fmt: skip
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    image = cases.Shape(64, 64, (28, 28), (3, 3), padding=(1, 1))
    depthwise = cases.Shape(64, 64, (25, 5), (3, 3), padding=(1, 1), groups=64)
    newest = cases.Shape(48, 48, (1, 64), (1, 3), dilation=(1, 8), causal=True, live=(47, 63))
    for shape, rows in ((image, 1), (image, 32), (depthwise, 1), (newest, 1)):
        stage = cases.make_stage(shape, "float32", "relu", residual=shape is image)
        yield specialize(Problem.of(stage, rows, "cuda"))


register_impl(Impl("conv", "triton_float32", "triton", 10, supports, prepare))
