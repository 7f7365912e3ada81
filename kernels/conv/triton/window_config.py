"""What the Triton kernels of windows share: what they are specialized on, where a position reads, how a sum ends, the call.

Dynamic int8 samples are quantized by the kernel of `quantize` before, a launch of its own, with one scale for each sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._common.geometry import Geometry
from rtaccel.kernels._gpu.triton_epilogue import epilogue, epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import MAX_N, Specialisation, Tiling, leave_out
from rtaccel.kernels.conv import lowering
from rtaccel.kernels.quantize.triton import quantize as triton_quantize


class Window(NamedTuple):
    """What a kernel of windows knows of its layer. Pairs are (vertical, horizontal). STEPS: rows of x [samples, STEPS, C];
    POSITIONS: those of y."""

    C: int
    STEPS: int
    POSITIONS: int
    KERNEL: tuple[int, int]
    SIZE: tuple[int, int]
    STRIDE: tuple[int, int]
    PADDING: tuple[int, int]
    DILATION: tuple[int, int]
    OUT_WIDTH: int


@triton.jit
def give_mark(x_ptr, mark_ptr, sample, N: tl.constexpr):
    """1 as the mark of a sample of N numbers, or NaN where one of them is a NaN or an infinity."""
    BLOCK: tl.constexpr = 1024
    n = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.int32)  # by their bits, without the sign
    first = sample.to(tl.int64) * N
    for n0 in range(0, N, BLOCK):
        x = tl.load(x_ptr + first + n0 + n, mask=n0 + n < N, other=0.0)
        largest = tl.maximum(largest, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    mark = tl.where(tl.max(largest, 0) < 0x7F800000, 1.0, float("nan"))
    tl.store(mark_ptr + sample, mark)


@triton.jit
def window_epilogue(acc, m, in_m, n, sample, sample_scale_ptr, end):
    """Stores outputs n of positions m from their sums, acc [m, n]. sample [m]: of each position, for the scale of its x, where
    there is one."""
    scale = None
    if sample_scale_ptr is not None:
        scale = tl.load(sample_scale_ptr + sample, mask=in_m, other=0.0)  # [m]
    epilogue(acc, m, in_m, n, scale, end)


def unsupported(problem: Problem) -> str | None:
    """None, or why no kernel of windows takes it."""
    if problem.weight_format is not WeightFormat.INT8:
        return f"computes int8 weights, not {problem.weight_format}"
    if problem.attrs.get("x_planes") or problem.attrs.get("y_planes"):
        return "reads and writes a row of channels for each position, not planes"
    if problem.attrs.get("stream", 0):
        return "computes windows; a stream stays on the GPU as a whole"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    return None


def is_dynamic(problem: Problem) -> bool:
    return problem.in_dtypes[0] != "int8" and "x_scale" not in problem.attrs


def geometry_of(problem: Problem) -> Geometry:
    a = problem.attrs
    return Geometry(
        a["in_size"], a["kernel"], a.get("stride", (1, 1)), a.get("padding", (0, 0)), a.get("dilation", (1, 1)),
        a["out_size"], a.get("in_steps"), a.get("out_steps"), a.get("out_rows"), a.get("tap_rows"),
    )  # fmt: skip


def steps_and_channels(problem: Problem) -> tuple[int, int]:
    """Rows of x in a sample, and channels of each."""
    g = geometry_of(problem)
    steps = g.in_size[0] * g.in_size[1] if g.in_steps is None else len(g.in_steps)
    return steps, problem.in_widths[0] * problem.in_steps[0] // steps


def window_of(problem: Problem) -> Window:
    g, (steps, c) = geometry_of(problem), steps_and_channels(problem)
    return Window(c, steps, problem.out_steps[0], g.kernel, g.in_size, g.stride, g.padding, g.dilation, g.out_size[1])


def by_table(g: Geometry) -> bool:
    """Whether a row of x is looked up, where neither stride nor dilation say it: some rows alone, or a transposed convolution."""
    return any(rows is not None for rows in (g.in_steps, g.out_steps, g.out_rows))


def specialize_window(name: str, kernel: Any, problem: Problem, tile: Tiling, **own: Any) -> Specialisation:
    """own: further constants of the kernel."""
    g, attrs, n = geometry_of(problem), problem.attrs, problem.out_widths[0]
    table, dynamic = by_table(g), is_dynamic(problem)
    takes, gives = bool(attrs.get("takes_mark")), bool(attrs.get("gives_mark"))
    residual, int8_out = len(problem.in_widths) > 1 + takes, problem.out_dtypes[0] == "int8"
    activation = str(attrs.get("activation", "none"))
    window = window_of(problem)
    signature, absent = leave_out(
        {
            "x_ptr": "*i8" if problem.in_dtypes[0] == "int8" or dynamic else "*fp32", "weight_ptr": "*i8",
            "table_ptr": "*i32", "sample_scale_ptr": "*fp32",
            **epilogue_types(int8_out, "compensation_ptr", "residual_ptr"), "samples": "i32", "x_inv_scale": "fp32",
            "x_zero_point": "i32", "mark_ptr": "*fp32",
        },
        table_ptr=table, sample_scale_ptr=dynamic or takes, residual_ptr=residual, mark_ptr=gives,
    )  # fmt: skip
    x = "dynamic" if dynamic else problem.in_dtypes[0]
    ends = f"{activation}{'_residual' if residual else ''}_{problem.out_dtypes[0]}{'_table' if table else ''}"
    ends += "_takes" * takes + "_gives" * gives
    shape, size = "x".join(map(str, g.kernel)), "x".join(map(str, g.in_size))
    return Specialisation(
        name=f"{name}_M{tile.block_m}_{size}_C{window.C}_N{n}_{shape}_{x}_{ends}",
        kernel=kernel,
        signature=signature,
        constants={
            "N": n, "ACTIVATION": activation, "INT8_OUT": int8_out, "ASM": not settings.triton_interpret(), "WINDOW": window,
            "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, **absent, **own,
        },
        tiling=tile,
    )  # fmt: skip


def quantizer(problem: Problem) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """(q int8 as x [M, ...], scale float32 [M, 1]) of a float32 x."""
    width = problem.in_widths[0] * problem.in_steps[0]
    made = Stage("quantize", "samples", (Value("x", width),), (Value("q", width, "int8"), Value("scale", 1)))
    quantize = triton_quantize.prepare(made, Problem.of(made, problem.rows, problem.device))

    def call(x: Tensor) -> tuple[Tensor, ...]:
        q, scale = quantize(x.view(x.shape[0], width))
        return q.view(x.shape), scale

    return call


def launcher(stage: Stage, problem: Problem, spec: Specialisation, pack: Callable[[Tensor], Tensor]) -> Prepared:
    """x int8 or float32 [M, in steps, C], other float32 [M, out steps, N] -> y; any M, tiles for problem.rows.

    pack: what the kernel reads of the int8 weight [N, C / groups, kh, kw]."""
    low, device, tile, launch = lowering.lower(stage), problem.device, spec.tiling, bind(spec)
    n, positions = problem.out_widths[0], problem.out_steps[0]
    weight = low["weight"]
    compensation = (-low["x_zero_point"] * weight.flatten(1).sum(1, dtype=torch.int32)).to(device)
    table = Geometry.of(stage).index("conv").to(torch.int32).to(device)  # checks in_steps where it is not read, too
    packed, multiplier, offset = (t.contiguous().to(device) for t in (pack(weight), low["multiplier"], low["offset"]))
    dtype = getattr(torch, stage.outputs[0].dtype)
    quantize = quantizer(problem) if is_dynamic(problem) else None

    takes, gives = lowering.takes_mark(stage), lowering.gives_mark(stage)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        check_inputs(stage, inputs)
        x, samples = inputs[0], inputs[0].shape[0]
        y = torch.empty((samples, *stage.outputs[0].shape), dtype=dtype, device=x.device)
        mark = torch.empty((samples, 1), device=x.device) if gives else None
        if y.numel():
            given = optional_pointers(spec, inputs[:-1] if takes else inputs, table)
            if takes:
                given["sample_scale_ptr"] = inputs[-1]
            if gives:
                given["mark_ptr"] = mark
            if quantize is not None:
                x, given["sample_scale_ptr"] = quantize(x)
            looks = samples if gives else 0
            grid = (triton.cdiv(samples * positions, tile.block_m) + looks, triton.cdiv(n, tile.block_n))
            launch(
                grid, x_ptr=x, weight_ptr=packed, y_ptr=y, multiplier_ptr=multiplier, offset_ptr=offset,
                compensation_ptr=compensation, samples=samples, x_inv_scale=low["x_inv_scale"],
                x_zero_point=low["x_zero_point"], parameter=low["activation_parameter"], y_inv_scale=low["y_inv_scale"],
                y_zero_point=low["y_zero_point"], **given,
            )  # fmt: skip
        return (y,) if mark is None else (y, mark)

    return call


def optional_pointers(spec: Specialisation, inputs: tuple[Tensor, ...], table: Tensor) -> dict[str, Any]:
    """The residual and the table of a launch, where the kernel has them."""
    given = {"residual_ptr": inputs[-1], "table_ptr": table}
    return {name: tensor for name, tensor in given.items() if name in spec.signature}


def check_inputs(stage: Stage, inputs: tuple[Tensor, ...]) -> None:
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
