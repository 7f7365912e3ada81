"""MLP in Triton: one program computes a row through all layers, the weights as int32 words in its registers.

A layer is a tile [N, K / 4] of words, four int8 weights each, multiplied by the words of x with dp4a; one sum along the words
gives its N outputs, which are requantised and packed into the words of the next layer. The only exchange between the warps
is that of x: two barriers a layer, 4 N bytes of shared memory. Packed words are multiplied as they are, so nothing grows when
the compiler moves loads out of a loop: a kernel that stays resident keeps them in registers (triton_resident.py).

Widths are padded to powers of two with zeros, in which everything is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._shared.triton_device import activate, dot4, multiply_rn, pack_words, to_int8
from rtaccel.kernels._shared.triton_launch import bind
from rtaccel.kernels._shared.triton_spec import (
    GPU_DP4A,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    power_of_two,
    require_matrix,
)
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.mlp import contract

INFINITY_BITS = tl.constexpr(0x7F800000)
NUM_WARPS = 16
MAX_ROWS = 8
"""Rows up to which a chain is preferred to tensor cores layer by layer. Not measured on a card."""

MAX_WORDS = 64 * 32 * NUM_WARPS
"""Words of one layer, 64 a thread: with them and the rest a thread stays within the 128 registers that 16 warps allow."""


@triton.jit
def quantise_words(x, inverse, zero_point, WIDTH: tl.constexpr):
    """float32 [K padded] -> (its int8 words, whether all of it is finite as an int32 of 1 or 0). Beyond WIDTH: zeros."""
    k = tl.arange(0, x.shape[0])
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    finite = tl.max(tl.where(k < WIDTH, bits, 0), 0) < INFINITY_BITS
    q = tl.where(k < WIDTH, to_int8(x * inverse, zero_point).to(tl.int32), 0).to(tl.int8)
    return pack_words(q), finite


@triton.jit
def load_tile(words_ptr, start, N: tl.constexpr, W: tl.constexpr):
    """The words [N, W] of one layer."""
    n, w = tl.arange(0, N), tl.arange(0, W)
    return tl.load(words_ptr + start + n[:, None] * W + w[None, :])


@triton.jit
def load_weights(words_ptr, PADDED: tl.constexpr):
    """The words of all layers at once; PADDED are the padded widths, of x first."""
    tiles = ()
    start = 0
    for i in tl.static_range(len(PADDED) - 1):
        tiles = tiles + (load_tile(words_ptr, start, PADDED[i + 1], PADDED[i] // 4),)  # noqa: RUF005
        start += PADDED[i + 1] * (PADDED[i] // 4)
    return tiles


@triton.jit
def run_layer(
    tile,
    words,
    numbers_ptr,
    compensation_ptr,
    N: tl.constexpr,
    ACTIVATIONS: tl.constexpr,
    LAYER: tl.constexpr,
    ASM: tl.constexpr,
):
    """One layer: float32 [N] from the words of its int8 input. numbers: N multipliers, N offsets, the activation's parameter
    and the zero point of the int8 output, and two more, so that the next layer's are aligned."""
    NAME: tl.constexpr = ACTIVATIONS[LAYER]
    n = tl.arange(0, N)
    acc = tl.sum(dot4(tile, tl.broadcast_to(words[None, :], tile.shape), tl.zeros_like(tile), ASM), 1)
    acc += tl.load(compensation_ptr + n)
    t = multiply_rn(acc.to(tl.float32), tl.load(numbers_ptr + n), ASM) + tl.load(numbers_ptr + N + n)
    return activate(t, tl.load(numbers_ptr + 2 * N), NAME)


@triton.jit
def run_layers(
    tiles, words, words_ptr, numbers_ptr, compensation_ptr, PADDED: tl.constexpr, ACTIVATIONS: tl.constexpr,
    RESIDENT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """float32 [N padded] of the last layer. RESIDENT: `tiles` are all layers; else the first, and each is loaded while the one
    before it is computed."""
    LAYERS: tl.constexpr = len(PADDED) - 1
    start = 0
    tile = tiles[0]
    for i in tl.static_range(LAYERS):
        start += PADDED[i + 1] * (PADDED[i] // 4)
        following = tile
        if i + 1 < LAYERS:
            following = tiles[i + 1] if RESIDENT else load_tile(words_ptr, start, PADDED[i + 2], PADDED[i + 1] // 4)
        y = run_layer(tile, words, numbers_ptr, compensation_ptr, PADDED[i + 1], ACTIVATIONS, i, ASM)
        if i + 1 < LAYERS:
            words = pack_words(to_int8(y, tl.load(numbers_ptr + 2 * PADDED[i + 1] + 1).to(tl.int32)))
        numbers_ptr += 2 * PADDED[i + 1] + 4
        compensation_ptr += PADDED[i + 1]
        tile = following
    return y


@triton.jit(do_not_specialize=["zero_point"])
def chain_kernel(
    x_ptr, y_ptr, words_ptr, numbers_ptr, compensation_ptr, inverse, zero_point,
    K: tl.constexpr, N: tl.constexpr, PADDED: tl.constexpr, ACTIVATIONS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    k, n = tl.arange(0, PADDED[0]), tl.arange(0, PADDED[len(PADDED) - 1])
    tiles = (load_tile(words_ptr, 0, PADDED[1], PADDED[0] // 4),)
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0)
    words, finite = quantise_words(x, inverse, zero_point, K)
    y = run_layers(tiles, words, words_ptr, numbers_ptr, compensation_ptr, PADDED, ACTIVATIONS, False, ASM)
    tl.store(y_ptr + row * N + n, tl.where(finite, y, float("nan")), mask=n < N)


def padded_widths(widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(power_of_two(w, 16, 1 << 20) for w in widths)


def words_of(widths: Sequence[int]) -> list[int]:
    """int32 words of each layer, padded."""
    padded = padded_widths(widths)
    return [n * k // 4 for k, n in pairwise(padded)]


def why_not(widths: Sequence[int], resident: bool = False) -> str | None:
    """None, or why a network of these widths does not fit a program. resident: all its layers at once."""
    words = words_of(widths)
    if max(widths) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}, not {max(widths)}"
    if resident and sum(words) > MAX_WORDS:
        return f"keeps its weights in registers, {4 * MAX_WORDS >> 10} KiB when padded, not {4 * sum(words) >> 10} KiB"
    if max(words) > MAX_WORDS:
        return f"holds a layer in registers, {4 * MAX_WORDS >> 10} KiB when padded, not {4 * max(words) >> 10} KiB"
    return None


@dataclass(frozen=True)
class Operands:
    """A network's numbers as the kernels read them, on the device."""

    words: Tensor
    numbers: Tensor
    compensation: Tensor
    inverse: float
    zero_point: int

    @classmethod
    def of(cls, stage: Stage, device: str) -> Operands:
        low = contract.lower(stage)
        padded = padded_widths(stage.attrs["widths"])
        words, numbers, compensation = [], [], []
        for layer, k, n in zip(low["layers"], padded, padded[1:]):
            weight = torch.zeros((n, k), dtype=torch.int8)
            weight[: layer["weight"].shape[0], : layer["weight"].shape[1]] = layer["weight"]
            words.append(weight.view(torch.int32).flatten())
            compensation.append(-layer["x_zero_point"] * weight.sum(1, dtype=torch.int32))
            parts = (layer["multiplier"], layer["offset"])
            numbers += [torch.nn.functional.pad(t.float(), (0, n - t.shape[0])) for t in parts]
            numbers.append(torch.tensor([layer["activation_parameter"], layer["y_zero_point"], 0.0, 0.0]))
        joined = (torch.cat(words), torch.cat(numbers), torch.cat(compensation))
        return cls(*(t.to(device) for t in joined), low["inv_scale"], low["zero_point"])


def constants(attrs: Mapping[str, Any]) -> dict[str, Any]:
    widths = tuple(attrs["widths"])
    return {
        "K": widths[0], "N": widths[-1], "PADDED": padded_widths(widths), "ACTIVATIONS": tuple(attrs["activations"]),
        "ASM": not settings.triton_interpret(),
    }  # fmt: skip


def specialise(problem: Problem) -> Specialisation:
    widths = problem.attrs["widths"]
    shape, acts = "-".join(map(str, widths)), "-".join(problem.attrs["activations"])
    return Specialisation(
        name=f"mlp_chain_{shape}_{acts}",
        kernel=chain_kernel,
        signature={
            "x_ptr": "*fp32", "y_ptr": "*fp32", "words_ptr": "*i32", "numbers_ptr": "*fp32",
            "compensation_ptr": "*i32", "inverse": "fp32", "zero_point": "i32",
        },
        constants=constants(problem.attrs),
        tiling=Tiling(1, max(padded_widths(widths)), 1, num_warps=num_warps(widths)),
    )  # fmt: skip


def num_warps(widths: Sequence[int]) -> int:
    """As few as hold the largest layer with 32 words a thread, at least four."""
    return power_of_two(max(words_of(widths)) // (32 * 32), 4, NUM_WARPS)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y float32 [M, N]; any M, one program a row."""
    widths, launch = stage.attrs["widths"], bind(specialise(problem))
    ops = Operands.of(stage, problem.device)

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("mlp", x, widths[0], torch.float32)
        y = torch.empty((x.shape[0], widths[-1]), device=x.device)
        if x.shape[0]:
            launch(
                (x.shape[0],), x_ptr=x, y_ptr=y, words_ptr=ops.words, numbers_ptr=ops.numbers,
                compensation_ptr=ops.compensation, inverse=ops.inverse, zero_point=ops.zero_point,
            )  # fmt: skip
        return (y,)

    return call


def specialisations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for widths, requires in (
        ((128,) * 7, (GPU_DP4A, WIDE_LOAD)),
        ((640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640), (GPU_DP4A, WIDE_LOAD)),
    ):
        stage = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",))
        yield specialise(Problem.of(stage, 1, "cuda")).demanding(*requires)


def supports(problem: Problem) -> str | None:
    if problem.rows > MAX_ROWS:
        return f"computes a row in one program, for M <= {MAX_ROWS}, not M = {problem.rows}"
    return why_not(problem.attrs["widths"])


register_impl(Impl("mlp", "triton_chain", "triton", 10, supports, prepare))
