"""Expressions in Triton: the program of a stage as one kernel, for the operators `expression` and `strided_expression`.

A program computes a tile of samples by elements of a sample, all functions in registers, and reads each operand where its strides
say. Every result of the program is a variable: the compiler finds what is shared and what is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import triton
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._expression import operator
from rtaccel.kernels._expression.functions import FUNCTIONS
from rtaccel.kernels._expression.program import Instruction
from rtaccel.kernels._general.triton_functions import TEXT
from rtaccel.kernels._general.triton_places import MAX_ELEMENTS, Place, address, digits, joined
from rtaccel.kernels._general.triton_source import digest, kernel_of
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two

TILE = 1024
"""Elements of a program: 256 threads with 4 each, a load of 16 bytes."""

POINTERS = {"float32": "*fp32", "int64": "*i64", "int8": "*i8", "bool": "*i1", "int32": "*i32"}


def value_of(operand: tuple[str, int] | float) -> str:
    """The name of a result or of a loaded operand; a number as a tile of one element."""
    if isinstance(operand, float):
        plain = f'float("{operand}")' if operand != operand or operand in (float("inf"), -float("inf")) else repr(operand)
        return f"tl.full((1, 1), {plain}, tl.float32)"
    return f"{operand[0]}{operand[1]}"


def statement(index: int, step: Instruction) -> str:
    """One instruction of a program."""
    operands = [value_of(o) for o in step.operands]
    if step.name == "copy":
        return f"t{index} = {operands[0]}"
    if step.name in FUNCTIONS:
        return f"t{index} = {TEXT[step.name].format(*operands)}"
    if step.name == "tanh":
        return f"t{index} = tanh_near({operands[0]})"
    return f't{index} = activate({operands[0]}, {step.parameter!r}, "{step.name}")'


def head(pointers: Sequence[str]) -> list[str]:
    """The first lines of a kernel over a tile of samples by elements: m, e and which of them are inside."""
    return [
        f"def kernel({', '.join(pointers)}, rows, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):",
        "m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]",
        "e = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]",
        "inside = (m < rows) & (e < N)",
    ]


def text_of(lines: Sequence[str]) -> str:
    return lines[0] + "\n" + "".join(f"    {line}\n" for line in lines[1:])


def load(name: str, place: Place, size: int, by_sample: bool, dtype: str) -> str:
    """The line that reads an operand of `size` elements a sample, as float32."""
    at = address(place, "d")
    sample = f"m * {size}" if by_sample else ""
    mask = "inside" if by_sample else "e < N"
    if not any(place[1:]):  # the same all over the sample
        at, mask = f"{at} + tl.zeros((1, 1), tl.int32)", ("m < rows" if by_sample else "")
    where = " + ".join(part for part in (f"{name}_ptr", sample, at) if part)
    read = f"tl.load({where}, mask={mask}, other=0)" if mask else f"tl.load({where})"
    return f"{name} = {read}" + ("" if dtype == "float32" else ".to(tl.float32)")


def tiling(rows: int, n: int) -> Tiling:
    """One sample or several in a tile; small stages in small programs, so that they spread over the card."""
    wide = power_of_two(n, 1, TILE)
    most = max(32, min(TILE, power_of_two(max(1, rows) * n // 256, 32, TILE)))
    wide = min(wide, most)
    high = power_of_two(rows, 1, max(1, most // wide))
    return Tiling(high, wide, 1, num_warps=power_of_two(high * wide // 128, 1, 8))


def launch_grid(rows: int, n: int, tile: Tiling) -> tuple[int, int]:
    return triton.cdiv(rows, tile.block_m), triton.cdiv(n, tile.block_n)


def too_large(problem: Problem) -> str | None:
    """None, or why a general stage is beyond what is numbered in 32 bits, or what CUDA launches."""
    steps = (*problem.in_steps, *problem.out_steps)
    widths = (*problem.in_widths, *problem.out_widths)
    most = max((s * w for s, w in zip(steps, widths)), default=0)
    if most > min(MAX_ELEMENTS, 65535 * 32):
        return f"numbers up to {65535 * 32} elements of a sample, not {most}"
    return None


def specialize(stage: Stage, rows: int) -> Specialisation:
    steps = operator.instructions(stage)
    dims, places = operator._places(stage)
    n = prod(dims)
    dims, places = joined(dims, places)
    names, lines, signature = [], [], {}
    sizes = [v.steps * v.width for v in stage.inputs] + [c.numel() for c in operator.constants(stage)]
    dtypes = [v.dtype for v in stage.inputs] + ["float32"] * len(stage.tensors)
    used = {o for step in steps for o in step.operands if isinstance(o, tuple)}
    for i, (place, size, dtype) in enumerate(zip(places, sizes, dtypes)):
        by_sample = i < len(stage.inputs)
        kind, at = ("x", i) if by_sample else ("c", i - len(stage.inputs))
        names.append(f"{kind}{at}_ptr")
        signature[names[-1]] = POINTERS[dtype]
        if (kind, at) in used:
            lines.append(load(f"{kind}{at}", place, size, by_sample, dtype))
    last = f"t{len(steps) - 1}"
    lines = [
        *head(["y_ptr", *names]), *digits(dims, "e", "d"), *lines, *(statement(i, s) for i, s in enumerate(steps)),
        f"tl.store(y_ptr + m * N + e, tl.broadcast_to({last}, (BLOCK_M, BLOCK_N)), mask=inside)",
    ]  # fmt: skip
    text, tile = text_of(lines), tiling(rows, n)
    return Specialisation(
        name=f"{stage.op}_N{n}_{len(steps)}f_{digest(text)}_{tile.block_m}x{tile.block_n}",
        kernel=kernel_of(text),
        signature={"y_ptr": "*fp32", **signature, "rows": "i32"},
        constants={"N": n, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n},
        tiling=tile,
    )


def require_values(op: str, stage: Stage, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs as kernels read them: dense. Raises ShapeError for what is none of the stage."""
    if len(inputs) != len(stage.inputs):
        raise ShapeError(op, f"{len(inputs)} inputs", f"{len(stage.inputs)}", "Pass the inputs of the stage, in order.")
    for x, value in zip(inputs, stage.inputs):
        dtype = getattr(torch, value.dtype)
        if tuple(x.shape[1:]) != value.shape or x.dtype != dtype or x.shape[0] != inputs[0].shape[0]:
            raise ShapeError(op, f"{x.dtype} {tuple(x.shape)}", f"{dtype} [M, {', '.join(map(str, value.shape))}]",
                             "Pass the inputs of the stage, in order.")  # fmt: skip
    return [x.contiguous() for x in inputs]


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """Inputs [M, ...] -> y [M, ...]; any M."""
    spec = specialize(stage, problem.matrix_rows if not operator.strided(stage) else problem.rows)
    launch, tile, n, out = bind(spec), spec.tiling, spec.constants["N"], stage.outputs[0]
    fixed = {f"c{i}_ptr": c.reshape(-1).to(problem.device).contiguous() for i, c in enumerate(operator.constants(stage))}

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage.op, stage, inputs)
        m = inputs[0].shape[0]
        y = torch.empty((m, *out.shape), dtype=torch.float32, device=inputs[0].device)
        if y.numel():
            pointers = {f"x{i}_ptr": x for i, x in enumerate(given)}
            launch(launch_grid(m, n, tile), y_ptr=y, rows=m, **pointers, **fixed)
        return (y,)

    return call


def supports(problem: Problem) -> str | None:
    if any(d not in ("float32", "int64") for d in problem.in_dtypes):
        return "reads float32 and int64"
    return too_large(problem)


def implementation(name: str) -> Impl:
    return Impl(name, "triton_expression", "triton", 10, supports, prepare)
