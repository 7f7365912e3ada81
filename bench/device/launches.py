"""What an H100 would take for the launches of a captured graph, as a range: from their machine code and sizes, before any card.

Each launch is the gap between two nodes of a graph, a first way to memory, and the longest of three: the bytes at the edge of
the row, instructions that all its warps issue, and those of one warp one after another. They are counted in the code of sm_90. A
loop's body is between a quarter and all of that, as the assembler unrolls loops; how often it runs is known from the sizes.
`bench/zoo/captured.py` gives the launches, so what is predicted is what is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from bench.device.table import MANY, OPERATIONS, WINDOWS

MULTIPROCESSORS, GHZ = 132, 1.755


@dataclass(frozen=True)
class Card:
    """node_us: from the end of a node to the begin of the next. memory_us: a load that L2 or memory answers. bandwidth: bytes/us.
    warp_rate: instructions a cycle of one warp. most_rate: of a multiprocessor. loop: what part of the code its loop is."""

    node_us: float
    memory_us: float
    bandwidth: float
    warp_rate: float
    most_rate: float
    loop: float


LOW, HIGH = Card(0.7, 0.4, 5.5e6, 1 / 3, 3.2, 0.25), Card(1.5, 0.8, 3.0e6, 1 / 8, 1.6, 1.0)
"""L2 and few stalls; memory, and a stall for each instruction."""


@dataclass(frozen=True)
class Launched:
    """form: of the kernel. count: launches of it. programs, warps: of a launch. instructions: of its sm_90 code. trips: of its
    innermost loop in all."""

    form: str
    count: int
    programs: int
    warps: int
    instructions: int
    trips: int


Trips = Callable[[Mapping[str, Any]], int]


def _over(size: str, block: str, *times: str) -> Trips:
    return lambda c: -(-int(c[size]) // int(c[block])) * prod(int(c[name]) for name in times)


TRIPS: dict[str, Trips] = {
    "scan_": _over("OVER", "BLOCK_O"), "reduce_": _over("OVER", "BLOCK_O"), "order_rank": _over("OVER", "BLOCK_J"),
    "order_first": _over("OVER", "BLOCK_O", "K"), "put_": _over("S", "BLOCK_S"), "linear_float32": _over("K", "BLOCK_K"),
    "_float32_read_": lambda c: int(c["T"]) * -(-int(c["H"]) // int(c["BLOCK_U"])), "_float32_kept_": lambda c: int(c["T"]),
    "_float32_alone_": _over("H", "BLOCK_K"), "solve_": lambda c: int(c["N"]), "attention_": _over("S", "BLOCK_S"),
}  # fmt: skip
"""By a part of a form's name; the loops of `solve_` are over its columns. Others have none."""


def trips(form: str, constants: Mapping[str, Any]) -> int:
    found = next((of for part, of in TRIPS.items() if part in form), None)
    return 1 if found is None else found(constants)


def us_of(launched: Launched, card: Card, edge_bytes: float) -> float:
    """One launch of it. edge_bytes: that it reads or writes of what lies at the edge of the row."""
    loop = launched.instructions * card.loop
    each = launched.instructions - loop + loop * launched.trips if launched.trips > 1 else launched.instructions
    spread = min(launched.programs, MULTIPROCESSORS)
    resident = min(launched.warps * -(-launched.programs // spread), 32)
    issued = each * launched.warps * launched.programs / (spread * min(resident * card.warp_rate, card.most_rate))
    alone = each / card.warp_rate
    return card.node_us + 2 * card.memory_us + max(max(issued, alone) / GHZ / 1e3, edge_bytes / card.bandwidth)


def row_us(launches: list[Launched], edge_bytes: float) -> tuple[float, float]:
    """(low, high) of `device_us`: of a row's launches, one after another."""
    ends = []
    for card in (LOW, HIGH):
        times = [us_of(launched, card, edge_bytes / len(launches)) * launched.count for launched in launches]
        ends.append(round(sum(times), 1))
    return ends[0], ends[1]


def rows() -> list[tuple[str, str, str, str]]:
    """(title, kind, name, scheme) of the rows that are predicted in this way."""
    found = [(f"{name}, rtaccel float32 graph", "operation", name, "float32") for name in OPERATIONS]
    found += [
        (f"{name}, window of {steps}, rtaccel float32 graph", "window", name, "float32")
        for name, steps in WINDOWS.items()
    ]
    return found + [
        (f"{name}, rtaccel {scheme} graph", "many", name, scheme) for name in MANY for scheme in ("w8a8", "float32")
    ]


def captured(kind: str, name: str, scheme: str, instructions: Callable[[Any], int]) -> tuple[list[Launched], int]:
    """(launches of a row's graph, bytes at its edge). instructions: of a form's code."""
    from torch.utils import _pytree as pytree

    from bench.device.rows.graphs import calibration, given, scheme_of
    from bench.zoo.captured import given_of, plan_of
    from rtaccel.convert.batch_mode import choose_batch_mode
    from rtaccel.convert.lower import lower
    from rtaccel.core.scheme import SchemeMap
    from rtaccel.kernels._gpu.triton_launch import noted, played

    model, *inputs = given(kind, name)
    graph = choose_batch_mode(model, tuple(inputs))
    program = lower(*graph, SchemeMap(scheme_of(scheme)), calibration(*inputs), equalize=False)
    rows = max(1, program.samples(pytree.tree_leaves(inputs)))
    group = program.steps[0].group  # type: ignore[union-attr]
    with played():
        plan, _ = plan_of(group, rows)
        tensors = given_of(group, rows)
        with noted() as launches:
            results = plan.call(tensors)
    found: dict[tuple[str, int], Launched] = {}
    for launch in launches:
        spec, programs = launch.spec, prod(launch.grid)
        before = found.get((spec.name, programs))
        count = before.count if before else 0
        found[spec.name, programs] = Launched(
            spec.name, count + 1, programs, spec.tiling.num_warps, before.instructions if before else instructions(spec),
            trips(spec.name, spec.constants),
        )  # fmt: skip
    edge = sum(t.numel() * t.element_size() for t in (*tensors, *pytree.tree_leaves(results)))
    return list(found.values()), edge


def predicted() -> dict[str, Any]:
    """Compiles every form for sm_90."""
    from rtaccel.kernels._gpu.triton_aot import compile_for

    found: dict[str, Any] = {}
    for title, *what in rows():
        launches, edge = captured(*what, lambda spec: compile_for(spec, 90).total)  # type: ignore[call-arg,arg-type]
        low, high = row_us(launches, edge)
        found[title] = {
            "low": low,
            "high": high,
            "edge_bytes": edge,
            "launches": [asdict(launched) for launched in launches],
        }
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """Of the page."""
    made = [
        "", "## Launches in a graph", "",
        "Time of the card for one call with warm weights (`device_us`), in us: a range from the machine code and sizes of the",
        "launches (`bench/device/launches.py`). The launches are those of the captured graph.", "",
        "| row | launches | programs of the largest | us |", "|---|---|---|---|",
    ]  # fmt: skip
    for title, row in found.items():
        count, most = sum(n["count"] for n in row["launches"]), max(n["programs"] for n in row["launches"])
        made.append(f"| {title} | {count} | {most} | {row['low']:g} to {row['high']:g} |")
    return made
