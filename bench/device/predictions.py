"""What a host would wait for an answer of a persistent kernel: a simulation of polls, words and hops.

    python -m bench.device.predictions [--write]

A message crosses the link when a poll of the card finds it, is worked on, and its answer crosses back. So a call is the sum of

    the time until the next poll reaches the host's memory, link, work, words between blocks, link, the host's own poll
The work is in cycles as `kernels/recurrent/cuda/config.py` counts them. Everything else is drawn: when a poll comes, of each
warp for itself; when another block looks for a word. The machine is a range, whose ends are the low and the high figure of a row.
Source of the range: published measurements of an H100 (L2 263 cycles to a near slice; PCIe 5 round trips of 1.0 to 1.8 us; a load
from another block's shared memory 180 cycles, and 3.3 TB/s of such traffic).

Judged by `python -m bench.device` on a card, row by row: `docs/reference/gpu-predictions.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.device import launches
from bench.device import layers as single_layers
from bench.device.predict import rows as by_row
from bench.device.predict import single
from bench.device.table import AUTOENCODER, MLPS
from rtaccel.kernels.conv.triton.persistent_config import KernelConfig, Operation
from rtaccel.kernels.mlp.cuda import config as chain_config
from rtaccel.kernels.mlp.cuda.kernel import AUTOENCODER as WIDTHS
from rtaccel.kernels.recurrent.cuda.choice import clustering, mapping, polling, select_config
from rtaccel.kernels.recurrent.cuda.config import (
    CLUSTER_BYTES,
    CLUSTER_CLOCKS,
    EXCHANGE_CLOCKS,
    L2_CLOCKS,
    POLLERS,
    STRAGGLER_CLOCKS,
    Head,
)
from rtaccel.kernels.recurrent.layout import Geometry

RESULT, QUEUES, LAUNCHES, LAYERS = by_row.POLLED, by_row.QUEUES, by_row.LAUNCHES, by_row.LAYERS
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "gpu-predictions.md"
SAMPLES, SEED = 100_000, 0


@dataclass(frozen=True)
class Machine:
    """link_us: one way between the card and the host's memory. l2_us: a load that L2 answers. cluster_us: a store into another
    block's shared memory, until that sees it. mapped: the host writes into the card's memory, where a GDR mapping is, and the
    card polls its own L2. in_flight: polls at once."""

    link_us: float
    l2_us: float
    cluster_us: float = 0.1
    ghz: float = 1.755
    host_us: float = 0.12
    in_flight: int = 1
    mapped: bool = False


LOW, HIGH = Machine(0.5, 0.15, 0.10), Machine(0.9, 0.30, 0.20)
LOOK_CLOCKS = 33
"""A look at a word in a block's own shared memory."""


@dataclass(frozen=True)
class Polls:
    """warps: of a block, that do nothing else. mapped: all blocks poll the card's own memory, into which the host writes."""

    warps: int = 0
    mapped: bool = False


@dataclass(frozen=True)
class Work:
    """Of one message. clocks: between the message and the answer, without words between blocks. warps: that poll the mailbox.
    exchanges: of words between all blocks. spread: of a cluster, the cycles of each exchange's stores; empty where words go
    through L2. readers: blocks that look for a word there, all where 0. reads: of L2, each waited for. before: cycles after an
    answer until the first look for the next message, which a host that sends at once waits for. early: outputs that leave before
    the others, and by how many cycles."""

    clocks: float = 0.0
    warps: int = 1
    blocks: int = 1
    exchanges: int = 0
    spread: tuple[float, ...] = ()
    readers: int = 0
    reads: int = 0
    before: float = 0.0
    early: tuple[int, float] = (0, 0.0)


def message_us(machine: Machine, work: Work, rng: np.random.Generator, samples: int = SAMPLES) -> np.ndarray:
    """float64 [samples], us from the host's write to the answer in its hands."""
    if machine.mapped:
        period, arrives, seen = machine.l2_us / machine.in_flight, machine.link_us, machine.l2_us / 2
    else:
        period, arrives, seen = 2 * machine.link_us / machine.in_flight, 0.0, machine.link_us
    # Every warp has a poll of its own under way; the block goes on with the last of them.
    waited = period * rng.random((samples, work.warps)).max(1)
    if work.before:  # the answer's way and the host's are over when the next message is there
        late = work.before / machine.ghz / 1e3 - machine.link_us - machine.host_us * (1 + rng.random(samples)) - arrives
        waited = np.where(late > 0, late + seen, waited)
    total = arrives + waited + seen + work.clocks / machine.ghz / 1e3
    total = total + work.reads * machine.l2_us
    readers = work.readers or work.blocks
    for _ in range(work.exchanges):
        late = machine.l2_us * rng.random((samples, min(readers, 64))).max(1)  # the last of those who look
        total = total + machine.l2_us / 2 + late + machine.l2_us / 2
        total = total + STRAGGLER_CLOCKS * readers / machine.ghz / 1e3
    for stores in work.spread:
        late = LOOK_CLOCKS * rng.random((samples, min(work.blocks, 16))).max(1)
        total = total + machine.cluster_us + (stores + late) / machine.ghz / 1e3
    return np.asarray(total + machine.link_us + machine.host_us * (1 + rng.random(samples)))


def stack(
    hidden: int, layers: int, inputs: int, through_l2: bool, polls: Polls, gates: int = 4, group: int = 0
) -> Work:
    """A network of STAC-ML with one output, in the form that is chosen for an H100. through_l2: without clusters. group: of int4
    weights, 0 for int8 ones."""
    with polling(polls.warps), mapping(polls.mapped), clustering(not through_l2):
        form = select_config(Geometry(hidden, layers), inputs, gates, group, Head(1, "none", group))
    assert form is not None
    between = form.between()
    warps = 1 if polls.warps else min(-(-(inputs + 1) // 32), form.threads // 32)
    work = Work(form.clocks()[0] - sum(between), warps, form.parts)
    if form.cluster:
        return replace(work, spread=tuple(clocks - CLUSTER_CLOCKS for clocks in between))
    return replace(work, exchanges=len(between))


def two_levels(hidden: int, layers: int, inputs: int, polls: Polls) -> Work:
    """The same where clusters of 16 would share what each of their blocks reads of L2. Not built."""
    work = stack(hidden, layers, inputs, True, polls)
    stores = 8 * (hidden // 4 / 16) * 15 / CLUSTER_BYTES
    return replace(work, spread=(stores,) * work.exchanges, readers=-(-work.blocks // 16))


def chain(widths: tuple[int, ...], polls: Polls) -> Work:
    """An MLP in int8 by the kernel in CUDA C++, whose warps poll; without any by Triton's."""
    acts = ("relu",) * (len(widths) - 2) + ("none",)
    if polls.warps or polls.mapped:
        form = chain_config.select_config(widths, acts, 0)
        if isinstance(form, str):
            form = chain_config.select_cluster(widths, acts, 0)
        assert not isinstance(form, str), form
        between = form.between()
        spread = tuple(clocks - CLUSTER_CLOCKS for clocks in between)
        outputs, clocks = form.early()
        return Work(
            form.clocks() - sum(between), blocks=form.parts, spread=spread, early=(outputs * form.parts, clocks)
        )
    parts = chain_programs(widths)
    exchanges = 0 if parts == 1 else len(widths) - 2
    clocks = chain_config.triton_clocks(widths, 0, parts) - chain_config.POLL_CLOCKS
    clocks -= (len(widths) - 1) * EXCHANGE_CLOCKS if parts > 1 else 0  # drawn here
    return Work(clocks, min(-(-(widths[0] + 1) // 32), 16), parts, exchanges + int(parts > 1))


def tcn(layers: int, channels: int, taps: int, polls: Polls) -> Work:
    """Convolutions in one program of Triton's. The newest taps are computed after a message, those from L2 where the registers do
    not hold them; the older taps before it."""
    each = [
        Operation("layer" if i % 2 else "quantize", i, channels, not i % 2, taps=taps if i % 2 else 1, inputs=channels)
        for i in range(2 * layers)
    ]
    form = KernelConfig(channels, tuple(each))
    held, threads, lines = form.held[1::2], 32 * form.num_warps, channels * channels // 16
    again = lines * 16 * L2_CLOCKS
    products = lines / threads * 4 * chain_config.LINE_CLOCKS
    absent = sum(count == 0 for count in held)
    before = sum(products * (count - 1) if count else 0.0 for count in held)
    before += again * sum(taps - max(count, 1) for count in held)
    clocks = layers * (chain_config.TRITON_LAYER_CLOCKS + products) + absent * again
    return Work(clocks, min(-(-(channels + 1) // 32), form.num_warps), reads=absent, before=before)


def chain_programs(widths: tuple[int, ...]) -> int:
    """Multiprocessors that Triton's kernel cuts a chain among, as `partition_of` does for an H100."""
    held = sum(-(-k // 16) * 16 * n for k, n in pairwise(widths))
    return 1 if held <= CHAIN_BYTES[0] else -(-held // CHAIN_BYTES[1])


CHAIN_BYTES = (132 << 10, 112 << 10)
"""Of weights in one program, and in each of several."""

Of = Callable[[Polls], Work]
"""What a network does where it is polled so."""


def rows() -> Iterator[tuple[str, Of]]:
    yield "null model, persistent", lambda polls: Work()
    for name, hidden, layers, inputs in (
        ("LSTM_A 2x100", 100, 2, 100), ("LSTM_B 3x200", 200, 3, 250), ("LSTM_C 4x1000", 1000, 4, 500),
    ):  # fmt: skip
        row = f"{name}, one time step, rtaccel w8a8 persistent"
        yield row, partial(stack, hidden, layers, inputs, False)
        if stack(hidden, layers, inputs, False, WAYS[WARPS_THAT_POLL][1]).spread:
            yield f"{row}, by cuda_recurrent, through L2", partial(stack, hidden, layers, inputs, True)
        yield row.replace("w8a8", "w4a8"), partial(stack, hidden, layers, inputs, False, group=32)
    yield f"{row}, clusters of 16 beside L2 (not built)", partial(two_levels, hidden, layers, inputs)
    yield "gru 64-128, one time step, rtaccel w8a8 persistent", partial(stack, 128, 1, 64, False, gates=3)
    for name, widths in (*MLPS.items(), (AUTOENCODER, WIDTHS)):
        yield f"{name}, rtaccel w8a8 persistent", partial(chain, widths)
    for name, layers, taps in (("TCN 3x128 k8", 3, 8), ("TCN 9x128 k3", 9, 3)):
        yield f"{name}, one time step, rtaccel w8a8 persistent", partial(tcn, layers, 128, taps)


WARPS_THAT_POLL = "four warps that poll"
HAND_ON_CLOCKS = 100
"""From a warp that has seen a message to the others: a store to shared memory, and their next look at it. An estimate."""

ONE_POLL, MAPPED = "one poll", "GDR mapping"
WAYS: dict[str, tuple[dict[str, Any], Polls]] = {
    ONE_POLL: ({}, Polls()), "four polls in flight": ({"in_flight": 4}, Polls()),
    WARPS_THAT_POLL: ({"in_flight": 4}, Polls(POLLERS)), MAPPED: ({"mapped": True}, Polls(mapped=True)),
}  # fmt: skip
"""How the machine is changed by it, and the kernels."""


def ways_of(name: str) -> tuple[str, ...]:
    """Triton's kernels for convolutions poll once at a time, and know no mapping."""
    return (ONE_POLL,) if name.startswith("TCN") else tuple(WAYS)


def worked(of: Of, way: str) -> Work:
    """What a way to poll adds to the work. A warp that polls has all of a message in its look, so no other is waited for."""
    work = of(WAYS[way][1])
    if way != WARPS_THAT_POLL:
        return work
    return replace(work, warps=1, clocks=work.clocks + HAND_ON_CLOCKS)


def predicted() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, of in rows():
        found[name] = {}
        for way in ways_of(name):
            ends, work, change = [], worked(of, way), WAYS[way][0]
            for machine in (LOW, HIGH):
                us = message_us(replace(machine, **change), work, np.random.default_rng(SEED))
                ends.append([round(float(np.quantile(us, q)), 2) for q in (0.5, 0.99, 0.999)])
            spread = sum(work.spread) + CLUSTER_CLOCKS * len(work.spread)
            about: dict[str, Any] = {"blocks": work.blocks, "exchanges": work.exchanges, "clocks": round(work.clocks)}
            about |= {"in_cluster": len(work.spread), "cluster_clocks": round(spread)} if work.spread else {}
            found[name][way] = {**about, "low": ends[0], "high": ends[1]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.device.predictions", description="Predictions before a card."
    )
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and {RESULT.name}")
    args = parser.parse_args()
    from bench.device.predict import queued
    from bench.device.predict.text import page

    found = predicted(), queued.predicted(), launches.predicted(), single_layers.predicted() | single.predicted()
    if args.write:
        for path, of in zip((RESULT, QUEUES, LAUNCHES, LAYERS), found, strict=True):
            path.write_text(json.dumps(of, indent=1) + "\n")
        PAGE.write_text(page(*found))
    print(page(*found))


if __name__ == "__main__":
    main()
