"""The roofline of this CPU, measured with the library's own kernels: the best they reach when one thing limits them."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.kernels.linear import contract
from rtaccel.measure.machine.roofline import Bandwidth, Peak, Roofline
from rtaccel.plan.choose import choose
from rtaccel.plan.explain import line

Layer = tuple[int, int, int]
"""Rows, K, N."""

IN_CACHE: tuple[Layer, ...] = ((1, 640, 128), (1, 512, 512), (1, 1024, 512))
"""int8 weights of 80 to 512 kB, read call after call: they stay in caches of 1 MB and more."""

IN_MEMORY: tuple[Layer, ...] = ((1, 8192, 8192),)
"""64 MiB, which no second-level cache holds, and few third-level ones."""

BUSY: tuple[Layer, ...] = ((32, 256, 256), (32, 512, 512), (32, 1024, 256))
"""Each weight is used 32 times."""


def cpu_roofline() -> Roofline:
    """One thread; takes about a second."""
    return Roofline(
        (
            Bandwidth("weights in cache", max(_rates(IN_CACHE, "static"))[0]),
            Bandwidth("weights in memory", max(_rates(IN_MEMORY, "static"))[0]),
        ),
        (
            Peak("int8", max(rate for _, rate in _rates(BUSY, "static"))),
            Peak("float32", max(rate for _, rate in _rates(BUSY, "float32"))),
        ),
        "the best that linear kernels reach here, on one thread",
    )


def _rates(layers: Sequence[Layer], scheme: str) -> list[tuple[float, float]]:
    """Bytes and multiply-adds per ns of each."""
    found = []
    for rows, k, n in layers:
        timed = line(choose(contract.make_stage(k, n, scheme), rows))
        assert timed.us is not None and timed.bytes is not None and timed.flops is not None  # a linear stage, measured
        found.append((timed.bytes / timed.us / 1e3, timed.flops / 2 / timed.us / 1e3))
    return found
