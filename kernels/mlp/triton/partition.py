"""MLP in Triton, cut among programs: each computes a part of the outputs of every layer, with its weights in registers.

For networks whose weights one multiprocessor does not hold (`triton_chain` up to there). After each layer the programs exchange
its int8 outputs by triton_exchange.py, one store and one load away; every layer but the last costs that once. All programs are on
the device together, a cooperative launch.

`partition_kernel` is one launch for one or more rows, `persistent_partition_kernel` stays on the GPU: messages are those of
kernels/_persistent/triton_mailbox.py, read by the first program and passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import pack_words, to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    DROPS_CACHE,
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    require_matrix,
)
from rtaccel.kernels._persistent.triton_broadcast import (
    HEADER_END,
    HEADER_SPOILED,
    await_words,
    named_set,
    order_after,
    order_before,
    pass_on,
    quantized,
)
from rtaccel.kernels._persistent.triton_exchange import finish, publish, receive_words
from rtaccel.kernels._persistent.triton_mailbox import BEFORE, SPINS_PER_LOOK, answer, wait
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton.config import Operands
from rtaccel.kernels.mlp.triton.layers import Params, input_parts, layer_outputs, load_layers, own_numbers
from rtaccel.kernels.mlp.triton.partition_config import MAX_PROGRAMS, THREADS, Partition, partition_of
from rtaccel.kernels.recurrent.triton.config import NUM_WARPS
from rtaccel.kernels.recurrent.triton.kernel import pick


@triton.jit
def publish_layer(ys, zero_point, slot_ptr, first, sequence, COUNT: tl.constexpr):
    """This program's outputs of a layer, to be read as int8; its words begin at `first`."""
    for r in tl.static_range(COUNT):
        publish(slot_ptr, first, pack_words(to_int8(ys[r], zero_point)), sequence)
        first += ys[r].shape[0] // 4


@triton.jit
def run_parts(
    tiles, words, scales_ptr, params_ptr, compensation_ptr, exchange_ptr, sequence, program, SLOT: tl.constexpr,
    THREADS: tl.constexpr, NET: tl.constexpr,
):  # fmt: skip
    """(this program's outputs of the last layer in parts, float32; whether all words came). words: of x, in parts."""
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    alive = tl.full((), 1, tl.int1)
    for i in tl.static_range(LAYERS):
        own = pick(tiles, NET.TILE_AT[i], NET.TILE_AT[i + 1] - NET.TILE_AT[i])
        ys = layer_outputs(own, words, Params(scales_ptr, params_ptr, compensation_ptr), i, NET)
        if i + 1 < LAYERS:
            zero_point = tl.load(params_ptr + 2 * NET.HEIGHTS[i] + 1).to(tl.int32)
            slot = exchange_ptr + (2 * i + (sequence & 1)) * SLOT
            first = program * (NET.HEIGHTS[i] // 4)
            publish_layer(ys, zero_point, slot, first, sequence, NET.ROW_AT[i + 1] - NET.ROW_AT[i])
            received, missing = receive_words(slot, sequence, (NET.WIDTHS[i + 1] + 3) // 4, THREADS)
            words = input_parts(received, i + 1, NET)
            alive = alive & (missing == 0)
        scales_ptr += NET.LAYER_SCALES[i]
        params_ptr += 2 * NET.HEIGHTS[i] + 4
        compensation_ptr += NET.HEIGHTS[i]
    return ys, alive


@triton.jit(do_not_specialize=["zero_point", "rows"])
def partition_kernel(
    x_ptr, y_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr, exchange_ptr, sync_ptr, inverse, zero_point, rows,
    K: tl.constexpr, N: tl.constexpr, NET: tl.constexpr, SLOT: tl.constexpr,
    PROGRAMS: tl.constexpr, MESSAGE: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Grid (PROGRAMS,): rows one after another, with the same weights."""
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    PARTS: tl.constexpr = NET.ROW_AT[LAYERS] - NET.ROW_AT[LAYERS - 1]
    program = tl.program_id(0)
    own_words, own_scales, own_params, own_compensation = own_numbers(
        words_ptr, scales_ptr, params_ptr, compensation_ptr, program, NET
    )
    first = tl.load(sync_ptr + 1) + 1
    tiles = load_layers(own_words, NET)
    k = tl.arange(0, MESSAGE)
    for row in range(rows):
        x = tl.load(x_ptr + k, mask=k < K, other=0.0)
        packed, header = quantized(x.to(tl.int32, bitcast=True), inverse, zero_point, K)
        words = input_parts(packed, 0, NET)
        ys, alive = run_parts(
            tiles, words, own_scales, own_params, own_compensation, exchange_ptr, first + row, program, SLOT, THREADS, NET
        )  # fmt: skip
        fine = alive & ((header & HEADER_SPOILED) == 0)
        n0 = program * NET.HEIGHTS[LAYERS - 1]
        for r in tl.static_range(PARTS):
            n = n0 + tl.arange(0, ys[r].shape[0])
            tl.store(y_ptr + n, tl.where(fine, ys[r], float("nan")), mask=n < N)
            n0 += ys[r].shape[0]
        x_ptr += K
        y_ptr += N
    finish(sync_ptr, PROGRAMS, first + rows - 1)


@triton.jit(do_not_specialize=["zero_point", "idle_looks", "second"])
def persistent_partition_kernel(
    request_ptr, reply_ptr, control_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr, exchange_ptr, inverse,
    zero_point, idle_looks, second, K: tl.constexpr, N: tl.constexpr, NET: tl.constexpr, SLOT: tl.constexpr,
    PROGRAMS: tl.constexpr, MESSAGE: tl.constexpr, X_WORDS: tl.constexpr, PASSED: tl.constexpr, THREADS: tl.constexpr,
    LOOK: tl.constexpr,
):  # fmt: skip
    """The same for messages. X_WORDS: of x, in int8; PASSED: words that are polled of what the first program passes on. A message
    may name other weights, as in triton/persistent.py; each program then reads its part of them before it computes."""
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    PARTS: tl.constexpr = NET.ROW_AT[LAYERS] - NET.ROW_AT[LAYERS - 1]
    program = tl.program_id(0)
    x_slots = exchange_ptr + 2 * LAYERS * SLOT
    sequence = tl.full((), BEFORE, tl.int32)
    state = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int32)
    named = second
    while end == 0:
        which = named & 1  # what the proof of indices sees
        own_words, own_scales, own_params, own_compensation = own_numbers(
            words_ptr, scales_ptr, params_ptr, compensation_ptr, program + which * PROGRAMS, NET
        )
        tiles = load_layers(own_words, NET)
        if (program == 0) & (sequence == BEFORE):
            tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
        named = which
        while (end == 0) & (named == which):
            sequence += 1
            slot = x_slots + (sequence & 1) * PASSED
            if program == 0:
                message, state = wait(request_ptr, control_ptr, sequence, idle_looks, K + 1, MESSAGE, LOOK)
                packed, header = quantized(message, inverse, zero_point, K)
                header = tl.where(state != 0, HEADER_END, header)
                order_before(slot, header)
                pass_on(slot, packed, header, sequence, X_WORDS)
            passed, header = await_words(slot, sequence, X_WORDS, PASSED)
            end = header & HEADER_END
            named = named_set(header, which)
            if named != which:
                sequence = order_after(control_ptr, sequence)
            elif end == 0:
                words = input_parts(passed, 0, NET)
                ys, alive = run_parts(
                    tiles, words, own_scales, own_params, own_compensation, exchange_ptr, sequence, program, SLOT, THREADS,
                    NET,
                )  # fmt: skip
                fine = alive & ((header & HEADER_SPOILED) == 0)
                first = program * NET.HEIGHTS[LAYERS - 1]
                for r in tl.static_range(PARTS):
                    answer(reply_ptr, tl.where(fine, ys[r], float("nan")), sequence, N, first)
                    first += ys[r].shape[0]
    if program == 0:
        tl.store(control_ptr + 1, state, cache_modifier=".wt")


def _specialize(
    kernel: Any, kind: str, attrs: Mapping[str, Any], partition: Partition, pointers: str, **more: Any
) -> Specialisation:
    types = dict.fromkeys(("words", "scales", "compensation", "sync"), "*i32")
    types |= dict.fromkeys(("x", "y", "params"), "*fp32")
    signature = {f"{name}_ptr": types.get(name, "*i64") for name in pointers.split()}
    acts = attrs["activations"]
    return Specialisation(
        name=f"mlp_{kind}_{partition.label}_{'-'.join(acts)}_P{partition.programs}",
        kernel=kernel,
        signature={
            **signature,
            "inverse": "fp32",
            "zero_point": "i32",
            **({"rows": "i32"} if kind == "partition" else {"idle_looks": "i32", "second": "i32"}),
        },
        constants={**partition.constants(acts), **more},
        tiling=Tiling(1, max(map(max, partition.rows)), 128, num_warps=NUM_WARPS),
        cooperative=True,
    )


def specialize(attrs: Mapping[str, Any], partition: Partition) -> Specialisation:
    return _specialize(
        partition_kernel, "partition", attrs, partition, "x y words scales params compensation exchange sync"
    )


def specialize_persistent(attrs: Mapping[str, Any], partition: Partition) -> Specialisation:
    pointers = "request reply control words scales params compensation exchange"
    more = {
        "MESSAGE": partition.polled(THREADS),
        "X_WORDS": partition.x_words,
        "PASSED": partition.passed,
        "LOOK": SPINS_PER_LOOK.value,
    }
    return _specialize(persistent_partition_kernel, "persistent_partition", attrs, partition, pointers, **more)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y float32 [M, N]; any M. Calls follow each other on one stream of the device."""
    partition = partition_of(stage.attrs)
    assert isinstance(partition, Partition), partition
    return prepared(stage, problem, partition)


def prepared(stage: Stage, problem: Problem, partition: Partition) -> Prepared:
    launch, ops = bind(specialize(stage.attrs, partition)), Operands.of(stage, partition, problem.device)
    exchange = torch.zeros(partition.exchange_words, dtype=torch.int64, device=problem.device)
    sync = torch.zeros(2, dtype=torch.int32, device=problem.device)

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("mlp", x, partition.widths[0], torch.float32)
        y = torch.empty((x.shape[0], partition.widths[-1]), device=x.device)
        if x.shape[0]:
            launch(
                (partition.programs,), x_ptr=x, y_ptr=y, exchange_ptr=exchange, sync_ptr=sync, rows=x.shape[0],
                **ops.arguments(),
            )  # fmt: skip
        return (y,)

    return call


def supports(problem: Problem) -> str | None:
    if settings.triton_interpret():
        return "has programs that wait for each other, which the interpreter runs one after another"
    if problem.matrix_rows > 1:
        return f"computes rows one after another, for M = 1, not M = {problem.matrix_rows}"
    found = partition_of(problem.attrs)
    return found if isinstance(found, str) else None


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    autoencoder = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    system = (GPU_DP4A, WIDE_LOAD, SYSTEM_LOAD, SYSTEM_STORE)
    for widths, group, stays in (
        ((256, 384, 384, 128), 0, False),
        ((256, 384, 384, 128), 0, True),
        (autoencoder, 0, True),
        ((256, 512, 512, 128), 32, True),
    ):
        stage = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",), group_size=group)
        attrs = Problem.of(stage, 1, "cuda").attrs
        partition = partition_of(attrs, MAX_PROGRAMS)
        assert isinstance(partition, Partition), partition
        spec = (specialize_persistent if stays else specialize)(attrs, partition)
        # The fence and the acquire of a message with other weights.
        fences = {"once": (SYSTEM_FENCE,)} if stays else {"forbids": (SYSTEM_FENCE,)}
        yield replace(spec.with_requirements(*system, *((DROPS_CACHE,) if stays else ()), **fences), slow=True)


register_impl(Impl("mlp", "triton_partition", "triton", 5, supports, prepare))
