"""Grid sample in Triton: each element of y works out the places and weights of its own point, and reads its taps.

All channels of a point work them out anew: some 20 to 60 instructions, where a launch of its own would write them and read them
again. Places and weights round as the contract has them, one operation at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.grid_sample.contract import (
    BORDER,
    CUBIC,
    NEAREST,
    REFLECTION,
    SLOPE,
    ZEROS,
    lower,
    make_stage,
    shape_of,
)

Tap = tuple[str, str]
"""Names of where a tap is in one dimension, float32, and of its weight."""


def _kept_inside(made: Text, name: str, size: int, padding: int, align: bool, rank: int) -> None:
    """`name` becomes the place that the padding gives for one outside."""
    if padding == REFLECTION:
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        span = high - low
        if span > 0:
            made.add(
                f"off = tl.abs({name} - {low})", f"times = tl.floor(quotient(off, {span}))", f"extra = off - times * {span}",
                "odd = times - 2.0 * tl.floor(times * 0.5)",
                f"{name} = tl.where(odd > 0.5, {high} - extra, extra + {low})",
            )  # fmt: skip
        else:
            made.add(f"{name} = {name} * 0.0")
    if padding in (BORDER, REFLECTION):
        last = size - 1.0
        if rank == 2:  # a NaN is the first place
            made.add(f"{name} = tl.where({name} > 0.0, tl.where({name} > {last}, {last}, {name}), 0.0)")
        else:  # the last one
            made.add(f"{name} = tl.where({name} < {last}, tl.where({name} < 0.0, 0.0, {name}), {last})")


def _taps(made: Text, d: int, size: int, mode: int, padding: int, align: bool, rank: int) -> list[Tap]:
    """Lines for the taps of dimension d, whose coordinate is p{d}."""
    scale = f"(p{d} + 1.0) * {(size - 1) / 2.0}" if align else f"(p{d} + 1.0) * {size / 2.0} - 0.5"
    made.add(f"place{d} = {scale}")
    if mode == CUBIC:
        made.add(f"first{d} = tl.floor(place{d})", f"t = place{d} - first{d}")
        parts = (("t + 1.0", True), ("t", False), ("1.0 - t", False), ("2.0 - t", True))
        found = []
        for i, (at, far) in enumerate(parts):
            made.add(f"u = {at}")
            if far:
                weight = f"(({SLOPE} * u - {5 * SLOPE}) * u + {8 * SLOPE}) * u - {4 * SLOPE}"
            else:
                weight = f"({SLOPE + 2} * u - {SLOPE + 3}) * u * u + 1.0"
            made.add(f"w{d}_{i} = {weight}", f"at{d}_{i} = first{d} + {i - 1.0}")
            _kept_inside(made, f"at{d}_{i}", size, padding, align, rank)
            found.append((f"at{d}_{i}", f"w{d}_{i}"))
        return found
    _kept_inside(made, f"place{d}", size, padding, align, rank)
    if mode == NEAREST:
        made.add(f"at{d}_0 = whole(place{d})", f"w{d}_0 = tl.full((1, 1), 1.0, tl.float32)")
        return [(f"at{d}_0", f"w{d}_0")]
    made.add(
        f"at{d}_0 = tl.floor(place{d})", f"at{d}_1 = at{d}_0 + 1.0", f"w{d}_0 = at{d}_1 - place{d}",
        f"w{d}_1 = place{d} - at{d}_0",
    )  # fmt: skip
    return [(f"at{d}_0", f"w{d}_0"), (f"at{d}_1", f"w{d}_1")]


def text(stage: Stage) -> Text:
    channels, positions, points = shape_of(stage)
    low, y = lower(stage), stage.outputs[0]
    sizes, rank, mode, padding = low["sizes"], low["rank"], low["mode"], low["padding"]
    made = Text(y.steps * y.width, stage.inputs, y)
    fixed = "grid" in stage.tensors
    if fixed:
        made.keep("grid", stage.tensors["grid"])
    if low["channels_last"]:
        made.add(f"c = e % {channels}", f"point = e // {channels}", f"image = point // {points}")
        base, apart = f"image * {positions * channels} + c", channels
    else:
        made.add(f"c = e // {points} % {channels}", f"image = e // {points * channels}",
                 f"point = image * {points} + e % {points}")  # fmt: skip
        base, apart = f"(image * {channels} + c) * {positions}", 1
    made.add(f"base = {base}")
    for d in range(rank):
        made.read("grid", None if fixed else 1, f"point * {rank} + {rank - 1 - d}", "e < N" if fixed else "inside")
        made.add(f"p{d} = grid")
    each = [_taps(made, d, size, mode, padding, bool(low["align"]), rank) for d, size in enumerate(sizes)]
    for taps, size in zip(each, sizes):
        for at, _ in taps:  # what is inside is not changed by the bounds: they are for the proof of indices
            made.add(
                f"in_{at} = ({at} > -1.0) & ({at} < {float(size)})",
                f"i_{at} = tl.minimum(tl.maximum(tl.where(in_{at}, {at}, 0.0).to(tl.int32), 0), {size - 1})",
            )
    made.add("y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)")
    for chosen in product(*each):
        index, known, weight = "0", [], "1.0"
        for (at, own), size in zip(chosen, sizes):
            index = f"i_{at}" if index == "0" else f"({index}) * {size} + i_{at}"
            known.append(f"in_{at}")
            weight = own if weight == "1.0" else f"{weight} * {own}"
        made.add(f"known = {' & '.join(known)}", f"w = {weight}")
        made.read("x", 0, f"base + ({index}) * {apart}", "inside & known", "0.0")
        if rank == 3 or mode == NEAREST:
            made.add("w = tl.where(known, w, 0.0)")
        made.add("y = y + w * x")
    return made


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for sizes, mode, padding, last in (
        ((64, 64), 0, ZEROS, 0),
        ((64, 64), CUBIC, BORDER, 0),
        ((8, 16, 16), 0, REFLECTION, 1),
    ):
        stage = make_stage(sizes, 16, 400, 1, last, mode=mode, padding=padding, align=0)
        made = text(stage)
        yield made.specialize("grid_sample", Problem.of(stage, 1, "cuda").rows)


def supports(problem: Problem) -> str | None:
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x and, where it is no tensor of the stage, a grid, float32 [M, ..] -> y [M, ..]; any M."""
    made = text(stage)
    return made.launcher(stage, made.specialize("grid_sample", problem.rows), problem.device)


register_impl(Impl("grid_sample", "triton_points", "triton", 10, supports, prepare))
