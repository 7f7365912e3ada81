"""The rows of `bench.device.predictions` by queues.py, with their messages in lines; and eight models at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.device.predict import queues
from bench.device.predict.queues import Kernel, lines_of
from bench.device.predictions import (
    HIGH,
    LOOK_CLOCKS,
    LOW,
    ONE_POLL,
    SEED,
    WARPS_THAT_POLL,
    WAYS,
    WIDTHS,
    Machine,
    Work,
    rows,
    worked,
)
from bench.device.table import AUTOENCODER, MLPS, SMALL

MESSAGES = 6000
WARP_LINES = 2
"""Of the 32 words that a warp looks at by itself."""

ENDS = ((LOW, queues.LOW), (HIGH, queues.HIGH))
MODELS = 8
EIGHT = {"one model of eight, alone": 1, "one model of 8, all called at once": MODELS}
"""Kernels that share the link, by row."""


@dataclass(frozen=True)
class Sizes:
    """In words of 32 bits. inputs: of a message, with its command; the null model's has none. exchanged: of each exchange."""

    inputs: int
    outputs: int
    exchanged: tuple[int, ...] = ()


STACKS = {"LSTM_A": (100, 100, 2), "LSTM_B": (250, 200, 3), "LSTM_C": (500, 1000, 4), "gru": (64, 128, 1)}
"""Inputs, units and layers."""


def sizes(name: str, way: str) -> Sizes:
    """The host rounds x of a chain to int8 for the kernel whose warps poll."""
    network = name.partition(", ")[0]
    widths = WIDTHS if network == AUTOENCODER else MLPS.get(network)
    if widths is not None:
        of_x = -(-widths[0] // 4) if way == WARPS_THAT_POLL else widths[0]
        return Sizes(of_x + 1, widths[-1], (widths[0] // 4 + 1, *(width // 4 for width in widths[1:-1])))
    stack = next((of for start, of in STACKS.items() if name.startswith(start)), None)
    if stack is None:
        return Sizes(1, 1)
    inputs, hidden, layers = stack
    return Sizes(inputs + 1, 1, (-(-inputs // 4) + 1, *(-(-hidden // 4),) * layers))


def kernel(
    machine: Machine, service: queues.Service, work: Work, of: Sizes, way: str, rng: np.random.Generator
) -> Kernel:
    """x is exchanged first, by the block that takes the message."""
    drawn = [
        queues.exchanges(work.blocks, words, 1 if i == 0 else work.blocks, machine.l2_us, service, rng)
        for i, words in enumerate(of.exchanged[: work.exchanges])
    ]

    def us(rng: np.random.Generator) -> float:
        total = work.clocks / machine.ghz / 1e3 + sum(float(rng.choice(times)) for times in drawn)
        for stores in work.spread:
            late = LOOK_CLOCKS * rng.random() ** (1 / work.blocks)  # the last of all blocks
            total += machine.cluster_us + (stores + late) / machine.ghz / 1e3
        return total

    in_turn = way == WARPS_THAT_POLL
    pollers = WAYS[way][1].warps if in_turn else work.warps
    return Kernel(
        pollers,
        in_turn,
        lines_of(of.inputs) if in_turn else min(WARP_LINES, lines_of(of.inputs)),
        lines_of(of.outputs),
        us,
        (lines_of(work.early[0]), work.early[1] / machine.ghz / 1e3) if in_turn else (0, 0.0),
    )


def simulated(work: Work, of: Sizes, way: str, models: int = 1) -> dict[str, list[float]]:
    found = {}
    for end, (machine, service) in zip(("low", "high"), ENDS):
        rng = np.random.default_rng(SEED)
        made = [kernel(machine, service, work, of, way, rng)] * models
        us = queues.calls(made, machine.link_us, machine.host_us, service, MESSAGES, rng)
        found[end] = [round(float(np.quantile(us, q)), 2) for q in (0.5, 0.99, 0.999)]
    return found


def of_table() -> Iterator[tuple[str, str, partial[dict[str, list[float]]]]]:
    """(row, way to poll, what simulates it)."""
    for name, of in rows():
        if name.startswith("TCN") or name.endswith(
            "(not built)"
        ):  # who waits for older taps has no queue; no words are known
            continue
        for way in (WARPS_THAT_POLL, ONE_POLL):
            yield name, way, partial(simulated, worked(of, way), sizes(name, way), way)
        if name.startswith(f"{SMALL},"):
            for row, models in EIGHT.items():
                yield (
                    row,
                    WARPS_THAT_POLL,
                    partial(
                        simulated, worked(of, WARPS_THAT_POLL), sizes(name, WARPS_THAT_POLL), WARPS_THAT_POLL, models
                    ),
                )


def predicted() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, way, simulate in of_table():
        found.setdefault(name, {})[way] = simulate()
    return found


def _cell(ends: Mapping[str, Any]) -> str:
    return " to ".join(f"{ends[end][0]:.2f} / {ends[end][1]:.2f}" for end in ("low", "high"))


def lines(found: Mapping[str, Any], sums: Mapping[str, Any]) -> list[str]:
    """Of the page. sums: what independent delays come to."""
    made = [
        "", "## With queues", "",
        "The same rows where requests wait for each other (`bench/device/predict/queues.py`). The link, the host's memory and",
        "each slice of L2 serve one at a time, and every poll is one. Blocks have their parts up to",
        f"{queues.LOW.skew:g} to {queues.HIGH.skew:g} us apart. Each cell is p50 / p99.",
        "The difference is that of p99, at both ends. A run is held against these; messages in the card's memory and TCNs have",
        "sums alone. Long messages are what queues change: 641 words are 41 requests of each look. Warps that poll once at a",
        "time begin together, where sums have them independent.", "",
        "| row | way to poll | sums | queues | difference |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, ways in found.items():
        for way, row in ways.items():
            before = sums.get(name, {}).get(way)
            change = (
                "-"
                if before is None
                else " to ".join(f"{row[end][1] - before[end][1]:+.2f}" for end in ("low", "high"))
            )
            made.append(f"| {name} | {way} | {_cell(before) if before else '-'} | {_cell(row)} | {change} |")
    return made
