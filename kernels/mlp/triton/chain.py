"""MLP in Triton, a whole network in one launch: one program computes a row through all layers (triton/layers.py).

While a layer is computed the weights of the next are loaded into registers. Packed words are multiplied as they are, so nothing
grows when the compiler moves loads out of a loop: a persistent kernel keeps them there (triton/persistent.py).
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
from rtaccel.kernels._gpu.triton_spec import (
    GPU_DP4A,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    power_of_two,
    require_matrix,
)
from rtaccel.kernels._persistent.triton_broadcast import HEADER_SPOILED, quantized
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton.config import KernelConfig, Operands, unsupported
from rtaccel.kernels.mlp.triton.layers import input_parts, load_layer, run_layers

NUM_WARPS = 16
MAX_ROWS = 8
"""Rows up to which a chain is preferred to tensor cores layer by layer. Not measured on a card."""

MAX_WORDS = 66 * 32 * NUM_WARPS
"""Words of weights that a program holds at once, 66 a thread. The autoencoder of 640-128x4-8-128x4-640 in int4 is as large."""

MAX_HELD = 108 * 32 * NUM_WARPS
"""The same with the words of x beside them: with what computes, a thread stays within the 128 registers that 16 warps allow."""


@triton.jit(do_not_specialize=["zero_point"])
def chain_kernel(
    x_ptr, y_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr, inverse, zero_point, K: tl.constexpr, N: tl.constexpr,
    MESSAGE: tl.constexpr, NET: tl.constexpr,
):  # fmt: skip
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    PARTS: tl.constexpr = NET.ROW_AT[LAYERS] - NET.ROW_AT[LAYERS - 1]
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, MESSAGE)
    tiles = load_layer(words_ptr, 0, NET)
    x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0)
    packed, header = quantized(x.to(tl.int32, bitcast=True), inverse, zero_point, K)
    words = input_parts(packed, 0, NET)
    ys = run_layers(tiles, words, words_ptr, scales_ptr, params_ptr, compensation_ptr, False, NET)
    first = 0
    for r in tl.static_range(PARTS):
        n = first + tl.arange(0, ys[r].shape[0])
        y = tl.where(header & HEADER_SPOILED != 0, float("nan"), ys[r])
        tl.store(y_ptr + row * N + n, y, mask=n < N)
        first += ys[r].shape[0]


def why_not(config: KernelConfig, persistent: bool = False) -> str | None:
    """None, or why a network does not fit a program. resident: all its layers at once; else one, while the next is loaded."""
    threads = 32 * NUM_WARPS
    words = config.held_words(threads)
    weights = sum(words) if persistent else max(words)
    if weights > MAX_WORDS:
        what = "its weights" if persistent else "a layer"
        return (
            f"holds {what} in registers, {4 * MAX_WORDS >> 10} KiB, not the {4 * weights >> 10} KiB that its tiles are"
        )
    beside = [threads * config.x_registers * len(columns) for columns in config.columns]
    following = (*words[1:], 0)
    most = max(x + (sum(words) if persistent else own + after) for x, own, after in zip(beside, words, following))
    if most > MAX_HELD:
        return (
            f"holds weights and x in registers, {4 * MAX_HELD >> 10} KiB with the layer that is loaded meanwhile, not "
            f"{4 * most >> 10} KiB"
        )  # fmt: skip
    return unsupported(config)


def specialize(problem: Problem) -> Specialisation:
    config, acts = KernelConfig.of(problem.attrs), problem.attrs["activations"]
    return Specialisation(
        name=f"mlp_chain_{config.label}_{'-'.join(acts)}",
        kernel=chain_kernel,
        signature={
            "x_ptr": "*fp32", "y_ptr": "*fp32", "words_ptr": "*i32", "scales_ptr": "*i32", "params_ptr": "*fp32",
            "compensation_ptr": "*i32", "inverse": "fp32", "zero_point": "i32",
        },
        constants={**config.constants(acts), "MESSAGE": config.message},
        tiling=Tiling(1, 128, 128, num_warps=num_warps(config)),
        registers=min(65536 // (32 * num_warps(config)), 255),
    )  # fmt: skip


def num_warps(config: KernelConfig) -> int:
    """As few as hold the largest layer with 32 words a thread, at least four."""
    return power_of_two(max(config.layer_words) // (32 * 32), 4, NUM_WARPS)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y float32 [M, N]; any M, one program a row."""
    config, launch = KernelConfig.of(stage.attrs), bind(specialize(problem))
    ops = Operands.of(stage, config, problem.device)

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("mlp", x, config.widths[0], torch.float32)
        y = torch.empty((x.shape[0], config.widths[-1]), device=x.device)
        if x.shape[0]:
            launch((x.shape[0],), x_ptr=x, y_ptr=y, **ops.arguments())
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU: those in int4 are declared in triton/persistent.py too."""
    autoencoder = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    for widths, group in (((128,) * 7, 0), (autoencoder, 0), (autoencoder, 32)):
        stage = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",), group_size=group)
        yield specialize(Problem.of(stage, 1, "cuda")).with_requirements(GPU_DP4A, WIDE_LOAD)


def supports(problem: Problem) -> str | None:
    if problem.matrix_rows > MAX_ROWS:
        return f"computes a row in one program, for M <= {MAX_ROWS}, not M = {problem.matrix_rows}"
    return why_not(KernelConfig.of(problem.attrs))


register_impl(Impl("mlp", "triton_chain", "triton", 10, supports, prepare))
