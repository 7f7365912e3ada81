"""How a recurrent stack is cut for window.cu, and what a window takes: the layers are a wavefront, and no host waits.

As in config.py, everything is computed in cycles of an H100 and no card has confirmed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.config import (
    CELL_CLOCKS,
    CLUSTER_BYTES,
    CLUSTER_CLOCKS,
    FOLD_CLOCKS,
    L2_CLOCKS,
    LINE4_CLOCKS,
    LINE_CLOCKS,
    LONELY_WARP,
    MAX_THREADS,
    SHARED_CLOCKS,
    SUM_CLOCKS,
    KernelConfig,
    cuts,
    fewest_programs,
    up16,
)
from rtaccel.kernels.recurrent.layout import Geometry

MAX_FETCHED = 4
"""Numbers of x that a thread has on their way to the next time step."""

REGISTERS_OF_WAVES = 16
"""More of a thread than a stream takes beside weights: the sums of its own layer, and x on its way."""

BARRIER_CLOCKS, LOOK_CLOCKS, START_CLOCKS, GHZ = 40, 33, 4000, 1.755
"""Of a wave: a barrier of the block; a look at a word in its own shared memory. Of a window: its launch, with a first way to
memory and the clearing of shared memory."""


@dataclass(frozen=True)
class WindowConfig(KernelConfig):
    """One cut of a stack over a window. It has no head, no warps that poll, and its programs are one or a cluster."""

    @property
    def beside(self) -> int:
        """Bytes of shared memory for everything but weights of the stack."""
        layers, units = self.geometry.layers, self.units
        total = 2 * (self.steps_x + layers * self.steps_h) * self.lanes * self.line
        total += up16(4 * layers * self.rows * units) + up16(4 * self.gates * units)
        total += up16(8 * layers * units) + up16(4 * self.scales)
        if self.group:
            lines = max(self.steps_x, self.steps_h) * self.lanes
            total += up16(4 * self.gates * (self.threads // self.lanes) * (lines + 1))
        return total + (up16(8 * self.exchange_words) if self.cluster else 0) + 32

    @property
    def exchange_words(self) -> int:
        """Of 8 bytes, in the shared memory of each program: two slots of each layer's h."""
        return 2 * self.geometry.layers * self.parts * self.units // 4

    @property
    def most_kept(self) -> int:
        return max(super().most_kept - REGISTERS_OF_WAVES // 4, 0)

    def placed(self, shared: int) -> WindowConfig:
        """With its weights where they belong: in registers as far as there are any, and in shared memory."""
        kept = min(self.most_kept, self.steps)
        room = max((shared - self.beside) // self.step_bytes, 0)
        return replace(self, kept=kept, held=min(room, self.steps - kept))

    def wave_clocks(self) -> float:
        """One time step of every layer."""
        layers, warps = self.geometry.layers, max(-(-self.threads // 128), LONELY_WARP)
        operand = self.steps // self.gates * (2 if self.group else 1)
        shared = (self.held + operand) * self.step_bytes * SHARED_CLOCKS
        products = self.steps * (LINE4_CLOCKS if self.group else LINE_CLOCKS) * warps
        sums = 2 * layers * SUM_CLOCKS * self.lanes.bit_length()
        groups = (self.groups[0] + (2 * layers - 1) * self.groups[1]) * FOLD_CLOCKS
        cells = CELL_CLOCKS * -(-layers // self.lanes)
        return max(shared, products) + sums + groups + cells + BARRIER_CLOCKS + self.exchange_clocks()

    def exchange_clocks(self) -> float:
        if self.parts == 1:
            return 0.0
        words = self.geometry.layers * self.units // 4
        looks = -(-self.geometry.layers * self.parts * self.units // (4 * self.threads))
        stores = 8 * words * (self.parts - 1) / CLUSTER_BYTES
        return CLUSTER_CLOCKS + stores + looks * LOOK_CLOCKS + BARRIER_CLOCKS

    def window_us(self, streams: int, multiprocessors: int) -> float:
        """Of so many streams on a card."""
        at_once = max(multiprocessors // self.parts, 1)
        load = (self.kept + self.held) * self.step_bytes * L2_CLOCKS
        waves = self.geometry.time + self.geometry.layers - 1
        return -(-streams // at_once) * (START_CLOCKS + load + waves * self.wave_clocks()) / GHZ / 1e3

    def definitions(self) -> dict[str, int]:
        return {**super().definitions(), "RTA_WINDOW": 1}

    def where(self) -> str:
        cluster = "; they are a cluster, and exchange by their shared memory" if self.cluster else ""
        return (
            f"{self.parts} programs of {self.threads} threads a stream, with {self.kept_bytes:,} B of weights in registers "
            f"and {self.held * self.step_bytes:,} B in shared memory of each{cluster}"
        )


def window_configs(geometry: Geometry, inputs: int, gates: int, group: int, of: Card) -> Iterator[WindowConfig]:
    """Every cut that holds all weights on a card's chip."""
    for units, parts in cuts(geometry.hidden, max(of.cluster, 1)):
        for lanes in (1, 2, 4, 8, 16, 32):
            found = WindowConfig(geometry, inputs, gates, group, None, units, parts, lanes, cluster=parts > 1)
            if not 32 <= found.threads <= MAX_THREADS or -(-inputs // found.threads) > MAX_FETCHED:
                continue
            found = found.placed(of.shared)
            if found.shared_bytes <= of.shared and not found.reread_bytes:
                yield found


def select_window(
    geometry: Geometry, inputs: int, gates: int, group: int, streams: int, of: Card
) -> WindowConfig | None:
    """The fewest programs that take hardly more than the least time for so many streams; None where nothing holds all weights."""
    configs = window_configs(geometry, inputs, gates, group, of)
    return fewest_programs({config: config.window_us(streams, of.multiprocessors) for config in configs})
