"""Writes docs/reference/gpu-kernels.md: every Triton kernel that the tests compile, what its code costs and what it moves.

    python tests/triton_checks/write_page.py [--check]

From budgets.json, instructions.json and the kernels' TTIR. With --check it writes nothing and fails where the page is not what it
would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_aot import ARCHITECTURES
from tests.triton_checks import budgets
from tests.triton_checks.support import launches, machine_loads
from tests.triton_checks.support.moved import (
    MAX,
    MAX_WAVEFRONTS,
    WITHOUT_LAUNCH,
    Record,
    apart,
    counted_names,
    ratio,
    record_of,
    wavefronts_of,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "gpu-kernels.md"
HEAD = """# GPU kernels, as compiled

Written by `python tests/triton_checks/write_page.py`; a test holds it up to date. Nothing here was run on a card: these are
properties of the code. [GPUs](../how-to/gpu.md) says what the kernels are for.

## What a launch moves

From the kernel's TTIR and its own launching code: every load and store of every program with its address and mask. `bytes`
is all that is touched, once; `of the minimum` compares with what the operator's contract must move (weights, scales, bias, x
and y, once); `again` is what several programs ask for and L2 answers, x above all; `scratch` are parts of sums that programs
exchange. The limit is {most} of the minimum; what is above says why. `2^32` is the proof, by intervals over every integer of
the TTIR, that no index wraps in a launch whose largest tensor has more than 2^32 numbers. `-` for the programs: the kernel stays,
or its launch is not known to the check; the proof is then for {programs} programs and any run-time number.

A sparse form is a layer of the size in its name with a tenth of its weights or blocks, in 2:4 a half. Its minimum is what the
launch is given, the weights and indices as they are packed: each byte of the weights is read by one program, once, and a column
by those that share its block. What is moved may be less than it, where blocks leave out inputs of x; so may what a convolution of
dynamic samples moves, which a launch before it has made int8.

| form | programs | bytes | of the minimum | again | scratch | 2^32 | |
|---|---|---|---|---|---|---|---|
"""
CODE = """
## What its code costs

Registers of a thread, bytes of shared memory of a program, instructions; under them what the code is made of. Stack, local
memory and spills are none in every one, which the tests hold. `-`: the format does not exist there, or this triton does not
know the card. Every product and sum rounds by itself: `enable_fp_fusion` is off in each form, and `fma` below are those that
a kernel asks for by name or that a division or an exponential is made of.

`wgmma` and `tcgen05` are for tiles of 64 rows and more: the narrow tiles of a few rows are `mma` on every card.
"""


WAVEFRONTS = """
## Wavefronts of loads

Of kernels that read each weight, or each kept number, for few rows, or for many in tiles. Counted are two programs of a launch
on compute capability 9.0. Columns of sparse layers are those of real weights, at random places. A wavefront is a line of 128
bytes that a warp asks for; the least is what holds the same bytes. They are counted from where TTGIR puts each element, and
from its address, and again in the machine code, which is run as far as its addresses go. There loads of one address are one, and
layouts of tensor cores are seen. A load whose lanes lie 128 bytes apart takes 32 for 4. The limit of both is {most}; what is
above says why.

Columns of sparse weights say which lines of x a program needs. The kernel cannot choose them, and a wavefront is of one line. So
the least for such x is at least one for each of these lines in each program.

The last line of a form is a prediction, of the least that an H100 could take: wavefronts of the busiest multiprocessor, one a
cycle, and all bytes that the launch touches at 3.35 TB/s. The larger one is the floor of cold weights.

| form | argument | bytes a lane | wavefronts | in machine code | of the least | |
|---|---|---|---|---|---|---|
"""

MULTIPROCESSORS, CLOCKS_PER_US, BYTES_PER_US = 132, 1755.0, 3.35e6
"""Of an H100."""

WITHOUT_MINIMUM = ("linear_blas_", "null_")


def traffic(found: Record) -> str:
    grid = "-" if found.grid is None else " x ".join(map(str, found.grid))
    part = "-" if found.ratio is None or found.name.startswith(WITHOUT_MINIMUM) else f"{found.ratio:.2f}"
    proven = "proven" if not found.faults else "open"
    cells = (found.name, grid, f"{found.touched:,}", part, f"{found.read_again:,}", f"{found.scratch:,}", proven)
    return f"| {' | '.join(cells)} | {found.exception or ''} |"


def wavefronts(name: str) -> list[str]:
    lines = []
    in_ttgir, machine = wavefronts_of(name), machine_loads.found(name)
    in_code = machine.loads if machine else {}
    for argument in dict.fromkeys([*in_ttgir, *in_code]):
        both = [of.get(argument) for of in (in_ttgir, in_code)]
        widest, worst = max(c.widest for c in both if c), max(ratio(name, argument, c) for c in both if c)
        counts = ["-" if c is None else f"{c.taken:,}" for c in both]
        cells = (name, argument.removesuffix("_ptr"), str(widest), *counts, f"{worst:.2f}")
        lines.append(f"| {' | '.join(cells)} | {apart(name, argument) if worst > MAX_WAVEFRONTS else ''} |")
    grid = launches.launch_of(next(d for d in launches.declared() if d.spec.name == name)).grid  # type: ignore[union-attr]
    programs, counted = grid[0] * grid[1] * grid[2], sum(c.taken for c in wavefronts_of(name).values())
    busiest = -(-programs // MULTIPROCESSORS) * counted / programs_counted(grid)
    floors = f"{busiest / CLOCKS_PER_US:.2f} us in L1, {record_of(name).touched / BYTES_PER_US:.2f} us in memory"
    return [*lines, f"| {name} | all, of an H100 | | {counted:,} | | | {floors} |"]


def programs_counted(grid: tuple[int, int, int]) -> int:
    """Programs that `wavefronts_of` looks at."""
    return 1 if grid == (1, 1, 1) else 2


def code(version: str, rows: dict[str, dict[str, list[int]]], made: dict[str, dict[str, str]]) -> Iterator[str]:
    yield f"\n### Triton {version}\n"
    yield "| form | " + " | ".join(f"{a / 10:g}" if a % 10 else f"{a // 10}.0" for a in ARCHITECTURES) + " |"
    yield "|---" * (len(ARCHITECTURES) + 1) + "|"
    for name in sorted(rows):
        cells = []
        for capability in ARCHITECTURES:
            numbers = rows[name].get(str(capability))
            if numbers is None:
                cells.append("-")
                continue
            registers, shared, _, instructions = numbers
            cells.append(f"{registers} r, {shared:,} B, {instructions} i<br>{made[name][str(capability)]}")
        yield f"| {name} | {' | '.join(cells)} |"


def render() -> str:
    lines = [HEAD.format(most=MAX, programs=WITHOUT_LAUNCH).rstrip()]
    lines += [traffic(record_of(name)) for name in sorted(d.spec.name for d in launches.declared())]
    lines += [
        WAVEFRONTS.format(most=MAX_WAVEFRONTS).rstrip(),
        *(line for name in counted_names() for line in wavefronts(name)),
    ]
    return "\n".join([*lines, *costs()]) + "\n"


def costs() -> list[str]:
    """The lines behind those of what a launch moves: from the recorded budgets alone."""
    lines = [CODE.rstrip()]
    recorded, made = budgets.read(), json.loads(budgets.INSTRUCTIONS.read_text())
    for version in sorted(recorded, key=lambda v: tuple(map(int, v.split("."))), reverse=True):
        lines += code(version, recorded[version], made[version])
    return [
        *lines,
        CHIP.rstrip(),
        *chip(),
        WINDOWS.rstrip(),
        *windows(),
        LAYERS.rstrip(),
        *layers(),
        CHAINS.rstrip(),
        *chains(),
    ]


CHIP = """
## Recurrent streams in CUDA C++

Of `kernels/recurrent/cuda/recurrent.cu`, from `tests/cuda_checks/budgets.json`, for cards of 132 multiprocessors: where a
program's weights are, and what the code is made of. `+ 128`: threads of four warps that poll. `again` is read
from L2 in every time step, for want of room. Stack, local memory and spills are none.

| network | card | programs x threads | in registers | in shared memory | again | registers | code |
|---|---|---|---|---|---|---|---|
"""


def chip() -> Iterator[str]:
    written = json.loads((PAGE.parents[2] / "tests" / "cuda_checks" / "budgets.json").read_text())
    for name, rows in written.items():
        for capability, r in rows.items():
            polling = f" + {32 * r['pollers']}" if r["pollers"] else ""
            cells = (
                name, f"{int(capability) / 10:.1f}", f"{r['programs']} x {r['threads']}{polling}", f"{r['in_registers']:,} B",
                f"{r['in_shared']:,} B", f"{r['read_again']:,} B", str(r["registers"]),
                f"{r['instructions']} i<br>{r['made_of']}",
            )  # fmt: skip
            yield f"| {' | '.join(cells)} |"


WINDOWS = """
## Windows in CUDA C++

Of `kernels/recurrent/cuda/window.cu`, from `tests/cuda_checks/window_budgets.json`: one stream of LSTM_A over 50 time steps, of
LSTM_B over 100, and of a GRU over 20, on one block or those of a cluster. Weights are those of one block. A network that a card
does not hold has no row there. Stack, local memory and spills are none.

| network | card | blocks x threads | in registers | in shared memory | registers | code |
|---|---|---|---|---|---|---|
"""


def windows() -> Iterator[str]:
    yield from on_chip("window_budgets.json")


LAYERS = """
## Float32 layers over a window in CUDA C++

Of `kernels/recurrent/cuda/float32/layer.cu`, from `tests/cuda_checks/float32/budgets.json`: what goes through time, of one layer
and one stream, by its units. Weights are those of h, of one block. A layer that a card does not hold has no row there. Stack,
local memory and spills are none.

| layer | card | blocks x threads | in registers | in shared memory | registers | code |
|---|---|---|---|---|---|---|
"""


def layers() -> Iterator[str]:
    yield from on_chip("float32/budgets.json")


def on_chip(file: str) -> Iterator[str]:
    written = json.loads((PAGE.parents[2] / "tests" / "cuda_checks" / file).read_text())
    for name, rows in written.items():
        for capability, r in rows.items():
            cells = (
                name, f"{int(capability) / 10:.1f}", f"{r['programs']} x {r['threads']}", f"{r['in_registers']:,} B",
                f"{r['in_shared']:,} B", str(r["registers"]), f"{r['instructions']} i<br>{r['made_of']}",
            )  # fmt: skip
            yield f"| {' | '.join(cells)} |"


CHAINS = """
## Chains in CUDA C++

Of `kernels/mlp/cuda/chain.cu`, from `tests/cuda_checks/chain_budgets.json`: one block, or those of a cluster, with four warps
that poll beside its threads. Weights are those of one block. A network that a card does not hold has no row there. Stack, local
memory and spills are none.

| network | card | blocks x threads | in registers | in shared memory | registers | code |
|---|---|---|---|---|---|---|
"""


def chains() -> Iterator[str]:
    written = json.loads((PAGE.parents[2] / "tests" / "cuda_checks" / "chain_budgets.json").read_text())
    for name, rows in written.items():
        for capability, r in rows.items():
            cells = (
                name, f"{int(capability) / 10:.1f}", f"{r['parts']} x {r['threads']} + {32 * r['pollers']}",
                f"{r['in_registers']:,} B", f"{r['in_shared']:,} B", str(r["registers"]),
                f"{r['instructions']} i<br>{r['made_of']}",
            )  # fmt: skip
            yield f"| {' | '.join(cells)} |"


def main(check: bool) -> None:
    page = render()
    if not check:
        PAGE.write_text(page)
    elif PAGE.read_text() != page:
        sys.exit(f"{PAGE.name} is not what its command writes: run python tests/triton_checks/write_page.py")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
