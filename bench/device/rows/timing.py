"""How a row is timed: from the host, each call on its own, on one core; and on the card, many calls in one CUDA graph."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError

Fields = dict[str, Any]

CALLS = 200
"""In one graph, so that neither Python nor the start of a replay is in what a call takes."""

REPLAYS = 20
COLD_BYTES = 3 * 60 << 20
"""What copies of weights add up to where a call is to find none of its own in the cache: three times the largest L2 there is."""


SMALLEST = 1024
"""Bytes that weights take at least."""


def free_mib() -> int:
    """Of the card's memory."""
    return torch.cuda.mem_get_info()[0] >> 20


@contextlib.contextmanager
def on_one_core(core: int | None = None) -> Iterator[int]:
    """The calling thread on one core, the last it may use: the first has the interrupts. Other threads stay where they are, and
    afterwards this one may go everywhere again."""
    allowed = os.sched_getaffinity(0)
    own = max(allowed) if core is None else core
    os.sched_setaffinity(0, {own})
    try:
        yield own
    finally:
        os.sched_setaffinity(0, allowed)


def timed(fn: Callable[[], object], seconds: float, **more: Any) -> Fields:
    """Percentiles of calls for so many seconds, each on its own."""
    with on_one_core():
        lat = rt.measure(fn, (), seconds=seconds)
        clock = sm_mhz()
    return {
        "p50_us": lat.p50_us, "p99_us": lat.p99_us, "p999_us": lat.p999_us, "max_us": lat.max_us, "calls": lat.n,
        "sm_mhz": clock, **more,
    }  # fmt: skip


def synchronous(call: Callable[[], object]) -> Callable[[], None]:
    """The call, and the wait until the host can read its result."""
    stream = torch.cuda.current_stream()

    def run() -> None:
        call()
        stream.synchronize()

    return run


def rounds_of(calls: Sequence[Callable[[], object]], least: int = CALLS) -> list[Callable[[], object]]:
    """The calls again and again, in their order, whole rounds, at least so many."""
    return list(calls) * -(-least // len(calls))


def device_us(calls: Sequence[Callable[[], object]], replays: int = REPLAYS) -> float:
    """Time of the card for one call, of a graph that holds CALLS of them or some more, one after the other.

    One call: its weights stay in the cache where they fit. Several on weights of their own that together are larger than the
    cache: each reads its weights from memory.
    """
    many = rounds_of(calls)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            for call in calls:
                call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        for call in many:
            call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        for _ in range(3):
            graph.replay()
        start.record()
        for _ in range(replays):
            graph.replay()
        end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000 / (replays * len(many))


def copies_for(weight_bytes: int) -> int:
    """How many copies of weights no cache holds."""
    return max(2, -(-COLD_BYTES // max(weight_bytes, 1)))


def copies_of(fast: Any, most: int, allocated: Callable[[], int] | None = None) -> tuple[list[Any], int]:
    """(a compiled model and copies of it that together no cache holds, at most so many; MiB of all of them).

    What a copy takes of the card's memory is looked at: copies that shared their weights would be warm.
    """
    allocated = allocated or torch.cuda.memory_allocated
    before = allocated()
    copies = [fast, copy.deepcopy(fast)]
    size = allocated() - before
    if size < SMALLEST:
        raise FormatError("bench.device", f"a copy of {size} bytes on the card", "weights of its own", "Time it warm.")
    copies += [copy.deepcopy(fast) for _ in range(min(copies_for(size), most) - 2)]
    return copies, len(copies) * size >> 20


def sm_mhz() -> int | None:
    """Clock of the multiprocessors now, so that a row tells what it was measured at; None where nvidia-ml-py is not there."""
    if importlib.util.find_spec("pynvml") is None or not torch.cuda.is_initialized():
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
    except pynvml.NVMLError:
        return None
