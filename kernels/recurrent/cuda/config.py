"""How a recurrent stack is cut for recurrent.cu, and where its weights stay: registers, shared memory, or neither.

Everything here is computed in cycles of an H100 and no card has confirmed it: a form is chosen by what it must read and
multiply between a message and its answer (FLOORS below), and by how often its blocks exchange words on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from rtaccel.kernels._common.activations import ACTIVATIONS
from rtaccel.kernels._persistent.card import registers_of
from rtaccel.kernels.recurrent.layout import Geometry

STEPS_IN_FLIGHT = 4
"""Steps less in registers where some weights are read again from L2: without that a form spilled."""

MAX_THREADS = 512
MAX_OUTPUTS = 128
WORKING_REGISTERS = 72
"""Of a thread, beside weights: with them no form that the tests compile spills."""

SHARED_CLOCKS, L2_CLOCKS = 1 / 128, 1 / 64
LINE_CLOCKS, LINE4_CLOCKS, LONELY_WARP = 8, 24, 1.5
POLLERS, MAX_LOOKED_AT = 4, 512
"""Warps that poll the mailbox where the registers leave room for them; words of a message at most, 16 a lane."""

REGISTERS_OF_TURNS = 4
"""More of a thread where x has two places: without them LSTM_A spilled three."""

POLL_CLOCKS = 1200
"""That they take off p99 at the fast end of the machine that bench/device/predictions.py simulates (LSTM_A 3.0 to 2.3 us)."""

EXCHANGE_CLOCKS, STRAGGLER_CLOCKS = 900, 2
CELL_CLOCKS, SUM_CLOCKS, FOLD_CLOCKS = 400, 30, 6
"""FLOORS, in cycles: a byte read of shared memory, and of L2 by one multiprocessor; a warp's products of a line, of int8 and of
int4 weights, and by how much they take longer where a scheduler has no other warp; a word from block to block by way of L2,
and more for each block; what a layer takes after its sums, a step of a sum over lanes, and a group of int4 weights added to
the others."""

CLUSTER_CLOCKS, CLUSTER_BYTES = 220, 14
"""A word into the shared memory of another block of a cluster, with the look that finds it; bytes a cycle that a multiprocessor
stores there. Published for an H100: a load from there takes 180 cycles, and 132 multiprocessors move 3.3 TB/s."""


def up16(size: int) -> int:
    return -(-size // 16) * 16


@dataclass(frozen=True)
class Head:
    """The linear layer behind a stack. group: of its int4 weights, 0 for int8."""

    outputs: int
    activation: str
    group: int = 0


@dataclass(frozen=True)
class KernelConfig:
    """One cut of a stack. units: of each layer in a program. lanes: threads of a unit. group: of int4 weights, 0 for int8.
    kept, held: steps whose weights are in registers, and in shared memory. A step is 16 bytes of every thread.
    pollers: warps beside the threads that poll the mailbox; 0 where the threads do. cluster: whether the programs are a cluster,
    and exchange by their shared memory; else by L2. mapped: the mailbox is in the card's memory, and every program polls it."""

    geometry: Geometry
    inputs: int
    gates: int
    group: int
    head: Head | None
    units: int
    parts: int
    lanes: int
    kept: int = 0
    held: int = 0
    head_held: bool = False
    pollers: int = 0
    cluster: bool = False
    mapped: bool = False

    @property
    def threads(self) -> int:
        return -(-self.units * self.lanes // 32) * 32

    @property
    def all_threads(self) -> int:
        """With those that poll."""
        return self.threads + 32 * self.pollers

    @property
    def line(self) -> int:
        """Numbers that a line of 16 bytes is multiplied with."""
        return 32 if self.group else 16

    @property
    def steps_x(self) -> int:
        """Lines of x for each thread and gate."""
        return -(-self.inputs // (self.line * self.lanes))

    @property
    def steps_h(self) -> int:
        return -(-self.parts * self.units // (self.line * self.lanes))

    @property
    def halves(self) -> tuple[int, ...]:
        """Steps of every product in the order in which they are placed: of x in each layer, then of h."""
        layers = self.geometry.layers
        return (self.gates * self.steps_x, *[self.gates * self.steps_h] * (2 * layers - 1))

    @property
    def steps(self) -> int:
        return sum(self.halves)

    @property
    def step_bytes(self) -> int:
        return 16 * self.threads

    @property
    def rows(self) -> int:
        """Of numbers in each layer."""
        return 3 * self.gates + (self.gates == 3)

    @property
    def head_lines(self) -> int:
        assert self.head is not None
        return -(-self.parts * self.units // (32 if self.head.group else 16))

    @property
    def groups(self) -> tuple[int, int]:
        """Scales of a row of int4 weights: of x, and of h."""
        if not self.group:
            return 0, 0
        return -(-self.inputs // self.group), -(-self.geometry.hidden // self.group)

    @property
    def scales(self) -> int:
        x, h = self.groups
        return self.gates * self.units * (x + (2 * self.geometry.layers - 1) * h)

    @property
    def beside(self) -> int:
        """Bytes of shared memory for everything but weights of the stack."""
        layers, units = self.geometry.layers, self.units
        places = 2 if self.pollers else 1
        total = places * self.steps_x * self.lanes * self.line + layers * self.steps_h * self.lanes * self.line
        if self.head is not None:
            total += up16(self.head_lines * (32 if self.head.group else 16))
        total += up16(4 * layers * self.rows * units) + up16(4 * self.gates * units)
        total += up16(4 * layers * self.gates * units) + up16(8 * layers * units) + up16(4 * self.scales)
        if self.group:
            lines = max(self.steps_x, self.steps_h) * self.lanes
            total += up16(4 * self.gates * (self.threads // self.lanes) * (lines + 1))
        if self.head is not None:
            total += 16 * self.head_lines * self.head.outputs if self.head_held else 0
            total += up16(4 * (self.threads // 32) * self.head_lines) if self.head.group else 0
        total += up16(8 * self.exchange_words) if self.cluster else 0
        return total + (48 if self.pollers else 32)

    @property
    def shared_bytes(self) -> int:
        return self.held * self.step_bytes + self.beside

    @property
    def kept_bytes(self) -> int:
        return self.kept * self.step_bytes

    @property
    def reread_bytes(self) -> int:
        """Of a program's weights, those that it reads again in every time step."""
        return (self.steps - self.kept - self.held) * self.step_bytes

    @property
    def most_kept(self) -> int:
        """Steps for which a thread has registers."""
        working = WORKING_REGISTERS + (REGISTERS_OF_TURNS if self.pollers else 0)
        return max((registers_of(self.all_threads) - working) // 4, 0)

    @property
    def exchange_words(self) -> int:
        """Of 8 bytes, that the programs send each other: in device memory, or of a cluster in the shared memory of each."""
        wide = self.parts * self.units // 4
        return 2 * ((self.geometry.layers + 1) * wide + -(-self.inputs // 4) + 1) if self.parts > 1 else 1

    def placed(self, shared: int) -> KernelConfig:
        """With its weights where they belong, for `shared` bytes of shared memory. What a waiting host feels, the products of
        x, goes into registers; the rest into shared memory, or registers that are left where it is too small."""
        kernel_config = self
        if kernel_config.head is not None:
            held = replace(kernel_config, head_held=True)
            kernel_config = held if held.beside <= min(shared // 4, 24 << 10) else kernel_config
        most = min(kernel_config.most_kept, kernel_config.steps)
        room = max((shared - kernel_config.beside) // kernel_config.step_bytes, 0)
        timed = sum(kernel_config.halves[: kernel_config.geometry.layers])
        kept = min(most, max(timed, kernel_config.steps - room))
        if kept + room < kernel_config.steps:  # loads of what is read again take registers too
            kept = min(kept, max(most - STEPS_IN_FLIGHT, 0))
        return replace(kernel_config, kept=kept, held=min(room, kernel_config.steps - kept))

    def clocks(self) -> tuple[float, float]:
        """(until the answer, after it), as computed."""
        layers, found, first = self.geometry.layers, [0.0, 0.0], 0
        for index, steps in enumerate(self.halves):
            kept = min(max(self.kept - first, 0), steps)
            held = min(max(self.kept + self.held - first, 0), steps) - kept
            first += steps
            operand = steps // self.gates * (2 if self.group else 1)
            shared = (held + operand) * self.step_bytes * SHARED_CLOCKS
            rest = (steps - kept - held) * self.step_bytes * L2_CLOCKS
            warps = max(-(-self.threads // 128), LONELY_WARP)
            products = steps * (LINE4_CLOCKS if self.group else LINE_CLOCKS) * warps
            groups = self.groups[index > 0] * FOLD_CLOCKS
            found[index >= layers] += max(shared, products, rest) + SUM_CLOCKS * self.lanes.bit_length() + groups
        return found[0] + layers * CELL_CLOCKS + sum(self.between()), found[1]

    def between(self) -> tuple[float, ...]:
        """Cycles of each exchange that a waiting host feels: of x, of h behind each layer but the last, of the head's input."""
        if self.parts == 1:
            return ()
        ways = self.geometry.layers - 1 + (self.head is not None)
        of_x = [] if self.mapped else [-(-self.inputs // 4) + 1]
        if not self.cluster:
            return (EXCHANGE_CLOCKS + STRAGGLER_CLOCKS * self.parts,) * (ways + len(of_x))
        words = (*of_x, *[self.units // 4] * ways)
        return tuple(CLUSTER_CLOCKS + 8 * w * (self.parts - 1) / CLUSTER_BYTES for w in words)

    def definitions(self) -> dict[str, int]:
        """What config.h is compiled with."""
        head = self.head
        return {
            "RTA_GATES": self.gates, "RTA_LAYERS": self.geometry.layers, "RTA_INPUTS": self.inputs,
            "RTA_HIDDEN": self.geometry.hidden, "RTA_UNITS": self.units, "RTA_PROGRAMS": self.parts,
            "RTA_LANES": self.lanes, "RTA_THREADS": self.threads, "RTA_POLLERS": self.pollers,
            "RTA_GROUP": self.group, "RTA_KEPT": self.kept, "RTA_HELD": self.held,
            "RTA_OUTPUTS": self.geometry.hidden if head is None else head.outputs,
            "RTA_HEAD": int(head is not None), "RTA_HEAD_HELD": int(self.head_held),
            "RTA_HEAD_GROUP": 0 if head is None else head.group,
            "RTA_ACTIVATION": 0 if head is None else ACTIVATIONS.index(head.activation),
            "RTA_CLUSTER": int(self.cluster), "RTA_MAPPED": int(self.mapped),
            "RTA_SHARED_BYTES": self.shared_bytes, "RTA_SPINS": 1024, "RTA_LOOKS": 1 << 22,
        }  # fmt: skip

    def where(self) -> str:
        """For `explain`."""
        polls = f"; {self.pollers} warps of the first poll the mailbox in turn" if self.pollers else ""
        polls += "; they are a cluster, and exchange by their shared memory" if self.cluster else ""
        return (
            f"{self.kept_bytes:,} B of weights in registers and {self.held * self.step_bytes:,} B in shared memory of each, "
            f"{self.reread_bytes:,} B read again from L2 in every time step{polls}"
        )


def cuts(hidden: int, most: int) -> Iterator[tuple[int, int]]:
    """(units of a layer in a program, programs) of every way to share them among up to `most` programs, four units at a time."""
    seen = set()
    for parts in range(1, most + 1):
        units = -(-hidden // (4 * parts)) * 4
        if units not in seen and units <= MAX_THREADS:
            seen.add(units)
            yield units, -(-hidden // units)


HARDLY_MORE = 1.15
"""Times the least time, for fewer multiprocessors."""


class Cut(Protocol):
    @property
    def parts(self) -> int:
        """Programs."""


C = TypeVar("C", bound=Cut)


def fewest_programs(us: Mapping[C, float]) -> C | None:
    """Of cuts with their times: the fewest programs that take hardly more than the least time; None of none."""
    least = min(us.values(), default=0.0)
    near = [cut for cut, taken in us.items() if taken <= HARDLY_MORE * least]
    return min(near, key=lambda cut: (cut.parts, us[cut]), default=None)
