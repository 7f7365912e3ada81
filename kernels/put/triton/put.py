"""Put in Triton: each element of y looks which lines of src reach it, and joins what they bring. One launch, and no atomics.

Who writes by index must take turns where two lines reach one element, and a card has no order of its own. Read the other way
round, an element has its own turn: it compares the indices of all lines that could reach it with what it is, and reads src where
they are the same. So results have the same bits in every run, and the last line stands where it should.

Lines that can reach an element are few: a dimension of src that moves y by a stride of its own (a column, where rows are
selected) is known from the element. Where strides do not tell, every element of src is compared.

Where a graph is replayed, nobody looks at indices before. One that is outside then makes NaN of each element that it might have
reached, of int64 the least number; see triton_indices.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common import indexed
from rtaccel.kernels._common.strides import elements
from rtaccel.kernels._general import triton_indices, triton_lines
from rtaccel.kernels._general.triton_places import address, as_tile, digits, nested
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import POINTERS, require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.put import contract

MAX_COMPARISONS = 2**31
"""Comparisons of a sample: some 300 us of an H100 if it has nothing else to do. Not measured."""

JOINS = {
    "add": ("acc + v", "tl.sum(acc, 1, keep_dims=True)", "y + brought"),
    "prod": ("acc * v", "tl.reduce(acc, 1, times, keep_dims=True)", "y * brought"),
    "amax": ("larger(acc, v)", "tl.reduce(acc, 1, larger, keep_dims=True)", "larger(y, brought)"),
    "amin": ("smaller(acc, v)", "tl.reduce(acc, 1, smaller, keep_dims=True)", "smaller(y, brought)"),
}
"""mode -> (how a number is joined, how a tile is, how y is)."""

NEUTRAL = {
    "float32": {"add": "0.0", "prod": "1.0", "amax": '-float("inf")', "amin": 'float("inf")'},
    "int64": {"add": "0", "prod": "1", "amax": "-9223372036854775807 - 1", "amin": "9223372036854775807"},
}
"""dtype -> mode -> the number that leaves another as it is."""


@dataclass(frozen=True)
class Reach:
    """How an element of y is taken apart. own: dimensions of src that it is known from; the others are gone through.
    parts: (stride, "p<d>" or "j<k>") from the largest down; empty where nothing is known of it."""

    own: tuple[int, ...]
    parts: tuple[tuple[int, str], ...]


def reach_of(dims: tuple[int, ...], place: tuple[int, ...], sizes: tuple[int, ...], strides: tuple[int, ...]) -> Reach:
    """place: of y over dims, where all indices are 0. sizes, strides: of the indices."""
    moving = [d for d, stride in enumerate(place[1:]) if stride and dims[d] > 1]
    parts = [(place[1 + d], dims[d], f"p{d}") for d in moving]
    parts += [(stride, size, f"j{k}") for k, (size, stride) in enumerate(zip(sizes, strides)) if size > 1]
    parts.sort(reverse=True)
    inner = 0
    for stride, size, _ in reversed(parts):
        if stride <= inner:
            return Reach((), ())
        inner += (size - 1) * stride
    return Reach(tuple(moving), tuple((stride, name) for stride, _, name in parts))


def _names(stage: Stage) -> list[str]:
    return indexed.names(stage, ("src",))


def comparisons(dims: tuple[int, ...], reach: Reach, n: int) -> int:
    return n * prod(size for d, size in enumerate(dims) if d not in reach.own)


def text(stage: Stage) -> tuple[str, int, dict[str, Tensor]]:
    """(source of the kernel, elements of src that each element of y is compared with, tensors that are the same for all
    samples)."""
    attrs, y = stage.attrs, stage.outputs[0]
    dims, sizes, strides = tuple(attrs["dims"]), tuple(attrs["sizes"]), tuple(attrs["strides"])
    names, n = _names(stage), y.steps * y.width
    places = dict(zip(["y", *names[1:]], (tuple(p) for p in attrs["places"])))
    reach = reach_of(dims, places["y"], sizes, strides)
    rest = [d for d in range(len(dims)) if d not in reach.own]
    fixed = {f"{name}_ptr": stage.tensors[name].reshape(-1).contiguous() for name in names if name in stage.tensors}
    given = [name for name in names if name not in stage.tensors]
    starts = {name: f"{name}_ptr + m * {v.steps * v.width} + " for name, v in zip(given, stage.inputs)}

    def pointer(name: str, at: str) -> str:
        return starts[name] + at if name in starts else f"{name}_ptr + {as_tile(at)}"

    def at(name: str) -> str:
        """The address of an operand, at the place that p and q say."""
        place = places[name]
        known = [f"p{d} * {place[1 + d]}" for d in reach.own if place[1 + d]]
        moved = address((place[0], *(place[1 + d] for d in rest)), "q")
        return pointer(name, " + ".join([moved, *known]))

    whole, source, target = (tuple(p) for p in attrs["whole"])
    found = nested(whole, source, target)
    lines = [*triton_lines.rows(n), "e = k"]
    if found is None:
        table = torch.full((n,), 0, dtype=torch.int32)
        table[torch.from_numpy(elements(whole, target))] = torch.from_numpy(elements(whole, source)).int()
        fixed["table_ptr"] = table
        lines += ["w = tl.load(table_ptr + e, mask=there, other=0)"]
        from_x = "w"
    else:
        _, source, target = found
        lines += [f"left = e - {target[0]}"]
        for d, wide in enumerate(target[1:]):
            lines += [f"w{d} = left // {wide}", f"left = left % {wide}"]
        from_x = address(source, "w")
    lines += [f"y = tl.load({pointer('x', from_x)}, mask=there, other=0)"]
    lines += [f"left = e - {places['y'][0]}", "known = there & (left >= 0)" if reach.parts else "known = there"]
    for stride, name in reach.parts:
        lines += [f"{name} = left // {stride}", f"left = left % {stride}"]
        if name.startswith("p"):
            lines += [f"known = known & ({name} < {dims[int(name[1:])]})"]
    if reach.parts:
        lines += ["known = known & (left == 0)"]
    mode = attrs["mode"]
    last, kind = mode == "set", {"float32": "tl.float32", "int64": "tl.int64"}[y.dtype]
    lines += [
        "lost = tl.zeros((BLOCK_R, BLOCK_S), tl.int32)",
        f"acc = tl.full((BLOCK_R, BLOCK_S), {'-1, tl.int32' if last else f'{NEUTRAL[y.dtype][mode]}, {kind}'})",
        "for s0 in range(0, S, BLOCK_S):",
    ]
    # With the shape of the comparisons: indices of one row would lie in other threads, and each step end in a barrier.
    body = ["s = s0 + tl.arange(0, BLOCK_S)[None, :] + tl.zeros((BLOCK_R, BLOCK_S), tl.int32)"]
    body += [*digits([dims[d] for d in rest], "s", "q")]
    body += ["asked = known & (s < S)", "hit = asked"]
    moved = [f"q{i} * {places['y'][1 + d]}" for i, d in enumerate(rest) if places["y"][1 + d]]
    for k, (size, stride) in enumerate(zip(sizes, strides)):
        body += [f"i{k} = tl.load({at(f'i{k}')}, mask=asked, other=0)"]
        if attrs["negative"]:
            body += [f"i{k} = tl.where(i{k} < 0, i{k} + {size}, i{k})"]
        body += [f"lost = lost | (asked & ((i{k} < 0) | (i{k} >= {size}))).to(tl.int32)"]
        if reach.parts and size > 1:
            body += [f"hit = hit & (i{k} == j{k})"]
        moved += [f"i{k} * {stride}"]
    if not reach.parts:
        body += [f"hit = hit & (lost == 0) & (left == {' + '.join(moved)})"]
    if last:
        body += ["acc = tl.where(hit, s, acc)"]
    else:
        body += [
            f"v = tl.load({at('src')}, mask=hit, other={NEUTRAL[y.dtype][mode]})",
            f"acc = {JOINS[mode][0]}",
        ]
    lines += [f"    {line}" for line in body]
    if last:
        lines += [
            "s = tl.max(acc, 1, keep_dims=True)",
            *digits([dims[d] for d in rest], "s", "q"),
            f"brought = tl.load({at('src')}, mask=known & (s >= 0), other=0)",
            "y = tl.where(s >= 0, brought, y)",
        ]
    else:
        lines += [f"brought = {JOINS[mode][1]}", f"y = {JOINS[mode][2]}"]
    lines += [
        f"y = tl.where(tl.max(lost, 1, keep_dims=True) > 0, {triton_indices.OUTSIDE[y.dtype]}, y)",
        "tl.store(y_ptr + r, y, mask=there)",
    ]
    pointers = ["y_ptr", *(f"{name}_ptr" for name in given), *fixed]
    head = f"def kernel({', '.join(pointers)}, rows, S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr):"
    return text_of([head, *lines]), prod(dims[d] for d in rest), fixed


def specialize(stage: Stage, rows: int) -> tuple[Specialisation, dict[str, Tensor]]:
    source, steps, fixed = text(stage)
    y, mode = stage.outputs[0], stage.attrs["mode"]
    given = [name for name in _names(stage) if name not in stage.tensors]
    types = {f"{name}_ptr": POINTERS[v.dtype] for name, v in zip(given, stage.inputs)}
    types |= {name: POINTERS[str(t.dtype).removeprefix("torch.")] for name, t in fixed.items()}
    n = y.steps * y.width
    block_s = power_of_two(steps, 1, 32)
    block_e = power_of_two(rows * n // 256, 16, max(16, 1024 // block_s))
    spec = specialisation_of(
        f"put_{mode}_{'' if y.dtype == 'float32' else f'{y.dtype}_'}N{n}_S{steps}",
        source,
        {"y_ptr": POINTERS[y.dtype], **types, "rows": "i32"},
        {"S": steps, "BLOCK_R": block_e, "BLOCK_S": block_s},
        Tiling(block_e, 1, block_s, num_warps=power_of_two(block_e * block_s // 256, 1, 4)),
        ending=f"_{block_e}x{block_s}",
    )
    return spec, fixed


def supports(problem: Problem) -> str | None:
    attrs, n = problem.attrs, problem.out_steps[0] * problem.out_widths[0]
    dims = tuple(attrs["dims"])
    reach = reach_of(dims, tuple(attrs["places"][0]), tuple(attrs["sizes"]), tuple(attrs["strides"]))
    if (found := comparisons(dims, reach, n)) > MAX_COMPARISONS:
        return f"compares at most {MAX_COMPARISONS} times in a sample, not {found}"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x, indices and src, those that are no tensors of the stage -> y [M, steps, width]; any M."""
    contract.lower(stage)  # what it refuses, it refuses here too
    spec, fixed = specialize(stage, problem.rows)
    launch, tile, out = bind(spec), spec.tiling, stage.outputs[0]
    fixed = {name: tensor.to(problem.device) for name, tensor in fixed.items()}
    n, names = out.steps * out.width, _names(stage)
    moving = [name for name in names if name not in stage.tensors]
    sizes = {f"i{k}": size for k, size in enumerate(stage.attrs["sizes"])}
    known = [name for name in sizes if name in stage.tensors]
    negative = bool(stage.attrs["negative"])
    triton_indices.check("put", [stage.tensors[name] for name in known], [sizes[name] for name in known], negative)

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage, inputs)
        indices = {name: x for name, x in zip(moving, given) if name in sizes}
        triton_indices.check("put", list(indices.values()), [sizes[name] for name in indices], negative)
        m = given[0].shape[0]
        y = torch.empty((m, *out.shape), dtype=getattr(torch, out.dtype), device=given[0].device)
        if y.numel():
            pointers: dict[str, Any] = {f"{name}_ptr": x for name, x in zip(moving, given)}
            launch((triton.cdiv(m * n, tile.block_m),), y_ptr=y, rows=m, **pointers, **fixed)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for mode, rows, columns, lines, dtype in (
        ("add", 64, 32, 256, "float32"), ("set", 128, 16, 1, "float32"), ("amax", 64, 32, 256, "int64"),
    ):  # fmt: skip
        stage = contract.rows_stage(mode, rows, columns, lines, dtype)
        yield specialize(stage, Problem.of(stage, 1, "cuda").rows)[0]


register_impl(Impl("put", "triton_reached", "triton", 10, supports, prepare))
