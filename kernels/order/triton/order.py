"""Order in Triton, in two ways, neither of which depends on the numbers.

    triton_first    the first few: the line is read once for each of them, for what comes first of all that come after the last
    triton_rank     any number: each element counts those before it, and is stored at its count

Counting is n^2 comparisons, but all of them at once, over the whole card: 2^22 for a line of 2048 are some 700 cycles of an H100,
and a sort by exchanges has 66 steps that wait for each other. Both are made for the strides of each stage (kernels/_general).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general import triton_lines as lines
from rtaccel.kernels._general.triton_places import address, digits, joined
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import POINTERS, require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.order import contract
from rtaccel.kernels.order.triton.keys import key_of

FEW = 4
"""Elements up to which the line is read for each of them rather than counted."""

MAX_FIRST = 64
"""Elements up to which that is done for lines too long to count."""

MAX_RANKED = 16384
"""Elements of a line that is counted: 2^28 comparisons, some 50 us of an H100 if it has nothing else to do. Not measured."""

LARGEST = {"float32": "0x7FFFFFFF", "int64": "0x7FFFFFFFFFFFFFFF"}
LEAST = {"float32": "-0x7FFFFFFF - 1", "int64": "-0x7FFFFFFFFFFFFFFF - 1"}


def _parts(stage: Stage) -> tuple[tuple[int, ...], int, int, int, str]:
    """(dims, lines of a sample, elements of a line, k, arguments of key_of)."""
    dims, attrs = tuple(stage.attrs["dims"]), stage.attrs
    order = f"{bool(attrs['descending'])}, {bool(attrs['nan_first']) and not attrs['descending']}"
    return dims, prod(dims[:-1]), dims[-1], int(attrs["k"]), order


def _pointers(stage: Stage) -> dict[str, str]:
    given = {"x_ptr": POINTERS[stage.inputs[0].dtype]}
    return given | {f"{name}_ptr": POINTERS[v.dtype] for name, v in zip(stage.attrs["gives"].split(","), stage.outputs)}


def _head(pointers: Mapping[str, str], constants: Mapping[str, Any]) -> str:
    fixed = ", ".join(f"{name}: tl.constexpr" for name in constants)
    return f"def kernel({', '.join(pointers)}, rows, {fixed}):"


def first(stage: Stage, rows: int) -> Specialisation:
    """A tile of lines; each of the k is found by one walk along them."""
    dims, count, over, k, order = _parts(stage)
    place, target = (tuple(p) for p in stage.attrs["places"])
    x, kept, dtype = stage.inputs[0], len(dims) - 1, stage.inputs[0].dtype
    k_x, o_x, line_x, step_x = lines.place(dims, kept, place, "k", "o", "x")
    k_y, i_y, line_y, step_y = lines.place((*dims[:-1], k), kept, target, "k", "i", "y")
    kind = "tl.int64" if dtype == "int64" else "tl.int32"
    large = f"tl.full((BLOCK_R, BLOCK_O), {LARGEST[dtype]}, {kind})"
    stores = []
    for name, y in zip(stage.attrs["gives"].split(","), stage.outputs):
        at = f"{name}_ptr + m * {y.steps * y.width} + {line_y} + {step_y}"
        value = "at.to(tl.int64)" if name == "indices" else f"tl.load(start + {step_x}, mask=there)"
        stores.append(f"tl.store({at}, {value}, mask=there)")
    tile = lines.tiling(rows * count, over, lines.neighbors(dims, kept, place))
    constants = {"LINES": count, "OVER": over, "K": k, "BLOCK_R": tile.block_m, "BLOCK_O": tile.block_k}
    pointers = _pointers(stage)
    text = text_of([
        _head(pointers, constants),
        *lines.rows(count), *k_x, *k_y,
        f"start = x_ptr + m * {x.steps * x.width} + {line_x}",
        f"key = tl.full((BLOCK_R, 1), {LEAST[dtype]}, {kind})",
        "at = tl.full((BLOCK_R, 1), -1, tl.int32)",
        "for i in range(K):",
        f"    best = {large}",
        "    place = tl.full((BLOCK_R, BLOCK_O), OVER, tl.int32)",
        "    for o0 in range(0, OVER, BLOCK_O):",
        "        o = o0 + tl.arange(0, BLOCK_O)[None, :]", *(f"        {line}" for line in o_x),
        f"        own = key_of(tl.load(start + {step_x}, mask=there & (o < OVER), other=0), {order})",
        "        after = (o < OVER) & ((own > key) | ((own == key) & (o > at)))",
        # A later element of a thread with the same key is no better; the largest key has a place only once it was seen.
        "        better = after & ((own < best) | (place == OVER))",
        "        best, place = tl.where(better, own, best), tl.where(better, o, place)",
        "    key = tl.min(best, 1, keep_dims=True)",
        "    at = tl.min(tl.where(best == key, place, OVER), 1, keep_dims=True)",
        *(f"    {line}" for line in i_y),
        "    o = at", *(f"    {line}" for line in o_x),
        *(f"    {line}" for line in stores),
    ])  # fmt: skip
    return specialisation_of(
        f"order_first_{dtype}_{count}x{over}",
        text,
        {**pointers, "rows": "i32"},
        constants,
        tile,
        key_of,
        ending=f"_{tile.block_m}x{tile.block_k}",
    )


def rank(stage: Stage, rows: int) -> Specialisation:
    """A tile of elements of one line, beside tiles of all of it."""
    dims, count, over, k, order = _parts(stage)
    place, target = (tuple(p) for p in stage.attrs["places"])
    x, kept, dtype = stage.inputs[0], len(dims) - 1, stage.inputs[0].dtype
    outer_dims, (outer,) = joined(dims[:kept], [place[: kept + 1]])
    _, (outer_y,) = joined(dims[:kept], [target[: kept + 1]])
    y_dims = joined(dims[:kept], [target[: kept + 1]])[0]
    stores = []
    for name, y in zip(stage.attrs["gives"].split(","), stage.outputs):
        value = "o.to(tl.int64)" if name == "indices" else "x"
        at = f"{name}_ptr + m * {y.steps * y.width} + {address(outer_y, 'y')} + before * {target[-1]}"
        stores.append(f"tl.store({at}, {value}, mask=(o < OVER) & (before < K))")
    block_j = power_of_two(over, 16, 64)
    block_o = power_of_two(over, 16, 64 if rows * count * over > 64 * 128 else 16)
    tile = Tiling(1, block_o, block_j, num_warps=power_of_two(block_o * block_j // 256, 1, 4))
    constants = {"LINES": count, "OVER": over, "K": k, "BLOCK_O": block_o, "BLOCK_J": block_j}
    pointers = _pointers(stage)
    text = text_of([
        _head(pointers, constants),
        "m = (tl.program_id(0) // LINES).to(tl.int64)",
        "k = tl.program_id(0) % LINES",
        *digits(outer_dims, "k", "d"), *digits(y_dims, "k", "y"),
        f"start = x_ptr + m * {x.steps * x.width} + {address(outer, 'd')}",
        "o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]",
        f"x = tl.load(start + o * {place[-1]}, mask=o < OVER, other=0)",
        f"own = key_of(x, {order})",
        "less = tl.zeros((BLOCK_O, BLOCK_J), tl.int32)",
        "for j0 in range(0, OVER, BLOCK_J):",
        # With the shape of the comparisons: a tile of one row would lie in other threads, and each step end in a barrier.
        "    j = j0 + tl.arange(0, BLOCK_J)[None, :] + tl.zeros((BLOCK_O, BLOCK_J), tl.int32)",
        f"    other = key_of(tl.load(start + j * {place[-1]}, mask=j < OVER, other=0), {order})",
        "    less += ((j < OVER) & ((other < own) | ((other == own) & (j < o)))).to(tl.int32)",
        "before = tl.sum(less, 1, keep_dims=True) & 0x7FFF",  # all its bits: the proof of indices asks for a bound
        *stores,
    ])  # fmt: skip
    return specialisation_of(
        f"order_rank_{dtype}_{count}x{over}",
        text,
        {**pointers, "rows": "i32"},
        constants,
        tile,
        key_of,
        ending=f"_{block_o}x{block_j}",
    )


def _takes_first(problem: Problem) -> bool:
    return bool(problem.attrs["k"] <= FEW or problem.attrs["dims"][-1] > MAX_RANKED)


def supports_first(problem: Problem) -> str | None:
    k = problem.attrs["k"]
    if not _takes_first(problem):
        return f"reads the line for each of k elements; {k} of {problem.attrs['dims'][-1]} are counted"
    return f"finds at most {MAX_FIRST} of a long line, not {k}" if k > MAX_FIRST else too_large(problem)


def supports_rank(problem: Problem) -> str | None:
    k, n = problem.attrs["k"], problem.attrs["dims"][-1]
    if _takes_first(problem):
        return f"counts the elements before each of a line of at most {MAX_RANKED}, of {n}; k {k} is for triton_first"
    return too_large(problem)


def prepare(form: Callable[[Stage, int], Specialisation]) -> Callable[[Stage, Problem], Prepared]:
    """x [M, steps, width] -> values, indices or both; any M."""

    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        contract.lower(stage)  # what it refuses, it refuses here too
        spec = form(stage, problem.rows)
        launch, tile, count, over = bind(spec), spec.tiling, spec.constants["LINES"], spec.constants["OVER"]
        names = [f"{name}_ptr" for name in stage.attrs["gives"].split(",")]
        dtypes = [getattr(torch, v.dtype) for v in stage.outputs]
        whole = form is first

        def call(x: Tensor) -> tuple[Tensor, ...]:
            (x,) = require_values(stage, (x,))
            m = x.shape[0]
            made = [torch.empty((m, *v.shape), dtype=t, device=x.device) for v, t in zip(stage.outputs, dtypes)]
            if m * count:
                across = (
                    (triton.cdiv(m * count, tile.block_m),) if whole else (m * count, triton.cdiv(over, tile.block_n))
                )
                launch(across, x_ptr=x, rows=m, **dict(zip(names, made)))
            return tuple(made)

        return call

    return prepare_stage


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    largest = contract.make_stage((1, 1000), 1, gives="indices")
    yield first(largest, Problem.of(largest, 1, "cuda").rows)
    for dtype in ("float32", "int64"):
        sort = contract.make_stage((4, 512), 512, dtype=dtype)
        yield rank(sort, Problem.of(sort, 1, "cuda").rows)


register_impl(Impl("order", "triton_first", "triton", 10, supports_first, prepare(first)))
register_impl(Impl("order", "triton_rank", "triton", 10, supports_rank, prepare(rank)))
