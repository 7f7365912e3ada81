"""Draw in Triton: a program has a tile of Philox blocks, of four numbers each, wherever samples begin.

How many samples were given lies in the card's memory, so each replay of a graph goes on behind the last one. A second launch
counts: all programs of the first have read it then.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.draw import contract


@triton.jit(do_not_specialize=["rows", "seed", "place"])
def draw_kernel(given_ptr, y_ptr, rows, seed, place, ELEMENTS: tl.constexpr, BLOCKS: tl.constexpr, TILE: tl.constexpr):
    """Grid over the blocks of all samples, in tiles."""
    block = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    number = tl.load(given_ptr) * BLOCKS + block
    low, high = number.to(tl.uint32), (number >> 32).to(tl.uint32)
    third = low * 0 + place.to(tl.uint32)
    a, b, c, d = tl.philox(seed, low, high, third, low * 0)
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (TILE, 4))
    sample = block // BLOCKS
    at = (block - sample * BLOCKS)[:, None] * 4 + tl.arange(0, 4)[None, :]
    y = (words >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    tl.store(y_ptr + sample[:, None] * ELEMENTS + at, y, mask=(sample < rows)[:, None] & (at < ELEMENTS))


@triton.jit(do_not_specialize=["rows"])
def count_kernel(given_ptr, rows):
    """One program."""
    tl.store(given_ptr, tl.load(given_ptr) + rows)


def specialize(elements: int, rows: int) -> Specialisation:
    blocks = -(-elements // 4)
    tile = power_of_two(blocks * rows, 32, 256)
    return Specialisation(
        name=f"draw_E{elements}_{tile}",
        kernel=draw_kernel,
        signature={"given_ptr": "*i64", "y_ptr": "*fp32", "rows": "i32", "seed": "i64", "place": "i32"},
        constants={"ELEMENTS": elements, "BLOCKS": blocks, "TILE": tile},
        tiling=Tiling(1, tile, 1, num_warps=power_of_two(tile // 64, 1, 4)),
    )


def counting() -> Specialisation:
    return Specialisation(
        name="draw_count",
        kernel=count_kernel,
        signature={"given_ptr": "*i64", "rows": "i32"},
        constants={},
        tiling=Tiling(1, 1, 1, num_warps=1),
    )


class Drawing:
    """kept: how many samples were given, which a call changes beside its result."""

    def __init__(self, stage: Stage, problem: Problem) -> None:
        low = contract.lower(stage)
        self._shape, self._numbers = stage.outputs[0].shape, {"seed": low["seed"], "place": low["place"]}
        spec = specialize(prod(self._shape), problem.rows)
        self._blocks, self._tile = int(spec.constants["BLOCKS"]), spec.tiling.block_n
        self._launch, self._count = bind(spec), bind(counting())
        self._given = torch.zeros(1, dtype=torch.int64).to(problem.device)

    @property
    def kept(self) -> tuple[Tensor, ...]:
        return (self._given,)

    def __call__(self, x: Tensor) -> tuple[Tensor]:
        m = x.shape[0]
        y = torch.empty((m, *self._shape), dtype=torch.float32, device=x.device)
        if m:
            grid = (triton.cdiv(m * self._blocks, self._tile),)
            self._launch(grid, given_ptr=self._given, y_ptr=y, rows=m, **self._numbers)
            self._count((1,), given_ptr=self._given, rows=m)
        return (y,)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, ...] -> y [M, steps, width]; any M."""
    return Drawing(stage, problem)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    yield specialize(131, 1)
    yield specialize(4096, 64)
    yield counting()


register_impl(Impl("draw", "triton_philox", "triton", 10, lambda problem: None, prepare))
