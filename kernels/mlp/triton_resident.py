"""An MLP that stays on the GPU: its weights in registers, a loop that waits for x in the host's memory and answers there.

The messages are those of kernels/_shared/triton_mailbox.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import triton
import triton.language as tl

from rtaccel.core.stage import Problem
from rtaccel.kernels._shared.triton_mailbox import SPINS_PER_LOOK, answer, wait
from rtaccel.kernels._shared.triton_spec import (
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    Specialisation,
    Tiling,
)
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton_chain import (
    NUM_WARPS,
    constants,
    load_weights,
    padded_widths,
    quantise_words,
    run_layers,
    why_not,
)


@triton.jit(do_not_specialize=["zero_point", "idle_looks"])
def resident_kernel(
    request_ptr, reply_ptr, control_ptr, words_ptr, numbers_ptr, compensation_ptr, inverse, zero_point, idle_looks,
    K: tl.constexpr, N: tl.constexpr, PADDED: tl.constexpr, ACTIVATIONS: tl.constexpr, ASM: tl.constexpr,
    THREADS: tl.constexpr, LOOK: tl.constexpr,
):  # fmt: skip
    tiles = load_weights(words_ptr, PADDED)
    tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
    sequence = tl.full((), 0, tl.int32)
    end = tl.full((), 0, tl.int64)
    while end == 0:
        sequence += 1
        message, end = wait(request_ptr, control_ptr, sequence, idle_looks, K, THREADS, LOOK)
        if end == 0:
            # Every thread has a word; the sum over the parts that hold none of x gives x to all warps.
            x = tl.sum(tl.reshape(message.to(tl.int32), (THREADS // PADDED[0], PADDED[0])), 0).to(
                tl.float32, bitcast=True
            )
            words, finite = quantise_words(x, inverse, zero_point, K)
            y = run_layers(tiles, words, words_ptr, numbers_ptr, compensation_ptr, PADDED, ACTIVATIONS, True, ASM)
            answer(reply_ptr, tl.where(finite, y, float("nan")), sequence, N)
    tl.store(control_ptr + 1, end, cache_modifier=".wt")


@triton.jit(do_not_specialize=["idle_looks"])
def null_kernel(
    request_ptr, reply_ptr, control_ptr, idle_looks, K: tl.constexpr, N: tl.constexpr, THREADS: tl.constexpr,
    LOOK: tl.constexpr,
):  # fmt: skip
    """The round trip alone: y[n] = x[0] for every n. What it takes is what a resident model takes before it computes."""
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


THREADS = 32 * NUM_WARPS


def unsupported(attrs: Mapping[str, Any]) -> str | None:
    """None, or why this network cannot stay resident."""
    widths = attrs["widths"]
    if max(widths[0], widths[-1]) > THREADS:
        return f"has a word of x and y for each of {THREADS} threads, not {max(widths[0], widths[-1])}"
    return why_not(widths, resident=True)


def specialise(attrs: Mapping[str, Any]) -> Specialisation:
    """The resident form of an `mlp` stage with these attributes."""
    shape, acts = "-".join(map(str, attrs["widths"])), "-".join(attrs["activations"])
    return Specialisation(
        name=f"mlp_resident_{shape}_{acts}",
        kernel=resident_kernel,
        signature={
            "request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "words_ptr": "*i32",
            "numbers_ptr": "*fp32", "compensation_ptr": "*i32", "inverse": "fp32", "zero_point": "i32",
            "idle_looks": "i32",
        },
        constants={**constants(attrs), "THREADS": THREADS, "LOOK": SPINS_PER_LOOK.value},
        tiling=Tiling(1, max(padded_widths(attrs["widths"])), 1, num_warps=NUM_WARPS),
    )  # fmt: skip


def specialise_null(inputs: int, outputs: int) -> Specialisation:
    """The null model of so many float32 in and out, each at most 32."""
    return Specialisation(
        name=f"null_resident_{inputs}_{outputs}",
        kernel=null_kernel,
        signature={"request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "idle_looks": "i32"},
        constants={"K": inputs, "N": outputs, "THREADS": 32, "LOOK": SPINS_PER_LOOK.value},
        tiling=Tiling(1, 1, 1, num_warps=1),
    )


def specialisations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    polls = (SYSTEM_LOAD, SYSTEM_STORE)
    for widths, requires in (
        ((128,) * 7, (GPU_DP4A, *polls)),
        ((256, 128, 128, 8), (GPU_DP4A, *polls)),
    ):
        stage = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",))
        yield specialise(Problem.of(stage, 1, "cuda").attrs).demanding(*requires, forbids=(SYSTEM_FENCE,))
    yield specialise_null(1, 1).demanding(*polls, forbids=(SYSTEM_FENCE,))
