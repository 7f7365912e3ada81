"""What an H100 would take for the launches of a captured graph, as a range: from their machine code and sizes, before any card.

Each launch is the gap between two nodes of a graph, a first way to memory, and the longest of three: the bytes at the edge of
the row, instructions that all its warps issue, and those of one warp one after another. They are counted in the code of sm_90. A
loop's body is between a quarter and all of that, as the assembler unrolls loops; how often it runs is known from the sizes.
Of windows of recurrent layers the loop through time is read from the code, and words between programs are added.
`bench/zoo/captured.py` gives the launches, so what is predicted is what is launched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from bench.device.table import MANY, OPERATIONS, TOKENS, WINDOWS, WINDOWS_BEFORE

MULTIPROCESSORS, GHZ = 132, 1.755


@dataclass(frozen=True)
class Card:
    """node_us: from the end of a node to the begin of the next. memory_us: a load that L2 or memory answers. bandwidth: bytes/us.
    warp_rate: instructions a cycle of one warp. most_rate: of a multiprocessor. loop: what part of the code its loop is. l2_us,
    cluster_us: words from program to program, by L2 or in a cluster, until all have them. wait_us: a level of trees, a node
    and its feature."""

    node_us: float
    memory_us: float
    bandwidth: float
    warp_rate: float
    most_rate: float
    loop: float
    l2_us: float = 0.0
    cluster_us: float = 0.0
    wait_us: float = 0.0


LOW = Card(0.7, 0.4, 5.5e6, 1 / 3, 3.2, 0.25, 0.3, 0.13, 0.17)
HIGH = Card(1.5, 0.8, 3.0e6, 1 / 8, 1.6, 1.0, 0.6, 0.26, 0.4)
"""L2 and few stalls; memory, and a stall for each instruction."""

L2_CLOCK_BYTES = 64
"""That one multiprocessor reads of L2 in a cycle."""


@dataclass(frozen=True)
class Launched:
    """form: of the kernel. count: launches of it. programs, warps: of a launch. instructions: of its sm_90 code. trips: of its
    innermost loop in all. loop: instructions of that, 0 where it is not read from the code. held: bytes of weights that a program
    reads before its loop. by_l2, by_cluster: words between programs, in all, one after another. waits: levels of trees."""

    form: str
    count: int
    programs: int
    warps: int
    instructions: int
    trips: int
    loop: int = 0
    held: int = 0
    by_l2: int = 0
    by_cluster: int = 0
    waits: int = 0


LEVELS = 6
"""Of the trees in all rows; a card reads from memory how many there are."""

Trips = Callable[[Mapping[str, Any]], int]


def _over(size: str, block: str, *times: str) -> Trips:
    return lambda c: -(-int(c[size]) // int(c[block])) * prod(int(c[name]) for name in times)


TRIPS: dict[str, Trips] = {
    "scan_": _over("OVER", "BLOCK_O"), "reduce_": _over("OVER", "BLOCK_O"), "order_rank": _over("OVER", "BLOCK_J"),
    "order_first": _over("OVER", "BLOCK_O", "K"), "put_": _over("S", "BLOCK_S"), "linear_float32": _over("K", "BLOCK_K"),
    "_float32_read_": lambda c: int(c["T"]) * -(-int(c["H"]) // int(c["BLOCK_U"])), "_float32_held_": lambda c: int(c["T"]),
    "_stack_": lambda c: int(c["T"]), "_window_": lambda c: int(c["RTA_TIME"]) + int(c["RTA_LAYERS"]) - 1,
    "_layer_float32_": lambda c: int(c["RTA_TIME"]),
    "_float32_alone_": _over("H", "BLOCK_K"), "solve_": lambda c: int(c["N"]), "attention_": _over("S", "BLOCK_S"),
    "trees_": lambda c: LEVELS,
}  # fmt: skip
"""By a part of a form's name; the loops of `solve_` are over its columns. Others have none."""


def trips(form: str, constants: Mapping[str, Any]) -> int:
    found = next((of for part, of in TRIPS.items() if part in form), None)
    if found is None and form.startswith("linear_"):
        from bench.device import layers

        return layers.trips(form, constants)
    return 1 if found is None else found(constants)


def us_of(launched: Launched, card: Card, edge_bytes: float) -> float:
    """One launch of it. edge_bytes: that it reads or writes of what lies at the edge of the row."""
    loop = launched.loop or launched.instructions * card.loop
    each = launched.instructions - loop + loop * launched.trips if launched.trips > 1 else launched.instructions
    spread = min(launched.programs, MULTIPROCESSORS)
    resident = min(launched.warps * -(-launched.programs // spread), 32)
    issued = each * launched.warps * launched.programs / (spread * min(resident * card.warp_rate, card.most_rate))
    alone = each / card.warp_rate
    between = launched.by_l2 * card.l2_us + launched.by_cluster * card.cluster_us + launched.waits * card.wait_us
    start = card.node_us + 2 * card.memory_us + launched.held / L2_CLOCK_BYTES / GHZ / 1e3
    return start + between + max(max(issued, alone) / GHZ / 1e3, edge_bytes / card.bandwidth)


def row_us(launches: list[Launched], edge_bytes: float) -> tuple[float, float]:
    """(low, high) of `device_us`: of a row's launches, one after another."""
    ends = []
    for card in (LOW, HIGH):
        times = [us_of(launched, card, edge_bytes / len(launches)) * launched.count for launched in launches]
        ends.append(round(sum(times), 1))
    return ends[0], ends[1]


def rows() -> list[tuple[str, str, str, str, str]]:
    """(title, kind, name, scheme, kernel or the one that is taken) of the rows that are predicted in this way."""
    found = [(f"{name}, rtaccel float32 graph", "operation", name, "float32", "") for name in OPERATIONS]
    for name, steps in WINDOWS.items():
        taken = (("w8a8", ""), ("w4a8", ""), ("float32", ""))
        for scheme, kernel in (*taken, *WINDOWS_BEFORE.items()):
            by = f", by {kernel}" if kernel else ""
            found.append((f"{name}, window of {steps}, rtaccel {scheme} graph{by}", "window", name, scheme, kernel))
    found += [(f"{name}, rtaccel w8a8 graph", "tokens", name, "w8a8", "") for name in TOKENS]
    return found + [
        (f"{name}, rtaccel {scheme} graph", "many", name, scheme, "") for name in MANY for scheme in ("w8a8", "float32")
    ]


Code = Callable[[Any], str]
"""The machine code of a form as text."""

LABEL, BRANCH = re.compile(r"^(\.L_x_\d+):"), re.compile(r"\bBRA\b.*?\(?(\.L_x_\d+)")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+\S")


def loop_of(code: str, product: str = "", each: int = 0) -> tuple[int, int]:
    """(instructions of the longest loop, others) of nvdisasm's text. The endless loop that ends a kernel has one.

    product, each: an instruction of which a step of the loop has so many. Where the assembler put several steps in the loop,
    and the steps that are left behind it, both numbers are those of a loop of one step."""
    labels: dict[str, int] = {}
    number, longest, begin = 0, 0, 0
    products: list[int] = []  # before each instruction
    for line in code.splitlines():
        if found := LABEL.match(line.strip()):
            labels[found[1]] = number
        elif _INSTRUCTION.match(line) and "NOP" not in line:
            products.append((products[-1] if products else 0) + bool(product and product in line))
            number += 1
            branch = BRANCH.search(line)
            if branch and branch[1] in labels and number - labels[branch[1]] > longest:
                begin, longest = labels[branch[1]], number - labels[branch[1]]
    inside = products[begin + longest - 1] - (products[begin - 1] if begin else 0) if products else 0
    if not each or inside < each:
        return longest, number - longest
    step = longest * each // inside
    return step, number - longest - step * (products[-1] - inside) // each


def _launched(spec: Any, programs: int, whole: bool, code: Code) -> Launched:
    """One launch of a form. whole: whether its loop is read from its code."""
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel

    in_cuda = isinstance(spec, CudaKernel)
    constants = dict(spec.definitions) if in_cuda else spec.constants
    loop, rest = loop_of(code(spec))
    known = Launched(
        spec.name, 1, programs, spec.num_warps if in_cuda else spec.tiling.num_warps, loop + rest, trips(spec.name, constants),
        loop if whole or in_cuda else 0,
    )  # fmt: skip
    if in_cuda:
        held = 512 * known.warps * (constants["RTA_KEPT"] + constants["RTA_HELD"])
        return replace(known, held=held, by_cluster=known.trips - 1 if spec.cluster else 0)
    if spec.name.startswith("trees_"):  # what is found is read again to be added
        return replace(known, waits=LEVELS + 1, by_l2=int(constants["TREES"] > constants["BT"]))
    cut = constants.get("CUT") if "_stack_" in spec.name else None
    if cut is None:
        return known
    words = cut.FIRST_WORDS + 2 * (cut.LAYERS - 1) * cut.OTHER_WORDS
    return replace(known, held=4 * words, by_l2=known.trips * cut.LAYERS if cut.PARTS > 1 else 0)


def captured(kind: str, name: str, scheme: str, kernel: str, code: Code) -> tuple[list[Launched], int]:
    """(launches of a row's graph, bytes at its edge)."""
    from torch.utils import _pytree as pytree

    from bench.device.rows.graphs import calibration, chosen, given, scheme_of
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
    with played(), chosen(kernel):
        plan, _ = plan_of(group, rows)
        tensors = given_of(group, rows)
        with noted() as launches:
            results = plan.call(tensors)
    found: dict[tuple[str, int], Launched] = {}
    for launch in launches:
        spec, programs = launch.spec, prod(launch.grid)
        before = found.get((spec.name, programs))
        found[spec.name, programs] = (
            replace(before, count=before.count + 1)
            if before
            else _launched(spec, programs, kind == "window" or spec.name.startswith("linear_dot"), code)
        )
    edge = sum(t.numel() * t.element_size() for t in (*tensors, *pytree.tree_leaves(results)))
    return list(found.values()), edge


def compiled(spec: Any) -> str:
    """For an H100, without one: by Triton, or by NVRTC."""
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel, compile_cubin
    from rtaccel.kernels._gpu.triton_aot import code_of, text_of

    return text_of(compile_cubin(spec, 90).code) if isinstance(spec, CudaKernel) else code_of(spec, 90)


def predicted() -> dict[str, Any]:
    """Compiles every form for sm_90."""
    found: dict[str, Any] = {}
    for title, *what in rows():
        launches, edge = captured(*what, compiled)  # type: ignore[call-arg,arg-type]
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
        "launches (`bench/device/launches.py`). The launches are those of the captured graph. Of windows of LSTM and GRU the",
        "loop through time is read from the code, so that their range is that of the machine alone.", "",
        "| row | launches | programs of the largest | us |", "|---|---|---|---|",
    ]  # fmt: skip
    for title, row in found.items():
        count, most = sum(n["count"] for n in row["launches"]), max(n["programs"] for n in row["launches"])
        made.append(f"| {title} | {count} | {most} | {row['low']:g} to {row['high']:g} |")
    return made
