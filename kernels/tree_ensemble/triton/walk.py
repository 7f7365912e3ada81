"""Tree ensemble in Triton, with the bits of the CPU: a program walks a block of trees for a block of rows, one step a level.

Every element of a tile is a tree and a row. A step is two loads that wait for each other, a node and its feature. Only other
trees and rows fill that time, so all of them go down at once. What each tree came to is written to memory between programs. The
last program of a block of rows to arrive adds it in the order of the CPU: in eight lanes, or one tree after another where there
are several targets. So how trees are cut changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two, require_matrix
from rtaccel.kernels.linear.triton.split import Workspace
from rtaccel.kernels.tree_ensemble import contract
from rtaccel.kernels.tree_ensemble.triton.layout import LANES, lay

BLOCK = 128
"""Trees of a program, at most. Not measured on a card."""

ELEMENTS = 256
"""Trees times rows of a program, at most."""

AT_ONCE = 8
"""Numbers that a lane of a sum has on their way."""

MAX_TREES = BLOCK * 65535
"""Blocks of trees are along the second axis of a grid."""

MAX_TARGETS = 1 << 16


@triton.jit
def leaves_of(
    x_ptr, nodes_ptr, root_ptr, depth_ptr, m, there, tree, F: tl.constexpr, STRICT: tl.constexpr,
    BM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """int32 [BM, BT]: rows of value that the trees of this program come to."""
    at = tl.load(root_ptr + tree).to(tl.int64) + tl.zeros((BM, BT), tl.int64)
    for _ in range(tl.load(depth_ptr + tl.program_id(1))):
        node = nodes_ptr + at * 4
        threshold = tl.load(node).to(tl.float32, bitcast=True)
        child = tl.load(node + 1)
        word = tl.load(node + 2)
        v = tl.load(x_ptr + m * F + (word >> 1), mask=there, other=0.0)
        beyond = (v >= threshold) if STRICT else (v > threshold)
        beyond = tl.where(v != v, (word & 1) == 0, beyond)
        at = child.to(tl.int64) + beyond.to(tl.int64)
    return tl.load(nodes_ptr + at * 4 + 3)


@triton.jit
def sum_of_lanes(work_ptr, m, there, TREES: tl.constexpr, BM: tl.constexpr, LANES: tl.constexpr, AT_ONCE: tl.constexpr):
    """float32 [BM]: every eighth tree is a lane, and ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)) is the sum of lanes."""
    GROUPS: tl.constexpr = TREES // LANES
    lane = tl.arange(0, LANES)[None, :]
    acc = tl.zeros((BM, LANES), tl.float32)
    for g0 in range(0, GROUPS, AT_ONCE):
        values = ()
        for i in tl.static_range(AT_ONCE):
            at = m * TREES + (g0 + i) * LANES + lane
            v = tl.load(work_ptr + at, mask=there & (g0 + i < GROUPS), other=0, cache_modifier=".cg")
            values = values + (v.to(tl.float32, bitcast=True),)  # noqa: RUF005
        for i in tl.static_range(AT_ONCE):
            acc += values[i]
    fours = tl.sum(tl.reshape(acc, (BM, 2, 4)), 1)
    twos = tl.sum(tl.reshape(fours, (BM, 2, 2)), 1)
    return tl.sum(twos, 1)


@triton.jit
def sums_of_targets(
    y_ptr, value_ptr, work_ptr, m, there, T: tl.constexpr, TREES: tl.constexpr, BM: tl.constexpr, BLOCK_T: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """y of all targets: one tree after another."""
    for t0 in range(0, T, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)[None, :]
        inside = there & (t < T)
        acc = tl.zeros((BM, BLOCK_T), tl.float32)
        for i0 in range(0, TREES, AT_ONCE):
            values = ()
            for i in tl.static_range(AT_ONCE):
                row = tl.load(work_ptr + m * TREES + i0 + i, mask=there, other=0, cache_modifier=".cg")
                v = tl.load(value_ptr + row.to(tl.int64) * T + t, mask=inside, other=0.0)
                values = values + (v,)  # noqa: RUF005
            for i in tl.static_range(AT_ONCE):
                acc += values[i]
        tl.store(y_ptr + m * T + t, acc, mask=inside)


@triton.jit
def trees_kernel(
    x_ptr, y_ptr, nodes_ptr, root_ptr, depth_ptr, value_ptr, work_ptr, count_ptr, rows,
    F: tl.constexpr, T: tl.constexpr, TREES: tl.constexpr, STRICT: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
    BLOCK_T: tl.constexpr, LANES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of rows, blocks of trees). work: int32 [rows, TREES]: of each tree the bits of its value, or its row of them
    where there are several targets. count: programs that have arrived, of each block of rows; 0 before and behind a launch."""
    BLOCKS: tl.constexpr = TREES // BT
    block = tl.program_id(0).to(tl.int64)
    m = block * BM + tl.arange(0, BM)[:, None]
    there = m < rows
    tree = tl.program_id(1) * BT + tl.arange(0, BT)[None, :]
    found = leaves_of(x_ptr, nodes_ptr, root_ptr, depth_ptr, m, there, tree, F, STRICT, BM, BT)
    if T == 1:
        found = tl.load(value_ptr + found).to(tl.int32, bitcast=True)
    tl.store(work_ptr + m * TREES + tree, found, mask=there & (tree < TREES))
    # As split.py has it: the barrier orders the stores of all threads before the atomic of one, which publishes them.
    tl.debug_barrier()
    last = True
    if count_ptr is not None:
        last = tl.atomic_add(count_ptr + block, 1, sem="acq_rel", scope="gpu") == BLOCKS - 1
    if last:
        if T == 1:
            y = sum_of_lanes(work_ptr, m, there, TREES, BM, LANES, AT_ONCE)
            tl.store(y_ptr + m, y[:, None], mask=there)
        else:
            sums_of_targets(y_ptr, value_ptr, work_ptr, m, there, T, TREES, BM, BLOCK_T, AT_ONCE)
        if count_ptr is not None:
            tl.store(count_ptr + block, 0)


def tile_of(trees: int, rows: int) -> tuple[int, int]:
    """(rows, trees) of a program."""
    block = power_of_two(trees, LANES, BLOCK)
    return power_of_two(rows, 1, ELEMENTS // block), block


def specialize(problem: Problem) -> Specialisation:
    features, targets, trees = problem.in_widths[0], problem.out_widths[0], int(problem.attrs["trees"])
    bm, bt = tile_of(trees, problem.matrix_rows)
    padded = -(-trees // bt) * bt
    signature, absent = leave_out(
        {"x_ptr": "*fp32", "y_ptr": "*fp32", "nodes_ptr": "*i32", "root_ptr": "*i32", "depth_ptr": "*i32",
         "value_ptr": "*fp32", "work_ptr": "*i32", "count_ptr": "*i32", "rows": "i32"},
        count_ptr=padded > bt,
    )  # fmt: skip
    strict = bool(problem.attrs["strict"])
    return Specialisation(
        name=f"trees_M{bm}_F{features}_T{targets}_trees{padded}{'_strict' if strict else ''}",
        kernel=trees_kernel,
        signature=signature,
        constants={
            "F": features, "T": targets, "TREES": padded, "STRICT": strict, "BM": bm, "BT": bt,
            "BLOCK_T": power_of_two(targets, 1, 128), "LANES": LANES, "AT_ONCE": AT_ONCE, **absent,
        },
        tiling=Tiling(bm, bt, 1, num_warps=power_of_two(bm * bt // 32, 1, 4)),
    )  # fmt: skip


def supports(problem: Problem) -> str | None:
    if problem.attrs["trees"] > MAX_TREES:
        return f"has blocks of trees along an axis of a grid, for {MAX_TREES} at most, not {problem.attrs['trees']}"
    if problem.out_widths[0] > MAX_TARGETS:
        return f"adds up to {MAX_TARGETS} targets, not {problem.out_widths[0]}"
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, F] -> y float32 [M, T]; any M. Calls follow each other on one stream: they share what programs found."""
    spec, device = specialize(problem), problem.device
    bm, bt, padded = (spec.constants[name] for name in ("BM", "BT", "TREES"))
    launch, laid = bind(spec), lay(contract.lower(stage), bt)
    tables = {f"{name}_ptr": t.to(device) for name, t in laid._asdict().items()}
    workspace = Workspace(bm * bt, padded // bt, torch.int32)
    features, targets = stage.inputs[0].width, stage.outputs[0].width

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("tree_ensemble", x, features, torch.float32)
        rows = x.shape[0]
        y = torch.empty((rows, targets), device=x.device)
        if rows:
            blocks = triton.cdiv(rows, bm)
            work, counts = workspace.take(blocks, x.device)
            more = {"count_ptr": counts} if padded > bt else {}
            launch((blocks, padded // bt), x_ptr=x, y_ptr=y, work_ptr=work, rows=rows, **tables, **more)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for rows, trees, features, targets in ((1, 100, 12, 1), (64, 100, 12, 1), (1, 500, 30, 1), (1, 100, 12, 5)):
        stage = contract.make_stage(trees, features, targets)
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements()


register_impl(Impl("tree_ensemble", "triton_walk", "triton", 10, supports, prepare))
