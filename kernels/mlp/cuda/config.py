"""How a chain of linear layers is laid out for chain.cu, on one multiprocessor or on those of a cluster: threads, lanes of each
layer, and which weights are in registers.

Everything is computed in cycles of an H100, with the figures of recurrent/cuda/config.py, and no card has confirmed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from rtaccel.kernels._common.activations import ACTIVATIONS
from rtaccel.kernels._persistent.card import Card, registers_of
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.recurrent.cuda.config import (
    CLUSTER_BYTES,
    CLUSTER_CLOCKS,
    EXCHANGE_CLOCKS,
    FOLD_CLOCKS,
    LINE4_CLOCKS,
    LINE_CLOCKS,
    LONELY_WARP,
    POLL_CLOCKS,
    POLLERS,
    SHARED_CLOCKS,
    SUM_CLOCKS,
)

MAX_INPUTS = 4 * 1023
"""Words of a message, four int8 numbers each, are looked at by one warp, 32 a lane with the command."""

WORKING_REGISTERS = 80
"""Of a thread, beside weights: with them no form that the tests compile spills."""

LAYER_CLOCKS, TRITON_LAYER_CLOCKS = 150, 250
"""After the sums of a layer: scaling, rounding, a store and a barrier. In Triton there are two barriers and conversions between
layouts: the floor of a layer of 128 x 128 there is 230 to 300 cycles, of which its products are 64."""

THREADS = (128, 256, 384, 512)


def _up16(size: int) -> int:
    return -(-size // 16) * 16


@dataclass(frozen=True)
class KernelConfig:
    """One layout. lanes: threads that share an output, of each layer. kept: steps of each layer whose weights are in registers;
    the others are in shared memory. A step is 16 bytes of every thread. group: of int4 weights, 0 for int8 ones. parts: blocks of
    a cluster, each with its part of every layer's outputs; all else is of one of them."""

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    group: int
    threads: int
    lanes: tuple[int, ...]
    kept: tuple[int, ...] = ()
    pollers: int = POLLERS
    parts: int = 1

    @property
    def line(self) -> int:
        """Numbers that a line of 16 bytes is multiplied with."""
        return 32 if self.group else 16

    @property
    def all_threads(self) -> int:
        return self.threads + 32 * self.pollers

    @property
    def layers(self) -> range:
        return range(len(self.lanes))

    def rows(self, layer: int) -> int:
        """Outputs of a pass."""
        return self.threads // self.lanes[layer]

    def own(self, layer: int) -> int:
        """Outputs of a block, whole words of four where blocks exchange them."""
        outputs = self.widths[layer + 1]
        return outputs if self.parts == 1 else -(-outputs // (4 * self.parts)) * 4

    def passes(self, layer: int) -> int:
        return -(-self.own(layer) // self.rows(layer))

    def lines(self, layer: int) -> int:
        """Of an output."""
        return -(-self.widths[layer] // self.line)

    def each(self, layer: int) -> int:
        """Lines of an output in one thread."""
        return -(-self.lines(layer) // self.lanes[layer])

    def steps_of(self, layer: int) -> int:
        return self.passes(layer) * self.each(layer)

    def groups(self, layer: int) -> int:
        return -(-self.widths[layer] // self.group) if self.group else 0

    @property
    def steps(self) -> int:
        return sum(map(self.steps_of, self.layers))

    @property
    def step_bytes(self) -> int:
        return 16 * self.threads

    @property
    def held(self) -> int:
        """Steps in shared memory."""
        return self.steps - sum(self.kept)

    @property
    def params(self) -> int:
        """Numbers of 32 bits beside the weights."""
        return sum(self.own(i) * (3 + self.groups(i)) + 2 for i in self.layers)

    def _input_bytes(self, layer: int) -> int:
        return self.each(layer) * self.lanes[layer] * self.line

    @property
    def beside(self) -> int:
        """Bytes of shared memory for everything but weights."""
        total = 2 * self._input_bytes(0) + sum(map(self._input_bytes, self.layers[1:])) + _up16(4 * self.params)
        if self.group:
            folds = (self.passes(i) * self.rows(i) * (self.each(i) * self.lanes[i] + 1) for i in self.layers)
            total += _up16(4 * max(folds))
        if self.parts > 1:
            total += _up16(8 * 2 * (1 + sum(-(-width // 4) for width in self.widths[:-1])))
        return total + 32

    @property
    def shared_bytes(self) -> int:
        return self.held * self.step_bytes + self.beside

    @property
    def most_kept(self) -> int:
        """Steps for which a thread has registers."""
        return max((registers_of(self.all_threads) - WORKING_REGISTERS) // 4, 0)

    def placed(self) -> KernelConfig:
        """With as many steps in registers as fit, the same part of every layer: reads of shared memory and products go on at
        once, so each layer has both."""
        steps = [self.steps_of(i) for i in self.layers]
        share = min(1.0, self.most_kept / sum(steps))
        kept = [int(share * n) for n in steps]
        for i in sorted(self.layers, key=lambda i: kept[i] - share * steps[i]):
            if sum(kept) < self.most_kept and kept[i] < steps[i]:
                kept[i] += 1
        return replace(self, kept=tuple(kept))

    def _early(self, layer: int) -> int:
        """Passes whose answers leave before the last pass is computed."""
        return self.passes(layer) - 1 if layer == self.layers[-1] else 0

    def early(self) -> tuple[int, float]:
        """Outputs of a block that leave before the others, and cycles by which they do."""
        last = self.layers[-1]
        outputs = self._early(last) * self.rows(last)
        behind = self._sum_clocks(last) + LAYER_CLOCKS
        return (outputs, self._line_clocks(last) / self.passes(last) + behind) if outputs else (0, 0.0)

    def _sum_clocks(self, layer: int) -> float:
        return SUM_CLOCKS * (self.lanes[layer].bit_length() + 1) + self.groups(layer) * FOLD_CLOCKS

    def _line_clocks(self, layer: int) -> float:
        steps = self.steps_of(layer)
        operands = self.each(layer) * (2 if self.group else 1) * (2 if self._early(layer) else 1)
        # A line of the input is read by all rows of a warp at once, so a load of it has as many lines as lanes.
        lines = -(-16 * self.lanes[layer] // 128)
        shared = (steps - self.kept[layer]) * self.step_bytes * SHARED_CLOCKS + operands * self.threads // 32 * lines
        warps = max(-(-self.threads // 128), LONELY_WARP)
        products = steps * (LINE4_CLOCKS if self.group else LINE_CLOCKS) * warps
        return max(shared, products)

    def layer_clocks(self, layer: int) -> float:
        """Where answers leave in two parts, the sums of the first are waited for before the second."""
        sums = self._sum_clocks(layer) * (2 if self._early(layer) else 1)
        return self._line_clocks(layer) + sums + LAYER_CLOCKS

    def clocks(self) -> float:
        """Between a message and its answer."""
        return sum(map(self.layer_clocks, self.layers)) + sum(self.between())

    def between(self) -> tuple[float, ...]:
        """Cycles of each exchange of a cluster: of x with its header, and behind each layer but the last."""
        if self.parts == 1:
            return ()
        words = (-(-self.widths[0] // 4) + 1, *(self.own(i) // 4 for i in self.layers[:-1]))
        return tuple(CLUSTER_CLOCKS + 8 * w * (self.parts - 1) / CLUSTER_BYTES for w in words)

    def definitions(self) -> dict[str, int | str]:
        """What config.h is compiled with."""
        joined = {
            "RTA_WIDTHS": self.widths, "RTA_LAYER_LANES": self.lanes, "RTA_LAYER_KEPT": self.kept,
            "RTA_ACTIVATIONS": [ACTIVATIONS.index(name) for name in self.activations],
        }  # fmt: skip
        return {
            **{name: ", ".join(map(str, values)) for name, values in joined.items()}, "RTA_THREADS": self.threads,
            "RTA_POLLERS": self.pollers, "RTA_GROUP": self.group, "RTA_PARTS": self.parts,
            "RTA_SHARED_BYTES": self.shared_bytes, "RTA_SPINS": 1024, "RTA_LOOKS": 1 << 22,
        }  # fmt: skip

    def where(self) -> str:
        """For `explain`."""
        kept = sum(self.kept) * self.step_bytes
        of = "one program" if self.parts == 1 else f"each of {self.parts} programs, a cluster that shares its memory"
        return (
            f"{self.threads} threads of {of}: {kept:,} B of weights in registers, {self.held * self.step_bytes:,} B in "
            f"shared memory; {self.pollers} warps poll the mailbox in turn"
        )


def _configs(
    widths: tuple[int, ...], activations: tuple[str, ...], group: int, shared: int, parts: int = 1
) -> Iterator[KernelConfig]:
    for threads in THREADS:
        lanes = []
        for layer in range(len(widths) - 1):
            # Layers alone: of equal steps the fewest lanes, which have the fewest sums.
            found = (
                KernelConfig(widths[layer : layer + 2], activations[:1], group, threads, (lane,), parts=parts).placed()
                for lane in (1, 2, 4, 8, 16, 32)
            )
            lanes.append(min(found, key=lambda c: (c.steps, c.lanes)).lanes[0])
        config = KernelConfig(widths, activations, group, threads, tuple(lanes), parts=parts).placed()
        for layer in config.layers:  # twice as many lanes read half as many lines of the input each
            lanes[layer] *= 2
            other = replace(config, lanes=tuple(lanes), kept=()).placed() if lanes[layer] <= 32 else config
            if other.steps == config.steps and other.clocks() < config.clocks():
                config = other
            lanes = list(config.lanes)
        if config.shared_bytes <= shared:
            yield config


@cache
def select_config(
    widths: tuple[int, ...], activations: tuple[str, ...], group: int, of: Card | None = None
) -> KernelConfig | str:
    """The layout on one multiprocessor with the soonest answer for a card, or why there is none."""
    reason = _refused(widths, group)
    if reason is not None:
        return reason
    of = of or Card()
    found = list(_configs(widths, activations, group, of.shared))
    if not found:
        return (
            f"keeps all weights in registers and shared memory of one multiprocessor, which has {of.shared >> 10} KiB"
        )
    return min(found, key=lambda c: c.clocks())


def _refused(widths: tuple[int, ...], group: int) -> str | None:
    if max(widths) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}, not {max(widths)}"
    if widths[0] > MAX_INPUTS:
        return f"has all of a message in a look of one warp, up to {MAX_INPUTS} inputs, not {widths[0]}"
    if group % 32:
        return f"takes int4 weights in groups that 32 divides, not {group}"
    return None


@cache
def select_cluster(
    widths: tuple[int, ...], activations: tuple[str, ...], group: int, of: Card | None = None
) -> KernelConfig | str:
    """The same among clusters of at least two blocks: for networks that one does not hold."""
    of = of or Card()
    reason = _refused(widths, group)
    if reason is not None or of.cluster < 2 or len(widths) < 3:
        return reason or "has no cluster on this device, and more than one layer in one"
    found = [
        config
        for parts in range(2, of.cluster + 1)
        for config in _configs(widths, activations, group, of.shared, parts)
        if (parts - 1) * config.own(0)
        < widths[1]  # every block has outputs of the first layer, which the others wait for
    ]
    if not found:
        return f"keeps all weights on the chip, in at most {of.cluster} multiprocessors of {of.shared >> 10} KiB"
    return min(found, key=lambda c: c.clocks())


def cluster_of(attrs: Mapping[str, Any], of: Card | None = None) -> KernelConfig | str:
    """The layout in a cluster of an `mlp` stage with these attributes."""
    return select_cluster(tuple(attrs["widths"]), tuple(attrs["activations"]), int(attrs.get("group_size", 0)), of)


def config_of(attrs: Mapping[str, Any], of: Card | None = None) -> KernelConfig | str:
    """The layout of an `mlp` stage with these attributes."""
    return select_config(tuple(attrs["widths"]), tuple(attrs["activations"]), int(attrs.get("group_size", 0)), of)


def triton_clocks(widths: Sequence[int], group: int, programs: int) -> float:
    """The same of the chain in Triton, all of whose weights are in registers of `programs` multiprocessors with 16 warps each:
    what it takes longer to see a message is in it."""
    total = float(POLL_CLOCKS)
    for inputs, outputs in pairwise(widths):
        lines = -(-inputs // (32 if group else 16)) * -(-outputs // programs)
        total += TRITON_LAYER_CLOCKS + lines / 512 * 4 * (LINE4_CLOCKS if group else LINE_CLOCKS)
        total += EXCHANGE_CLOCKS if programs > 1 else 0
    return total
