"""How a float32 layer of a recurrent stack is cut for layer.cu, and what it takes through time.

As in recurrent/cuda/config.py, everything is computed in cycles of an H100 and no card has confirmed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rtaccel.kernels._persistent.card import Card, registers_of
from rtaccel.kernels.recurrent.cuda.config import (
    CLUSTER_BYTES,
    CLUSTER_CLOCKS,
    L2_CLOCKS,
    LONELY_WARP,
    MAX_THREADS,
    SHARED_CLOCKS,
    SUM_CLOCKS,
    cuts,
    fewest_programs,
    up16,
)
from rtaccel.kernels.recurrent.cuda.window_config import BARRIER_CLOCKS, GHZ, LOOK_CLOCKS, START_CLOCKS

WORKING_REGISTERS = 72
"""Of a thread, beside weights: with them no form that the tests compile spills."""

STEP_CLOCKS, CELL_CLOCKS = 4, 160
"""A warp's products of a step, four for each thread; a cell, whose functions are not exact."""


@dataclass(frozen=True)
class LayerConfig:
    """One cut. units: of a program. lanes: threads of a unit. kept, held: steps whose weights are in registers, and in shared
    memory. A step is four numbers of every thread."""

    hidden: int
    gates: int
    units: int
    parts: int
    lanes: int
    kept: int = 0
    held: int = 0

    @property
    def threads(self) -> int:
        return -(-self.units * self.lanes // 32) * 32

    @property
    def wide(self) -> int:
        """Units, with those that are there to fill up."""
        return self.parts * self.units

    @property
    def chunks(self) -> int:
        """Lines of four numbers of h for each thread."""
        return -(-self.wide // (4 * self.lanes))

    @property
    def steps(self) -> int:
        return self.gates * self.chunks

    @property
    def step_bytes(self) -> int:
        return 16 * self.threads

    @property
    def shared_bytes(self) -> int:
        exchange = up16(16 * self.wide) if self.parts > 1 else 0
        return self.held * self.step_bytes + 32 * self.chunks * self.lanes + 16 + exchange

    @property
    def most_kept(self) -> int:
        """Steps for which a thread has registers."""
        return max((registers_of(self.threads) - WORKING_REGISTERS) // 4, 0)

    @property
    def kept_bytes(self) -> int:
        return self.kept * self.step_bytes

    def placed(self, shared: int) -> LayerConfig | None:
        """With its weights in registers as far as there are any, and in shared memory; None where they do not fit."""
        kept = min(self.most_kept, self.steps)
        found = replace(self, kept=kept, held=self.steps - kept)
        return found if found.shared_bytes <= shared else None

    def step_clocks(self) -> float:
        """One time step."""
        warps = max(-(-self.threads // 128), LONELY_WARP)
        products = self.steps * STEP_CLOCKS * warps
        shared = (self.held + self.chunks) * self.step_bytes * SHARED_CLOCKS
        sums = (SUM_CLOCKS + 2 * self.gates * warps) * (self.lanes.bit_length() - 1)
        return max(products, shared) + sums + CELL_CLOCKS + BARRIER_CLOCKS + self.exchange_clocks()

    def exchange_clocks(self) -> float:
        if self.parts == 1:
            return 0.0
        stores = 8 * self.units * (self.parts - 1) / CLUSTER_BYTES
        return CLUSTER_CLOCKS + stores + -(-self.wide // self.threads) * LOOK_CLOCKS

    def layer_us(self, time: int, streams: int, multiprocessors: int) -> float:
        """So many streams of so many time steps; a direction is a stream. Without the products with x."""
        at_once = max(multiprocessors // self.parts, 1)
        load = self.steps * self.step_bytes * L2_CLOCKS
        return -(-streams // at_once) * (START_CLOCKS + load + time * self.step_clocks()) / GHZ / 1e3

    def definitions(self) -> dict[str, int]:
        return {
            "RTA_HIDDEN": self.hidden, "RTA_UNITS": self.units, "RTA_PROGRAMS": self.parts, "RTA_LANES": self.lanes,
            "RTA_THREADS": self.threads, "RTA_KEPT": self.kept, "RTA_HELD": self.held, "RTA_SHARED_BYTES": self.shared_bytes,
            "RTA_LOOKS": 1 << 22,
        }  # fmt: skip

    def where(self) -> str:
        """For `explain`."""
        cluster = "; they are a cluster, and exchange by their shared memory" if self.parts > 1 else ""
        return (
            f"{self.parts} programs of {self.threads} threads a stream, with {self.kept_bytes:,} B of weights of h "
            f"in registers and {self.held * self.step_bytes:,} B in shared memory of each{cluster}"
        )


def layer_configs(hidden: int, gates: int, of: Card) -> Iterator[LayerConfig]:
    """Every cut that holds the weights of h on a card's chip."""
    for units, parts in cuts(hidden, max(of.cluster, 1)):
        for lanes in (1, 2, 4, 8, 16, 32):
            found = LayerConfig(hidden, gates, units, parts, lanes)
            if 32 <= found.threads <= MAX_THREADS and (placed := found.placed(of.shared)) is not None:
                yield placed


def select_layer(hidden: int, gates: int, time: int, streams: int, of: Card) -> LayerConfig | None:
    """The fewest programs that take hardly more than the least time for so many streams; None where nothing holds the weights."""
    configs = layer_configs(hidden, gates, of)
    return fewest_programs({config: config.layer_us(time, streams, of.multiprocessors) for config in configs})
