"""What an H100 would take for a single layer whose weights come from memory, and torch's half precision for the same, as a range.

    python -m bench.device.predictions [--write]

A launch is the gap between two nodes, a first way to memory, the longest of its ways, and, where programs share sums along K,
the way of the parts. Its ways are the bytes of memory, what all programs read of x in L2, the instructions that its warps
issue, and its tensor cores. Instructions are those of the machine code of sm_90: the loop as often as it runs, everything
else once. Nothing of it overlaps with another launch. torch is taken at its best, its weights at the whole bandwidth of
memory, in one launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from bench.device.goals import GOALS
from bench.device.launches import GHZ, L2_CLOCK_BYTES, MULTIPROCESSORS, Code, compiled, loop_of
from bench.device.table import INT4, LINEAR, MANY_ROWS


@dataclass(frozen=True)
class Card:
    """node_us: from the end of a node to the begin of the next. memory_us: a load that memory answers. bandwidth, l2: bytes/us.
    warp_rate: instructions a cycle of one warp. most_rate: of a multiprocessor. padded: rows of x that tensor cores multiply at
    least."""

    node_us: float
    memory_us: float
    bandwidth: float
    l2: float
    warp_rate: float
    most_rate: float
    padded: int


LOW, HIGH = Card(0.7, 0.5, 3.2e6, 6.9e6, 1 / 3, 3.2, 16), Card(1.5, 0.9, 2.7e6, 4.5e6, 1 / 8, 1.6, 64)
TENSOR_PRODUCTS = 2048
"""bfloat16 products a cycle of a multiprocessor's tensor cores."""


@dataclass(frozen=True)
class Launch:
    """bytes: of memory, once. x_bytes: that all programs read of x. loop, rest: instructions of a warp's loop and around it.
    products: of a program on tensor cores for each row of x, rows: of its tile. parts_bytes: that the last program of a tile
    adds."""

    form: str
    programs: int
    warps: int
    bytes: int
    x_bytes: int
    loop: int
    rest: int
    trips: int
    products: int = 0
    rows: int = 0
    parts_bytes: int = 0


def us_of(launch: Launch, card: Card) -> dict[str, float]:
    """Each way of a launch in us."""
    each = -(-launch.programs // MULTIPROCESSORS)
    issued = (launch.loop * launch.trips + launch.rest) * launch.warps * each
    rate = min(min(launch.warps * each, 32) * card.warp_rate, card.most_rate)
    parts = 3 * card.memory_us + launch.parts_bytes / L2_CLOCK_BYTES / GHZ / 1e3 if launch.parts_bytes else 0.0
    return {
        "start": card.node_us + 2 * card.memory_us, "memory": launch.bytes / card.bandwidth, "x": launch.x_bytes / card.l2,
        "issue": issued / rate / GHZ / 1e3, "parts": parts,
        "tensor": launch.products * max(launch.rows, card.padded) * each / TENSOR_PRODUCTS / GHZ / 1e3 if launch.rows else 0.0,
    }  # fmt: skip


def total_us(launches: list[Launch], card: Card) -> float:
    total = 0.0
    for launch in launches:
        ways = us_of(launch, card)
        total += ways["start"] + ways["parts"] + max(ways[name] for name in ("memory", "x", "issue", "tensor"))
    return total


def torch_us(m: int, k: int, n: int, card: Card) -> float:
    """A launch that reads fp16 weights once, at its best."""
    tensor = m * k * n / MULTIPROCESSORS / TENSOR_PRODUCTS / GHZ / 1e3
    return card.node_us + 2 * card.memory_us + max(2 * (k * n + m * (k + n)) / card.bandwidth, tensor)


def _launch(note: Any, code: Code) -> Launch:
    """Of a launch that was noted, by the constants of its form."""
    spec, c = note.spec, note.spec.constants
    tensors = {name: t for name, t in note.arguments.items() if hasattr(t, "numel")}
    size = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    programs, split = prod(note.grid), c.get("SPLIT", 1)
    loop, rest = loop_of(code(spec))
    rows = spec.tiling.block_m
    moved = sum(bytes_ for name, bytes_ in size.items() if name not in ("work_ptr", "count_ptr"))
    if spec.name.startswith("linear_rows"):  # 4 columns of a row in a thread
        return Launch(spec.name, programs, spec.tiling.num_warps, moved, size["x_ptr"], 0, loop + rest, 1)
    x_bytes = note.grid[0] * note.grid[1] * rows * c["K"] * tensors["x_ptr"].element_size()
    trips = _trips(spec.name, c)
    if "gemv" in spec.name:
        return Launch(spec.name, programs, spec.tiling.num_warps, moved, x_bytes, loop, rest, trips)
    products = c["BLOCK_N"] * c["K"] // split
    if "thirds" in spec.name:  # four columns for each row
        rows *= 4
    parts = rows * c["BLOCK_N"] * 4 * split if split > 1 else 0
    return Launch(
        spec.name, programs, spec.tiling.num_warps, moved, x_bytes, loop, rest, trips, products, rows, parts,
    )  # fmt: skip


def _trips(form: str, c: Mapping[str, Any]) -> int:
    if "gemv" in form:
        steps = -(-c["WORDS"] // c["BLOCK_W"])
    elif "thirds" in form:
        steps = c["STEPS"]
    elif "wide" in form:
        steps = c["K"] // (16 // c["BITS"] * c["BLOCK_K"])
    else:
        steps = -(-c["K"] // (2 * c["GROUP"])) if c["GROUP"] else -(-c["K"] // c["BLOCK_K"])
    return int(-(-steps // c.get("SPLIT", 1)))


NARROW = "triton_tensor_core"
"""What had many rows before `triton_wide`, and still has them in smaller layers."""

ONE_ROW, A_WARP = "1x4096x4096", "triton_gemv_float"
"""A layer of one row, and what had it before `triton_thirds`, and still has smaller ones."""


def rows() -> Iterator[tuple[str, str, str, str]]:
    """(title, layer MxKxN, scheme, kernel or the one that is taken) of the rows that are predicted."""
    for name in LINEAR:
        for scheme in (*INT4, "w8a16"):
            if scheme != "w8a16" or name in MANY_ROWS:
                yield f"linear {name} cold, rtaccel {scheme}", name, scheme, ""
    for name in MANY_ROWS:
        for scheme in (INT4[0], "w8a16"):
            yield f"linear {name} cold, rtaccel {scheme}, narrow tiles (not taken)", name, scheme, NARROW
    for scheme, kernel, what in (
        ("w8a16", "", ""), (INT4[0], A_WARP, ", a warp an output (not taken)"),
        ("w8a16", A_WARP, ", a warp an output (not taken)"),
    ):  # fmt: skip
        yield f"linear {ONE_ROW} cold, rtaccel {scheme}{what}", ONE_ROW, scheme, kernel
    for name in ("2x4096x4096", "4x4096x4096", "8x4096x4096"):
        for scheme in (INT4[0], "w8a16"):
            yield f"linear {name} cold, rtaccel {scheme}", name, scheme, ""


def launches_of(name: str, scheme: str, kernel: str = "", code: Code = compiled) -> list[Launch]:
    import torch

    from bench.device.rows.graphs import scheme_of
    from rtaccel.core.registry import impls
    from rtaccel.core.stage import Problem
    from rtaccel.kernels._gpu.triton_launch import noted, played
    from rtaccel.kernels.linear import contract_weights

    m, k, n = map(int, name.split("x"))
    of = scheme_of(scheme)
    group = getattr(of, "group_size", 32)
    stage = contract_weights.make_stage(k, n, scheme.split()[0], group_size=group)
    problem = Problem.of(stage, m, "meta")
    able = [i for i in impls("triton", "linear") if i.supports(problem) is None]
    impl = next(i for i in able if not kernel or i.name == kernel)
    with played():
        call = impl.prepare(stage, problem)
        with noted() as found:
            call(torch.empty(m, k, device="meta"))
    return [_launch(note, code) for note in found]


def predicted() -> dict[str, Any]:
    """Compiles every form for sm_90. times: of torch's half precision, what ours takes, at the low and the high end."""
    found: dict[str, Any] = {}
    for title, name, scheme, kernel in rows():
        made = launches_of(name, scheme, kernel)
        m, k, n = map(int, name.split("x"))
        ours = [total_us(made, card) for card in (LOW, HIGH)]
        theirs = [torch_us(m, k, n, card) for card in (LOW, HIGH)]
        found[title] = {
            "low": round(ours[0], 1), "high": round(ours[1], 1), "torch": [round(us, 1) for us in theirs],
            "times": [round(b / a, 2) for a, b in zip(ours, theirs)],
            "ways": [{way: round(us, 2) for way, us in us_of(made[-1], card).items()} for card in (LOW, HIGH)],
            "launches": [asdict(launch) for launch in made],
        }  # fmt: skip
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """Of the page."""
    goals = {goal.row: f"{1 / goal.part:.3g}" for goal in GOALS if goal.over}
    made = [
        "", "## Single layers", "",
        "Time of the card for one call with weights from memory, in us: a range from the machine code and sizes of the launches",
        "(`bench/device/layers.py`). The ways of the last launch are bytes of memory, x that all programs read in L2,",
        "instructions, tensor cores, and the parts of sums that programs share. The longest of the first four counts, and the",
        "parts behind it. torch is fp16 at the same end of the machine, at its best, which few libraries reach. The last column",
        "but one is how many times as fast as that a layer is.", "",
        "| row | launches | us | memory | x | instructions | tensor cores | parts | torch fp16 | x as fast | goal |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for title, row in found.items():
        low, high = row["ways"]
        ways = [f"{low[way]:.1f} to {high[way]:.1f}" for way in ("memory", "x", "issue", "tensor", "parts")]
        cells = [title, str(len(row["launches"])), f"{row['low']:g} to {row['high']:g}", *ways]
        cells += [f"{row['torch'][0]:g} to {row['torch'][1]:g}", f"{min(row['times']):.1f} to {max(row['times']):.1f}"]
        made.append(f"| {' | '.join(cells)} | {goals.get(title, '-')} |")
    return made
