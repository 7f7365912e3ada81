"""An MLP that stays on the GPU: its weights in registers, a loop that waits for x in the host's memory and answers there.

The messages are those of kernels/_persistent/triton_mailbox.py, with a word more, which may name other weights: then the outer of
two loops reads them, and the inner one finds the same message, which is still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import triton
import triton.language as tl

from rtaccel.core.stage import Problem
from rtaccel.kernels._gpu.triton_spec import (
    DROPS_CACHE,
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    Specialisation,
    Tiling,
)
from rtaccel.kernels._persistent.triton_broadcast import HEADER_SPOILED, named_set, order_after, quantized
from rtaccel.kernels._persistent.triton_mailbox import BEFORE, SPINS_PER_LOOK, answer, wait
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton.chain import NUM_WARPS, why_not
from rtaccel.kernels.mlp.triton.config import KernelConfig
from rtaccel.kernels.mlp.triton.layers import input_parts, load_layers, own_numbers, run_layers

THREADS = 32 * NUM_WARPS
MAX_EDGE = 1024
"""Inputs and outputs."""


@triton.jit(do_not_specialize=["zero_point", "idle_looks", "second"])
def persistent_kernel(
    request_ptr, reply_ptr, control_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr, inverse, zero_point,
    idle_looks, second, K: tl.constexpr, N: tl.constexpr, MESSAGE: tl.constexpr, NET: tl.constexpr, LOOK: tl.constexpr,
):  # fmt: skip
    """MESSAGE: words that are polled of x, at least one a thread, so that no warp polls those of another. second: the set of
    weights at the start, where 1 is the one behind the first."""
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    PARTS: tl.constexpr = NET.ROW_AT[LAYERS] - NET.ROW_AT[LAYERS - 1]
    sequence = tl.full((), BEFORE, tl.int32)
    end = tl.full((), 0, tl.int64)
    named = second
    while end == 0:
        which = named & 1  # what the proof of indices sees
        own_words, own_scales, own_params, own_compensation = own_numbers(
            words_ptr, scales_ptr, params_ptr, compensation_ptr, which, NET
        )
        tiles = load_layers(own_words, NET)
        if sequence == BEFORE:
            tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
        named = which
        while (end == 0) & (named == which):
            sequence += 1
            message, end = wait(request_ptr, control_ptr, sequence, idle_looks, K + 1, MESSAGE, LOOK)
            packed, header = quantized(message, inverse, zero_point, K)
            if end == 0:
                named = named_set(header, which)
            if named != which:
                sequence = order_after(control_ptr, sequence)  # the same message again, by the other set
            elif end == 0:
                words = input_parts(packed, 0, NET)
                ys = run_layers(tiles, words, own_words, own_scales, own_params, own_compensation, True, NET)
                first = 0
                for r in tl.static_range(PARTS):
                    y = tl.where(header & HEADER_SPOILED != 0, float("nan"), ys[r])
                    answer(reply_ptr, y, sequence, N, first)
                    first += ys[r].shape[0]
    tl.store(control_ptr + 1, end, cache_modifier=".wt")


@triton.jit(do_not_specialize=["idle_looks"])
def null_kernel(
    request_ptr, reply_ptr, control_ptr, idle_looks, K: tl.constexpr, N: tl.constexpr, THREADS: tl.constexpr,
    LOOK: tl.constexpr,
):  # fmt: skip
    """The round trip alone: y[n] = x[0] for every n. What it takes is what a persistent model takes before it computes."""
    tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
    sequence = tl.full((), 0, tl.int32)
    end = tl.full((), 0, tl.int64)
    while end == 0:
        sequence += 1
        message, end = wait(request_ptr, control_ptr, sequence, idle_looks, K, THREADS, LOOK)
        if end == 0:
            first = tl.sum(tl.where(tl.arange(0, THREADS) == 0, message.to(tl.int32), 0), 0)
            y = tl.zeros((THREADS,), tl.int32) + first
            answer(reply_ptr, y.to(tl.float32, bitcast=True), sequence, N)
    tl.store(control_ptr + 1, end, cache_modifier=".wt")


def unsupported(attrs: Mapping[str, Any]) -> str | None:
    """None, or why this network cannot be persistent."""
    config = KernelConfig.of(attrs)
    edge = max(config.widths[0], config.widths[-1])
    if edge > MAX_EDGE:
        return f"polls two words a thread at most, up to {MAX_EDGE} inputs and outputs, not {edge}"
    return why_not(config, persistent=True)


def specialize(attrs: Mapping[str, Any]) -> Specialisation:
    """The persistent form of an `mlp` stage with these attributes."""
    config, acts = KernelConfig.of(attrs), attrs["activations"]
    return Specialisation(
        name=f"mlp_persistent_{config.label}_{'-'.join(acts)}",
        kernel=persistent_kernel,
        signature={
            "request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "words_ptr": "*i32", "scales_ptr": "*i32",
            "params_ptr": "*fp32", "compensation_ptr": "*i32", "inverse": "fp32", "zero_point": "i32",
            "idle_looks": "i32", "second": "i32",
        },
        constants={
            **config.constants(acts), "MESSAGE": config.polled(THREADS), "LOOK": SPINS_PER_LOOK.value,
        },
        tiling=Tiling(1, 128, 128, num_warps=NUM_WARPS),
    )  # fmt: skip


def specialize_null(inputs: int, outputs: int) -> Specialisation:
    """The null model of so many float32 in and out, each at most 32."""
    return Specialisation(
        name=f"null_persistent_{inputs}_{outputs}",
        kernel=null_kernel,
        signature={"request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "idle_looks": "i32"},
        constants={"K": inputs, "N": outputs, "THREADS": 32, "LOOK": SPINS_PER_LOOK.value},
        tiling=Tiling(1, 1, 1, num_warps=1),
    )


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    polls = (SYSTEM_LOAD, SYSTEM_STORE)
    autoencoder = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    for widths, group in (((128,) * 7, 0), ((256, 128, 128, 8), 0), (autoencoder, 32)):
        stage = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",), group_size=group)
        spec = specialize(Problem.of(stage, 1, "cuda").attrs)
        yield spec.with_requirements(GPU_DP4A, *polls, DROPS_CACHE, forbids=(SYSTEM_FENCE,))
    yield specialize_null(1, 1).with_requirements(*polls, forbids=(SYSTEM_FENCE,))
