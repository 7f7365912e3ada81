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
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from bench.device.goals import GOALS
from bench.device.launches import GHZ, L2_CLOCK_BYTES, MULTIPROCESSORS, Code, compiled, loop_of
from bench.device.planned.layers import FEW_ROWS, INT4, LINEAR, MANY_ROWS, ONE_ROW


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


def launched(note: Any, code: Code) -> Launch:
    """Of a launch that was noted, by the constants of its form."""
    spec, c = note.spec, note.spec.constants
    tensors = {name: t for name, t in note.arguments.items() if hasattr(t, "numel")}
    size = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    programs, split = prod(note.grid), c.get("SPLIT", 1)
    loop, rest = loop_of(code(spec), "IDP", dp4a_of_step(spec.name, c))
    rows = spec.tiling.block_m
    moved = sum(bytes_ for name, bytes_ in size.items() if name not in ("work_ptr", "count_ptr"))
    if spec.name.startswith(BY_ROWS):
        return Launch(spec.name, programs, spec.tiling.num_warps, moved, size["x_ptr"], 0, loop + rest, 1)
    each = tensors["x_ptr"].element_size() if tensors["x_ptr"].is_floating_point() else 1  # int8, in words or alone
    x_bytes = note.grid[0] * note.grid[1] * rows * c["K"] * each
    times = trips(spec.name, c)
    if spec.name.startswith("sparse"):
        return _sparse(note, Launch(spec.name, programs, spec.tiling.num_warps, moved, x_bytes, loop, rest, times))
    if "gemv" in spec.name:
        return Launch(spec.name, programs, spec.tiling.num_warps, moved, x_bytes, loop, rest, times)
    products = c["BLOCK_N"] * c["K"] // split
    if "linear_dot" in spec.name or c.get("DOT") == "int8":  # which has twice the rate
        products //= 2
    if "thirds" in spec.name:  # four columns for each row
        rows *= 4
    parts = rows * c["BLOCK_N"] * 4 * split if split > 1 else 0
    return Launch(
        spec.name, programs, spec.tiling.num_warps, moved, x_bytes, loop, rest, times, products, rows, parts,
    )  # fmt: skip


def dp4a_of_step(form: str, c: Mapping[str, Any]) -> int:
    """Of a lane of a sparse kernel of few rows, which is short enough for several steps in a loop; 0 for any other."""
    if not form.startswith("sparse_gemv_") or "float" in form.split("_")[2]:
        return 0
    return int(c["ROWS"] * c.get("EACH", c.get("BLOCK_W", 0) // 32))


BY_ROWS = ("linear_rows", "quantize_", "propagate_nan_", "sparse_turn")
"""Launches that make something of each row and multiply nothing."""


def _sparse(note: Any, launch: Launch) -> Launch:
    """As often round its loop as an average row of the weights has it, and what it reads of x by the columns that are there."""
    c, tiling, weight = note.spec.constants, note.spec.tiling, note.arguments["weight_ptr"]
    if "starts_ptr" not in note.arguments:  # 2:4: every row has half of K
        return replace(launch, trips=-(-c["K"] // tiling.block_k))
    words = 4 if weight.element_size() == 4 and not weight.is_floating_point() else 1
    held = weight.numel() * words // c["N"]  # weights of an output, four in a word of int8
    before = (c["LEAD"] - 1) * c.get("UNIT", 16) // 2 if "LEAD" in c else 0  # from where a line begins
    times = -(-(held + before) // tiling.block_k)
    if "spmm" in launch.form:  # a column of all rows for each number
        return replace(launch, trips=times, x_bytes=weight.numel() * tiling.block_m)
    if "dot" in launch.form:
        x_bytes = launch.programs * tiling.block_m * held
        products = tiling.block_n * held // 2
        return replace(launch, trips=times, x_bytes=x_bytes, products=products, rows=tiling.block_m)
    together = tiling.block_n if "BLOCK_U" in c else 1  # outputs that read one piece of x
    x_bytes = launch.x_bytes if c["HELD"] else weight.numel() * weight.element_size() // together * c["ROWS"]
    return replace(launch, trips=times, x_bytes=x_bytes)


def trips(form: str, c: Mapping[str, Any]) -> int:
    if form.startswith(("sparse", *BY_ROWS)):  # sparse ones by what the weights have
        return 1
    if "gemv" in form and "WORDS" not in c:
        steps = -(-c["K"] // (4 * c["BLOCK_W"]))
    elif "gemv" in form:
        steps = -(-c["WORDS"] // c["BLOCK_W"])
    elif "thirds" in form:
        steps = c["STEPS"]
    elif "wide" in form:
        steps = c["K"] // (16 // c["BITS"] * c["BLOCK_K"])
    else:
        steps = -(-c["K"] // (2 * c["GROUP"])) if c.get("GROUP") else -(-c["K"] // c["BLOCK_K"])
    return int(-(-steps // c.get("SPLIT", 1)))


NARROW = "triton_tensor_core"
"""What had many rows before `triton_wide`, and still has them in smaller layers."""

A_WARP = "triton_gemv_float"
"""What had a layer of one row before `triton_thirds`, and still has smaller ones."""


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
    for name in FEW_ROWS:
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
    return [launched(note, code) for note in found]


def predicted() -> dict[str, Any]:
    """Compiles every form for sm_90. times: of torch's half precision, what ours takes, at the low and the high end."""
    found: dict[str, Any] = {}
    for title, name, scheme, kernel in rows():
        found[title] = told(name, launches_of(name, scheme, kernel))
    return found


def told(name: str, made: list[Launch], ends: tuple[Card, Card] = (LOW, HIGH)) -> dict[str, Any]:
    """What is kept of a layer MxKxN, with its launches and the ways of the longest of them. ends: of the machine."""
    m, k, n = map(int, name.split("x"))
    ours, theirs = [total_us(made, card) for card in ends], [torch_us(m, k, n, card) for card in ends]
    longest = max(made, key=lambda launch: total_us([launch], ends[1]))
    return {
        "low": round(ours[0], 1), "high": round(ours[1], 1), "torch": [round(us, 1) for us in theirs],
        "times": [round(b / a, 2) for a, b in zip(ours, theirs)],
        "ways": [{way: round(us, 2) for way, us in us_of(longest, card).items()} for card in ends],
        "launches": [asdict(launch) for launch in made],
    }  # fmt: skip


def lines(found: Mapping[str, Any]) -> list[str]:
    """Of the page."""
    goals = {goal.row: f"{1 / goal.part:.3g} x" if goal.over else f"{goal.at_most[0]:g} us" for goal in GOALS}
    made = [
        "", "## Single layers", "",
        "Time of the card for one call with weights from memory, in us: a range from the machine code and sizes of the launches",
        "(`bench/device/layers.py`). Layers in W8A8, sparse and warm ones (`graph`) are whole graphs. W8A8 of many rows",
        "has a launch before that rounds x. The ways of the longest launch are bytes of memory, x that all programs",
        "read in L2, instructions, tensor cores, and the parts of sums that programs share. The longest of the first four",
        "counts, and the parts behind it. torch is fp16 at the same end of the machine, at its best, which few libraries",
        "reach. The last column but one is how many times as fast as that a layer is.", "",
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
