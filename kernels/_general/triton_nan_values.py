"""Samples that int8 cannot hold, found in all values of a plan in one launch, which makes their float results NaN.

A program looks at up to PIECE numbers of a sample. Where a sample has more, its programs count themselves in one word, those that
found a NaN or an infinity in its upper half too. The last one sees from the word whether any did. It writes the results, and
sets the word back to 0: a CUDA graph must find it so in its next replay.

Of streams the last one also counts for how many steps more results are NaN, and puts zeros for what is not finite in the states
of a marked stream: else its own past would mark it anew. It counts the calls of a stream, too, where rings lie by them.

How many values there are a plan knows, and PyTorch where they lie. So the kernel is made from text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_nan_propagation import INFINITY_BITS
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two

PIECE = 8192
"""Numbers that a program looks at: 32 in each of 256 threads."""

MAX_PIECES = 32767
"""That each half of a word counts."""


CALL = 'tl.atomic_add(tick_ptr + m, 1, sem="relaxed")'
"""Of the text. An atomic, which one thread does: a warp that is late would count what another has written."""


@dataclass(frozen=True)
class Part:
    """Programs that look at the same values: several in parts of one value, or one in some small values."""

    values: tuple[int, ...]
    programs: int


@triton.jit
def nonfinite(x_ptr, first, end, BLOCK: tl.constexpr):
    """1 where one of the numbers from first on, up to BLOCK of them and before end, is a NaN or an infinity, else 0."""
    at = first + tl.arange(0, BLOCK)
    bits = tl.load(x_ptr + at, mask=at < end, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (tl.max(bits, 0) >= INFINITY_BITS).to(tl.int32)


@triton.jit
def spread_nan(y_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.arange(0, BLOCK)
    for n0 in range(0, N, BLOCK):
        tl.store(y_ptr + n0 + n, tl.full((BLOCK,), float("nan"), tl.float32), mask=n0 + n < N)


@triton.jit
def settle(state_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
    """Zeros in place of what is not finite."""
    n = tl.arange(0, BLOCK)
    for n0 in range(0, N, BLOCK):
        state = tl.load(state_ptr + n0 + n, mask=n0 + n < N, other=0.0)
        finite = (state.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < INFINITY_BITS
        tl.store(state_ptr + n0 + n, tl.zeros((BLOCK,), tl.float32), mask=(n0 + n < N) & (finite == 0))


@triton.jit
def count_on(left_ptr, now, MEMORY: tl.constexpr):
    """Whether a stream is marked, and how long it stays so: from now on MEMORY steps more, or one less than before; -1 for ever.
    An atomic, as each warp must have read the word before one writes it."""
    left = tl.atomic_add(left_ptr, 0, sem="relaxed")
    tl.store(left_ptr, tl.where(now, MEMORY, tl.where(left > 0, left - 1, left)))
    return now | (left != 0)


@dataclass(frozen=True)
class Streamed:
    """memory: for how many steps more a stream stays marked, -1 for ever. states: numbers of each state that is settled. calls:
    whether its calls are counted."""

    memory: int
    states: tuple[int, ...]
    calls: bool = False


def parts_of(sizes: Sequence[int]) -> list[Part]:
    """Of values with so many numbers each."""
    found = [Part((v,), -(-size // PIECE)) for v, size in enumerate(sizes) if size > PIECE]
    small: list[int] = []
    for v, size in enumerate(sizes):
        if size > PIECE:
            continue
        if sum(sizes[i] for i in small) + size > PIECE:
            found.append(Part(tuple(small), 1))
            small = []
        small.append(v)
    return [*found, Part(tuple(small), 1)] if small else found


def _pointers(name: str, count: int) -> list[str]:
    """Of arguments: x_ptr, x1_ptr, x2_ptr ..."""
    return [f"{name}{i or ''}_ptr" for i in range(count)]


def _looks(part: Part, first: int, sizes: Sequence[int], indent: str) -> list[str]:
    """Lines of the text. first: the first of its programs."""
    found = []
    for v in part.values:
        at, end = ("0", str(sizes[v])) if part.programs == 1 else (f"(part - {first}) * {PIECE}", f"{sizes[v]}")
        x = _pointers("x", v + 1)[v]
        found.append(
            f"{indent}found |= nonfinite({x} + m * {sizes[v]}, {at}, {end}, {power_of_two(sizes[v], 32, PIECE)})"
        )
    return found


@cache
def specialize(sizes: tuple[int, ...], widths: tuple[int, ...], streamed: Streamed | None = None) -> Specialisation:
    """For samples of values with so many numbers each, and results with so many."""
    parts = parts_of(sizes)
    every = sum(part.programs for part in parts)
    assert every <= MAX_PIECES, sizes
    xs, ys = _pointers("x", len(sizes)), _pointers("y", len(widths))
    counted = ["count_ptr"] if every > 1 else []
    states = [] if streamed is None else _pointers("state", len(streamed.states))
    counted += [] if streamed is None else ["left_ptr"]
    calls = ["tick_ptr"] if streamed is not None and streamed.calls else []
    lines = [
        f"def kernel({', '.join([*xs, *ys, *states, *counted, *calls])}):",
        "    m = tl.program_id(0).to(tl.int64)",
    ]
    lines += ["    found = 0 * tl.program_id(0)"]
    if every == 1:
        lines += [*_looks(parts[0], 0, sizes, "    "), "    bad = found > 0"]
    else:
        lines += ["    part = tl.program_id(1)"]
        first = 0
        for part in parts:
            end = first + part.programs
            lines += [f"    if (part >= {first}) & (part < {end}):", *_looks(part, first, sizes, "        ")]
            first = end
        lines += [
            '    word = tl.atomic_add(count_ptr + m, 1 + (found << 16), sem="relaxed") + 1 + (found << 16)',
            f"    last = (word & 65535) == {every}",
            "    if last:",
            "        tl.store(count_ptr + m, 0)",
            "    bad = last & ((word >> 16) > 0)",
        ]
    if streamed is not None and every == 1:
        lines += [f"    bad = count_on(left_ptr + m, bad, {streamed.memory})", *(f"    {CALL}" for _ in calls)]
    elif streamed is not None:
        lines += ["    if last:", f"        bad = count_on(left_ptr + m, bad, {streamed.memory})"]
        lines += [f"        {CALL}" for _ in calls]
    lines += ["    if bad:"] if states or ys else []
    sizes_of = zip(states, () if streamed is None else streamed.states)
    lines += [f"        settle({state} + m * {n}, {n}, {power_of_two(n, 32, 4096)})" for state, n in sizes_of]
    lines += [f"        spread_nan({y} + m * {n}, {n}, {power_of_two(n, 32, 4096)})" for y, n in zip(ys, widths)]
    block = power_of_two(max(sizes), 32, PIECE)
    name = "propagate_nan" if streamed is None else f"marks_{'forever' if streamed.memory < 0 else streamed.memory}"
    return specialisation_of(
        f"{name}_V{len(sizes)}_K{sum(sizes)}_N{sum(widths)}"
        + (f"_S{sum(streamed.states)}" if streamed else "")
        + "_calls" * len(calls),
        "\n".join(lines) + "\n",
        {
            **dict.fromkeys((*xs, *ys, *states), "*fp32"),
            **dict.fromkeys(counted, "*i32"),
            **dict.fromkeys(calls, "*i64"),
        },
        {},
        Tiling(1, 1, block, num_warps=power_of_two(block // 1024, 1, 8)),
        nonfinite,
        spread_nan,
        settle,
        count_on,
    )


def values_propagator(sizes: tuple[int, ...], widths: tuple[int, ...]) -> Callable[..., None]:
    """propagate(xs, ys), of float32 tensors [samples, ...]: a sample of every y becomes NaN where that of any x holds a NaN or an
    infinity. sizes, widths: numbers of a sample of each. Calls must follow each other on one stream."""
    return _propagator(sizes, widths, None)


def stream_marker(sizes: tuple[int, ...], widths: tuple[int, ...], streamed: Streamed) -> Callable[..., None]:
    """mark(xs, ys, states, left, ticks), the same of streams: y is NaN for `streamed.memory` steps more, too, as left int32
    [streams] counts. The states of a marked stream lose what is not finite. ticks int64 [streams, 1], of `streamed.calls`: one
    more of each."""
    return _propagator(sizes, widths, streamed)


def _propagator(sizes: tuple[int, ...], widths: tuple[int, ...], streamed: Streamed | None) -> Callable[..., None]:
    spec, parts = specialize(sizes, widths, streamed), sum(part.programs for part in parts_of(sizes))
    launch = bind(spec)
    counts: list[Tensor] = []  # what was outgrown is kept: a captured graph may hold its address

    def propagate(
        xs: Sequence[Tensor], ys: Sequence[Tensor], states: Sequence[Tensor] = (), left: Tensor | None = None,
        ticks: Tensor | None = None,
    ) -> None:  # fmt: skip
        samples = xs[0].shape[0]
        if not samples:
            return
        given = dict(zip(_pointers("x", len(xs)), xs)) | dict(zip(_pointers("y", len(ys)), ys))
        given |= dict(zip(_pointers("state", len(states)), states)) | ({} if left is None else {"left_ptr": left})
        given |= {} if ticks is None else {"tick_ptr": ticks}
        if parts > 1:
            if not counts or counts[-1].numel() < samples or counts[-1].device != xs[0].device:
                counts.append(torch.zeros(samples, dtype=torch.int32, device=xs[0].device))
            given["count_ptr"] = counts[-1]
        launch((samples, parts), **given)

    return propagate
