"""How a recurrent stack is cut for cuda_recurrent.cu, and where its weights stay: registers, shared memory, or neither.

Everything here is computed in cycles of an H100 and no card has confirmed it: a form is chosen by what it must read and
multiply between a message and its answer (FLOORS below), and by how often its blocks exchange words on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._common.activations import ACTIVATIONS
from rtaccel.kernels.recurrent.layout import MAX_K, Geometry

SHARED_BYTES: Mapping[int, int] = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 110: 227, 120: 99}
"""KiB of shared memory that a block may have, by compute capability times ten."""


@dataclass(frozen=True)
class Card:
    """What a form is made for. Where no card is seen: an H100. shared: bytes that a block may have."""

    capability: int = 90
    multiprocessors: int = 132

    @property
    def shared(self) -> int:
        known = [c for c in SHARED_BYTES if c <= self.capability]
        return SHARED_BYTES[max(known, default=80)] << 10


_assumed: list[Card] = []


@contextmanager
def assuming(card: Card) -> Iterator[None]:
    """Forms that are chosen inside are for this card, whatever is here: for building ahead."""
    _assumed.append(card)
    try:
        yield
    finally:
        _assumed.remove(card)


def card() -> Card:
    """The one that forms are for: what is assumed, or the current device."""
    import torch

    if _assumed:
        return _assumed[-1]
    if not torch.cuda.is_available():
        return Card()
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(10 * about.major + about.minor, about.multi_processor_count)


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


def _up16(size: int) -> int:
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
    pollers: warps beside the threads that poll the mailbox; 0 where the threads do."""

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
            total += _up16(self.head_lines * (32 if self.head.group else 16))
        total += _up16(4 * layers * self.rows * units) + _up16(4 * self.gates * units)
        total += _up16(4 * layers * self.gates * units) + _up16(8 * layers * units) + _up16(4 * self.scales)
        if self.group:
            lines = max(self.steps_x, self.steps_h) * self.lanes
            total += _up16(4 * self.gates * (self.threads // self.lanes) * (lines + 1))
        if self.head is not None:
            total += 16 * self.head_lines * self.head.outputs if self.head_held else 0
            total += _up16(4 * (self.threads // 32) * self.head_lines) if self.head.group else 0
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
        most = -(-self.all_threads // 128) * 128  # each of the four schedulers has a quarter of the registers
        limit = min(255, 65536 // most // 8 * 8)
        working = WORKING_REGISTERS + (REGISTERS_OF_TURNS if self.pollers else 0)
        return max((limit - working) // 4, 0)

    @property
    def exchange_words(self) -> int:
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
        ways = 0 if self.parts == 1 else layers + 1 if self.head is not None else layers
        between = ways * (EXCHANGE_CLOCKS + STRAGGLER_CLOCKS * self.parts)
        return found[0] + layers * CELL_CLOCKS + between, found[1]

    def definitions(self) -> dict[str, int]:
        """What cuda_recurrent_form.h is compiled with."""
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
            "RTA_SHARED_BYTES": self.shared_bytes, "RTA_SPINS": 1024, "RTA_LOOKS": 1 << 22,
        }  # fmt: skip

    def where(self) -> str:
        """For `explain`."""
        polls = f"; {self.pollers} warps of the first poll the mailbox in turn" if self.pollers else ""
        return (
            f"{self.kept_bytes:,} B of weights in registers and {self.held * self.step_bytes:,} B in shared memory of each, "
            f"{self.reread_bytes:,} B read again from L2 in every time step{polls}"
        )


_polling: list[int] = []


@contextmanager
def polling(warps: int) -> Iterator[None]:
    """Forms that are chosen inside have so many warps that poll, POLLERS or 0: for measuring one beside the other."""
    _polling.append(warps)
    try:
        yield
    finally:
        _polling.remove(warps)


def kernel_configs(
    geometry: Geometry, inputs: int, gates: int, group: int, head: Head | None, most: int, shared: int
) -> Iterator[KernelConfig]:
    """Every cut for at most `most` programs with `shared` bytes each."""
    pollers = _polling[-1:] or ([0, POLLERS] if inputs < MAX_LOOKED_AT else [0])
    seen = set()
    for parts in range(1, most + 1):
        units = -(-geometry.hidden // (4 * parts)) * 4
        parts = -(-geometry.hidden // units)
        if units in seen or units > MAX_THREADS:
            continue
        seen.add(units)
        for lanes in (1, 2, 4, 8, 16, 32):
            for warps in pollers:
                kernel_config = KernelConfig(geometry, inputs, gates, group, head, units, parts, lanes, pollers=warps)
                if not 32 <= kernel_config.threads <= MAX_THREADS:
                    continue
                kernel_config = kernel_config.placed(shared)
                if kernel_config.shared_bytes <= shared:
                    yield kernel_config


def select_config(
    geometry: Geometry, inputs: int, gates: int, group: int, head: Head | None, of: Card | None = None
) -> KernelConfig | None:
    """The form for a card that reads least again, and of those the one with the soonest answer; None where none fits at all."""
    of = of or Card()
    found = list(kernel_configs(geometry, inputs, gates, group, head, of.multiprocessors, of.shared))
    return min(found, key=_worth, default=None)


def _worth(kernel_config: KernelConfig) -> tuple[float, ...]:
    timed, after = kernel_config.clocks()
    return (kernel_config.reread_bytes, timed + after / 16 - (POLL_CLOCKS if kernel_config.pollers else 0))


def unsupported(stage: Stage, following: Stage | None) -> str | None:
    """None, or why a stage and its head are none of the kernel's, whatever their size."""
    geometry = Geometry.of(stage.attrs)
    problem = Problem.of(stage, 1, "cuda")
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"has int8 or int4 weights, not {problem.weight_format}"
    if geometry.directions != 1 or geometry.time != 1 or geometry.batch != 1:
        return "runs one stream forwards, step by step"
    if max(problem.in_widths[0], geometry.hidden) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}"
    if stage.inputs[0].dtype != "float32" or "x_scale" not in stage.attrs:
        return "quantizes x with a static scale: pass calibration="
    if group_of(stage) % 32:
        return f"has int4 weights in groups that 32 divides, not {group_of(stage)}"
    if following is None:
        return None if stage.outputs[0].dtype == "float32" else "answers in float32"
    integer = following.op == "linear" and WeightFormat.of(following.tensors["weight"]).integer
    if not integer or len(following.inputs) != 1 or following.inputs[0].dtype != "int8":
        return f"has a W8A8 or W4A8 linear layer with a static scale as its head, not {following.name} ({following.op})"
    if following.outputs[0].dtype != "float32" or following.outputs[0].width > MAX_OUTPUTS:
        return f"has a head of up to {MAX_OUTPUTS} float32 outputs"
    if group_of(following) % 32:
        return f"has a head with int4 weights in groups that 32 divides, not {group_of(following)}"
    return None


def group_of(stage: Stage) -> int:
    """Of int4 weights; 0 for int8."""
    return int(stage.attrs.get("group_size", 0)) if stage.weight_format is WeightFormat.INT4 else 0


def head_of(following: Stage | None) -> Head | None:
    if following is None:
        return None
    return Head(following.outputs[0].width, str(following.attrs.get("activation", "none")), group_of(following))
