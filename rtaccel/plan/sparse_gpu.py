"""Sparse or dense on a GPU: by a model, because a compiled model must be the same whether or not its card is at hand.

    dense  = max(bytes / BANDWIDTH, operations / rate)
    sparse = CHAIN_US + launches more * LAUNCH_US + max(bytes / BANDWIDTH, gathers of x / their rate, operations / rate)

bytes: weights, indices, x and y, once. The constants are those of one card, an H100, from its data sheet and from what others
published; those that are marked are guesses. No card has confirmed the model; it is made to err towards dense.

With int8 rows a sparse layer is one launch or two: its programs quantize few rows themselves, each anew, or a kernel before does
it. The model says which, in the attribute `rows_in_front` of the stage. A dense layer of up to eight rows is one launch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import blocks, int4, semi
from rtaccel.kernels.sparse_linear import contract
from rtaccel.plan.sparse import MAX_TIME_RATIO, MIN_ZEROS, SparseChoice, zeros

BANDWIDTH = 3.35e6
"""Bytes a microsecond of device memory, H100 SXM."""

RATE = {"int8": 1979e6, "bfloat16": 989e6, "float32": 67e6}
"""Operations a microsecond, by what is multiplied: tensor cores, and CUDA cores for float32."""

DENSE_PART, SPARSE_PART = 0.6, 0.3
"""Of that rate, reached by a dense and by a sparse kernel. Guesses."""

GATHERS = 3.7e5
"""Pieces of up to 16 bytes that all multiprocessors together fetch from anywhere in x in a microsecond: 32 in 20 cycles each. A
guess."""

SHARED_GATHERS = 3.7e6
"""Words of four int8 numbers that they gather from shared memory, where a program holds its rows of x: 32 in 2 cycles, as about
1.6 of 32 lie in one bank in the order in which they are packed."""

L2_BANDWIDTH = 6.9e6
"""Bytes a microsecond from L2, where every program reads the rows of x that it holds; measured by others on an H800."""

ISSUE, QUANTIZING = 132 * 4 * 32 * 1755, 12
"""Instructions of lanes in a microsecond, and those that rounding a number of x takes, counted in the code."""

OUTPUTS, HELD_INPUTS = 8, 8192
"""Of a program of few rows, and the longest row of x that it holds."""

CHAIN_US = 0.4
"""What the chain of reads row start -> column -> x takes longer than reading weights and x side by side. A guess from the
latency of L2 and memory, 150 and 270 ns."""

LAUNCH_US = 2.5
"""Of one more kernel in a CUDA graph: the gap between two nodes and its first ways to memory, the middle of what
bench/device/layers.py takes for them."""

SPLIT_US = 2.1
"""Of parts of sums that programs share, where a dense layer of many rows has few tiles."""

SPLIT_OUTPUTS = 2048
"""Up to which it has few tiles."""

FEW_ROWS = 4
"""Rows up to which a kernel keeps one sum per row; from there on tensor cores multiply blocks of at least 16 x 16, and single
weights meet the numbers of up to TILE rows, which were put side by side in a launch before."""

FEW_DENSE_ROWS = 8
"""Rows that the programs of a dense layer round by one scale themselves."""

TILE, STEP, WIDE = 32, 128, 64
"""Rows of x that a weight meets at once, at most. Weights of an output that tensor cores take in a step, and inputs of a block
whose rows lie whole."""

MAX_BLOCKS = 0.9
"""Of the weights, in blocks that are there: with more there is nothing to leave out."""

MIN_WEIGHTS = 65_536
"""Weights below which nothing is looked at: the dense kernel then only waits for its launch."""

_BLOCKS = ((64, 64), (32, 32), (16, 16), (8, 16), (1, 16))


@dataclass(frozen=True)
class Packed:
    """A form of a weight as a GPU kernel packs it. gathers: pieces of x for one row of it; for all rows where weights are single.
    words: of four int8 numbers of x for one row, where a kernel of few rows can hold x; held: whether it always does. given: in
    2:4, where warps give each other x and gather nothing. single: each weight alone meets the numbers of many rows."""

    bytes: int
    gathers: int
    entries: int
    words: int = 0
    held: bool = False
    given: bool = False
    single: bool = False


def could_be_sparse(stage: Stage, always: bool = False) -> bool:
    """Whether a product with a matrix has enough zeros, in a form that GPU kernels take, to be worth a look. always: however
    many it has."""
    weight = stage.tensors.get("weight")
    if not operator(stage.op).sparse.is_matrix or weight is None or weight.is_meta:
        return False
    k = stage.inputs[0].width
    plain = weight.dtype in (torch.float32, torch.bfloat16, torch.int8) or _int4(stage)
    if not plain or k > contract.linear.MAX_K:
        return False
    return always or (weight.shape[0] * k >= MIN_WEIGHTS and zeros(_params(stage)) >= MIN_ZEROS)


def _int4(stage: Stage) -> bool:
    """Whether it is W4A8 in groups that the 2:4 kernel takes."""
    if stage.weight_format is not WeightFormat.INT4 or stage.inputs[0].dtype != "int8":
        return False
    return int(stage.attrs["group_size"]) % 32 == 0 and stage.inputs[0].width % 4 == 0


def _params(dense: Stage) -> Tensor:
    """The weight [N, K], one number an element."""
    weight = dense.tensors["weight"]
    return int4.unpack(weight, dense.inputs[0].width) if dense.weight_format is WeightFormat.INT4 else weight


def modeled(
    dense: Stage, rows: int, first: Stage | None = None, backend: str = "triton", always: bool = False
) -> SparseChoice:
    """The form that the model holds to be the fastest. rows: samples; the steps of each are so many rows of a matrix. first: a
    sparse form that is there already, and keeps its storage. always: zero by zero, where there is such a form."""
    if not could_be_sparse(dense, always):
        weight = _params(dense)
        found = f"{zeros(weight):.0%} zeros in {weight.numel()} weights"
        return SparseChoice(dense, f"{dense.name} is computed dense: {found}")
    rows, matrix = rows * dense.outputs[0].steps, dense.matrices()
    times = {"dense": _dense_us(matrix, rows, backend)}
    choices: dict[str, tuple[str, tuple[int, int], bool]] = {}
    moved: dict[str, int] = {}
    for label, layout, block in _forms(matrix, rows, first, backend):
        packed = _packed(matrix, rows, layout, block)
        if layout == "blocks" and packed.entries > MAX_BLOCKS * dense.tensors["weight"].numel():
            continue
        times[label], in_front = min(
            _sparse_us(matrix, rows, packed, how, backend) for how in _ways(matrix, rows, packed, backend)
        )
        choices[label], moved[label] = (layout, block, in_front), packed.bytes
    best_blocks = min(
        (label for label in choices if label.startswith("blocks")), key=lambda label: times[label], default=""
    )
    said = [label for label in times if label in ("dense", "unstructured", "2:4", best_blocks)]
    figures = ", ".join(f"{label} {times[label]:.2f} us" for label in said)
    how = f"with {rows} rows by a model of an H100 that no card has confirmed"
    found = f"{zeros(_params(dense)):.1%} zeros"
    asked = "unstructured" if always and "unstructured" in choices else None
    best = asked or min(choices, key=lambda label: (round(times[label], 3), moved[label]), default=None)
    if best is None or (asked is None and times[best] > MAX_TIME_RATIO * times["dense"]):
        return SparseChoice(dense, f"{dense.name} is computed dense, which is not slower ({found}): {figures} {how}")
    layout, block, in_front = choices[best]
    stage = contract.sparse_stage(dense, layout, block)
    if first is not None:
        stage = replace(first, attrs={**first.attrs, "layout": layout})
    if in_front:
        stage, best = replace(stage, attrs={**stage.attrs, "rows_in_front": 1}), f"{best}, rows quantized in its launch"
    best = best if asked is None else f"{best}, as always=True asks"
    return SparseChoice(stage, f"{dense.name} is computed sparse ({best}, {found}): {figures} {how}")


def _forms(dense: Stage, rows: int, first: Stage | None, backend: str) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(label, layout, block). Numba has single weights, in any number of rows. 2:4 is for few rows: tensor cores take dense
    weights, and to spread them out takes longer than to read them dense."""
    weight = dense.tensors["weight"]
    few = rows <= FEW_ROWS
    if backend == "numba_cuda":
        if weight.dtype in (torch.int8, torch.float32):
            yield "unstructured", "window", (1, 1)
        return
    if dense.weight_format is WeightFormat.INT4:
        if few and semi.fits(_params(dense)):
            yield "2:4", "2:4", (1, 4)
        return
    if first is not None and contract.storage_format(first.tensors) == "blocks":
        block = first.tensors["weight"].shape[1:]
        yield "blocks", "blocks", (int(block[0]), int(block[1]))
        return
    yield "unstructured", "window", (1, 1)
    in_words = dense.inputs[0].dtype != "int8" or dense.inputs[0].width % 4 == 0
    if few and in_words and weight.dtype != torch.float32 and semi.fits(weight):
        yield "2:4", "2:4", (1, 4)
    if first is None:
        for b, c in _BLOCKS:
            if few or (b >= 16 and weight.dtype != torch.float32):
                yield f"blocks {b}x{c}", "blocks", (b, c)


def _packed(dense: Stage, rows: int, layout: str, block: tuple[int, int]) -> Packed:
    """What the kernel for so many rows stores, as `pack.py` and `semi_pack.py` of its Triton kernels do."""
    weight, n, k = dense.tensors["weight"], dense.outputs[0].width, dense.inputs[0].width
    if layout == "2:4":
        fours, size = -(-k // 32) * 8, WeightFormat.of(weight).bits / 8
        int8 = dense.inputs[0].dtype == "int8"
        picked = 0 if int8 else 2 * n * fours // 5  # int8 x streams; 32 picks lie in four lines
        return Packed(
            int(n * fours * (2 * size + 0.5)), picked, n * k, words=n * fours if int8 and rows <= FEW_ROWS else 0,
            given=dense.weight_format is not WeightFormat.INT4,
        )  # fmt: skip
    single = rows > FEW_ROWS and (layout == "window" or weight.dtype == torch.float32)
    x_bytes = 1 if dense.inputs[0].dtype == "int8" else 4
    least = 1 if single else (4 // x_bytes if rows <= FEW_ROWS else 16)
    b, c = (1, 1) if single else (_side(block[0], 1 if rows <= FEW_ROWS else 16), _side(block[1], least))
    unit = max(c, 16 // weight.element_size())
    counts = _occupied(weight, b, c).sum(1)
    units = -(-counts // (unit // c))
    if rows > FEW_ROWS and not single and c < WIDE:
        units = blocks.in_steps(units, STEP // unit)
    stored = int(units.sum()) * unit
    index = 2 if -(-k // c) <= 32_768 else 4
    moved = stored * b * weight.element_size() + stored // c * index + 4 * counts.numel()
    if single:
        return Packed(moved, stored * _pieces(rows, x_bytes), stored, single=True)
    words = stored * b // 4 if x_bytes == 1 and rows <= FEW_ROWS else 0
    shared = min(b, OUTPUTS) if rows <= FEW_ROWS else 1  # outputs that meet one piece of x
    return Packed(moved, stored * b // shared // min(c, 16 // x_bytes), stored * b, words, held=c == 4 and _holds(n, k))


def _pieces(rows: int, x_bytes: int) -> int:
    """Of 16 bytes, that the numbers of an input are for all rows, as tiles of a power of two of them lie in memory."""
    tile = min(max(1 << (rows - 1).bit_length(), 16 // x_bytes if x_bytes == 1 else 8), TILE)
    return -(-rows // tile) * -(-tile * x_bytes // 16)


def _holds(n: int, k: int) -> bool:
    return n >= OUTPUTS and k <= HELD_INPUTS


def _side(stored: int, least: int) -> int:
    """As `triton_rows.side`, which this file must not import: Triton may not be there."""
    return max(min(stored & -stored, 64), least)


def _occupied(weight: Tensor, b: int, c: int) -> Tensor:
    return (blocks.tiled(weight, (b, c)) != 0).flatten(2).any(2)


def _multiplied(dense: Stage) -> float:
    weight = dense.tensors["weight"].dtype
    if weight == torch.float32:
        return RATE["float32"]
    return RATE["int8" if dense.inputs[0].dtype == "int8" else "bfloat16"]


def _rounds_x(dense: Stage, backend: str) -> bool:
    """Whether it is for the layer alone that x is rounded, and Triton's kernels may do it."""
    return dense.inputs[0].dtype == "int8" and (backend == "triton" or len(dense.inputs) == 2)


def _dense_us(dense: Stage, rows: int, backend: str) -> float:
    cost = operator(dense.op).cost(Problem.of(dense, rows, "cuda"))
    more = 0.0
    work = cost.flops / (DENSE_PART * _multiplied(dense))
    if _rounds_x(dense, backend) and rows > FEW_DENSE_ROWS:
        more += LAUNCH_US + SPLIT_US * (dense.outputs[0].width <= SPLIT_OUTPUTS)
    elif _rounds_x(dense, backend) and backend == "triton":
        work = max(work, rows * _holding(dense, True))
    return more + max(cost.bytes / BANDWIDTH, work)


def _ways(dense: Stage, rows: int, packed: Packed, backend: str) -> tuple[bool, ...]:
    """Whether rows are quantized in front, in the same launch: each way that there is."""
    can = dense.inputs[0].dtype == "int8" and packed.words > 0 and _holds(dense.outputs[0].width, dense.inputs[0].width)
    return (False, True) if can and backend == "triton" else (False,)


def _sparse_us(dense: Stage, rows: int, packed: Packed, in_front: bool, backend: str) -> tuple[float, bool]:
    weight = dense.tensors["weight"]
    cost = operator(dense.op).cost(Problem.of(dense, rows, "cuda"))
    moved = cost.bytes - weight.numel() * weight.element_size() + packed.bytes
    launches = int(_rounds_x(dense, backend) and not in_front)
    if rows <= FEW_ROWS:
        work = rows * _gathering(dense, packed, in_front)
    else:
        rate = RATE["float32"] if packed.single else _multiplied(dense)
        work = 2 * rows * packed.entries / (SPARSE_PART * rate)
        if packed.single:
            work, launches = max(work, packed.gathers / GATHERS), launches + 1
        launches += int(dense.inputs[0].dtype == "float32")  # rows that are not finite are marked after
    return CHAIN_US + launches * LAUNCH_US + max(moved / BANDWIDTH, work), in_front


def _gathering(dense: Stage, packed: Packed, in_front: bool) -> float:
    """Of one row of x, in microseconds."""
    if not (in_front or packed.held):
        return packed.gathers / GATHERS
    return _holding(dense, in_front) + (0.0 if packed.given else packed.words / SHARED_GATHERS)


def _holding(dense: Stage, quantizing: bool) -> float:
    """Of one row of x, that every program of a few outputs reads and may quantize, in microseconds."""
    params = -(-dense.outputs[0].width // OUTPUTS) * dense.inputs[0].width
    return params * (4 / L2_BANDWIDTH + QUANTIZING / ISSUE) if quantizing else params / L2_BANDWIDTH
