"""MLP in Triton, cut among programs: each computes a part of the outputs of every layer, with its weights in registers.

For networks whose weights one multiprocessor does not hold (`triton_chain` up to there). After each layer the programs exchange
its int8 outputs by triton_exchange.py, one store and one load away; every layer but the last costs that once. All programs are on
the device together, a cooperative launch.

`cut_kernel` is one launch for one or more rows, `resident_cut_kernel` stays on the GPU: messages are those of
kernels/_shared/triton_mailbox.py, read by the first program and passed on.
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
from rtaccel.kernels._shared.triton_device import activate, multiply_rn, pack_words, to_int8
from rtaccel.kernels._shared.triton_exchange import finish, publish, receive, split
from rtaccel.kernels._shared.triton_launch import bind
from rtaccel.kernels._shared.triton_leader import HEADER_END, HEADER_SPOILED, await_passed, pass_on, quantised
from rtaccel.kernels._shared.triton_mailbox import SPINS_PER_LOOK, answer, wait
from rtaccel.kernels._shared.triton_recurrent import gate_sums, load_tiles, pick
from rtaccel.kernels._shared.triton_recurrent_form import NUM_WARPS
from rtaccel.kernels._shared.triton_spec import (
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    require_matrix,
)
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton_cut_form import MOST_PARTS, Cut, Operands, cut_of


@triton.jit
def load_parts(words_ptr, ROWS: tl.constexpr, CHUNK_OF: tl.constexpr, CHUNKS_OF: tl.constexpr):
    """This program's tiles of all layers."""
    tiles = ()
    start = 0
    for i in tl.static_range(len(ROWS)):
        tiles = tiles + load_tiles(words_ptr + start, ROWS[i], CHUNK_OF[i], CHUNKS_OF[i])
        start += ROWS[i] * CHUNK_OF[i] * CHUNKS_OF[i]
    return tiles


@triton.jit
def activated(t, parameter, ACTIVATIONS: tl.constexpr, LAYER: tl.constexpr):
    NAME: tl.constexpr = ACTIVATIONS[LAYER]  # triton 3.6 takes a name from a tuple no other way
    return activate(t, parameter, NAME)


@triton.jit
def run_parts(
    tiles, words, numbers_ptr, compensation_ptr, exchange_ptr, sequence, program, WIDTHS: tl.constexpr,
    ROWS: tl.constexpr, CHUNK_OF: tl.constexpr, CHUNKS_OF: tl.constexpr, FIRST_OF: tl.constexpr,
    ACTIVATIONS: tl.constexpr, SLOT: tl.constexpr, THREADS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """(float32 of this program's outputs of the last layer, whether all words came). words: of x, in chunks. numbers, per
    layer: multipliers, offsets, the activation's parameter, the zero point of the int8 output, and two more."""
    alive = tl.full((), 1, tl.int1)
    for i in tl.static_range(len(ROWS)):
        n = tl.arange(0, ROWS[i])
        sums = gate_sums(pick(tiles, FIRST_OF[i], CHUNKS_OF[i]), words, ROWS[i], CHUNK_OF[i], CHUNKS_OF[i], 1, ASM)
        acc = sums[0] + tl.load(compensation_ptr + n)
        t = multiply_rn(acc.to(tl.float32), tl.load(numbers_ptr + n), ASM) + tl.load(numbers_ptr + ROWS[i] + n)
        y = activated(t, tl.load(numbers_ptr + 2 * ROWS[i]), ACTIVATIONS, i)
        if i + 1 < len(ROWS):
            q = pack_words(to_int8(y, tl.load(numbers_ptr + 2 * ROWS[i] + 1).to(tl.int32)))
            slot = exchange_ptr + (2 * i + (sequence & 1)) * SLOT
            publish(slot, program * (ROWS[i] // 4), q, sequence)
            words, missing = receive(
                slot, sequence, (WIDTHS[i + 1] + 3) // 4, CHUNK_OF[i + 1], CHUNKS_OF[i + 1], THREADS
            )  # fmt: skip
            alive = alive & (missing == 0)
        numbers_ptr += 2 * ROWS[i] + 4
        compensation_ptr += ROWS[i]
    return y, alive


@triton.jit(do_not_specialize=["zero_point", "rows"])
def cut_kernel(
    x_ptr, y_ptr, words_ptr, numbers_ptr, compensation_ptr, exchange_ptr, sync_ptr, inverse, zero_point, rows,
    K: tl.constexpr, N: tl.constexpr, WIDTHS: tl.constexpr, ROWS: tl.constexpr, CHUNK_OF: tl.constexpr,
    CHUNKS_OF: tl.constexpr, FIRST_OF: tl.constexpr, ACTIVATIONS: tl.constexpr, SLOT: tl.constexpr,
    WORDS: tl.constexpr, NUMBERS: tl.constexpr, PARTS: tl.constexpr, MESSAGE: tl.constexpr, THREADS: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Grid (PARTS,): rows one after another, with the same weights."""
    program = tl.program_id(0)
    numbers_ptr += program * NUMBERS
    compensation_ptr += program * (NUMBERS - 4 * len(ROWS)) // 2
    first = tl.load(sync_ptr + 1) + 1
    tiles = load_parts(words_ptr + program * WORDS, ROWS, CHUNK_OF, CHUNKS_OF)
    k = tl.arange(0, MESSAGE)
    n = program * ROWS[len(ROWS) - 1] + tl.arange(0, ROWS[len(ROWS) - 1])
    for row in range(rows):
        x = tl.load(x_ptr + k, mask=k < K, other=0.0)
        packed, header = quantised(x.to(tl.int32, bitcast=True), inverse, zero_point, K, False)
        words = split(packed, CHUNK_OF[0], CHUNKS_OF[0], MESSAGE // 4)
        y, alive = run_parts(
            tiles, words, numbers_ptr, compensation_ptr, exchange_ptr, first + row, program, WIDTHS, ROWS, CHUNK_OF,
            CHUNKS_OF, FIRST_OF, ACTIVATIONS, SLOT, THREADS, ASM,
        )  # fmt: skip
        fine = alive & ((header & HEADER_SPOILED) == 0)
        tl.store(y_ptr + n, tl.where(fine, y, float("nan")), mask=n < N)
        x_ptr += K
        y_ptr += N
    finish(sync_ptr, PARTS, first + rows - 1)


@triton.jit(do_not_specialize=["zero_point", "idle_looks"])
def resident_cut_kernel(
    request_ptr, reply_ptr, control_ptr, words_ptr, numbers_ptr, compensation_ptr, exchange_ptr, inverse, zero_point,
    idle_looks, K: tl.constexpr, N: tl.constexpr, WIDTHS: tl.constexpr, ROWS: tl.constexpr, CHUNK_OF: tl.constexpr,
    CHUNKS_OF: tl.constexpr, FIRST_OF: tl.constexpr, ACTIVATIONS: tl.constexpr, SLOT: tl.constexpr,
    WORDS: tl.constexpr, NUMBERS: tl.constexpr, PARTS: tl.constexpr, MESSAGE: tl.constexpr, PASSED: tl.constexpr,
    THREADS: tl.constexpr, LOOK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The same for messages. PASSED: words that are polled of what the first program passes on."""
    program = tl.program_id(0)
    numbers_ptr += program * NUMBERS
    compensation_ptr += program * (NUMBERS - 4 * len(ROWS)) // 2
    x_slots = exchange_ptr + 2 * len(ROWS) * SLOT
    tiles = load_parts(words_ptr + program * WORDS, ROWS, CHUNK_OF, CHUNKS_OF)
    if program == 0:
        tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
    sequence = tl.full((), 0, tl.int32)
    state = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int32)
    while end == 0:
        sequence += 1
        slot = x_slots + (sequence & 1) * PASSED
        if program == 0:
            message, state = wait(request_ptr, control_ptr, sequence, idle_looks, K, MESSAGE, LOOK)
            packed, header = quantised(message, inverse, zero_point, K, False)
            header = tl.where(state != 0, HEADER_END, header)
            pass_on(slot, packed, header, sequence, CHUNK_OF[0] * CHUNKS_OF[0])
        words, header = await_passed(slot, sequence, CHUNK_OF[0] * CHUNKS_OF[0], CHUNK_OF[0], CHUNKS_OF[0], PASSED)
        end = header & HEADER_END
        if end == 0:
            y, alive = run_parts(
                tiles, words, numbers_ptr, compensation_ptr, exchange_ptr, sequence, program, WIDTHS, ROWS, CHUNK_OF,
                CHUNKS_OF, FIRST_OF, ACTIVATIONS, SLOT, THREADS, ASM,
            )  # fmt: skip
            fine = alive & ((header & HEADER_SPOILED) == 0)
            first = program * ROWS[len(ROWS) - 1]
            answer(reply_ptr, tl.where(fine, y, float("nan")), sequence, N, first)
    if program == 0:
        tl.store(control_ptr + 1, state, cache_modifier=".wt")


def _specialise(
    kernel: Any, kind: str, attrs: Mapping[str, Any], cut: Cut, pointers: str, **more: Any
) -> Specialisation:
    types = {"x": "*fp32", "y": "*fp32", "words": "*i32", "numbers": "*fp32", "compensation": "*i32", "sync": "*i32"}
    signature = {f"{name}_ptr": types.get(name, "*i64") for name in pointers.split()}
    shape, acts = "-".join(map(str, cut.widths)), "-".join(attrs["activations"])
    return Specialisation(
        name=f"mlp_{kind}_{shape}_{acts}_P{cut.parts}",
        kernel=kernel,
        signature={
            **signature,
            "inverse": "fp32",
            "zero_point": "i32",
            "rows" if kind == "cut" else "idle_looks": "i32",
        },
        constants={**cut.constants(attrs["activations"]), **more},
        tiling=Tiling(1, max(cut.rows), 1, num_warps=NUM_WARPS),
        cooperative=True,
    )


def specialise(attrs: Mapping[str, Any], cut: Cut) -> Specialisation:
    return _specialise(cut_kernel, "cut", attrs, cut, "x y words numbers compensation exchange sync")


def specialise_resident(attrs: Mapping[str, Any], cut: Cut) -> Specialisation:
    pointers = "request reply control words numbers compensation exchange"
    more = {"PASSED": cut.passed, "LOOK": SPINS_PER_LOOK.value}
    return _specialise(resident_cut_kernel, "resident_cut", attrs, cut, pointers, **more)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y float32 [M, N]; any M. Calls follow each other on one stream of the device."""
    cut = cut_of(stage.attrs["widths"])
    assert isinstance(cut, Cut), cut
    return prepared(stage, problem, cut)


def prepared(stage: Stage, problem: Problem, cut: Cut) -> Prepared:
    launch, ops = bind(specialise(stage.attrs, cut)), Operands.of(stage, cut, problem.device)
    exchange = torch.zeros(cut.exchange_words, dtype=torch.int64, device=problem.device)
    sync = torch.zeros(2, dtype=torch.int32, device=problem.device)

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("mlp", x, cut.widths[0], torch.float32)
        y = torch.empty((x.shape[0], cut.widths[-1]), device=x.device)
        if x.shape[0]:
            launch(
                (cut.parts,), x_ptr=x, y_ptr=y, words_ptr=ops.words, numbers_ptr=ops.numbers,
                compensation_ptr=ops.compensation, exchange_ptr=exchange, sync_ptr=sync, inverse=ops.inverse,
                zero_point=ops.zero_point, rows=x.shape[0],
            )  # fmt: skip
        return (y,)

    return call


def supports(problem: Problem) -> str | None:
    if settings.triton_interpret():
        return "has programs that wait for each other, which the interpreter runs one after another"
    if problem.rows > 1:
        return f"computes rows one after another, for M = 1, not M = {problem.rows}"
    found = cut_of(problem.attrs["widths"])
    return found if isinstance(found, str) else None


def specialisations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    widths = (256, 384, 384, 128)
    attrs = contract.make_stage(widths, ("relu", "relu", "none")).attrs
    cut = cut_of(widths, MOST_PARTS)
    assert isinstance(cut, Cut), cut
    spec = specialise_resident(attrs, cut)
    yield replace(spec.demanding(GPU_DP4A, WIDE_LOAD, SYSTEM_LOAD, SYSTEM_STORE, forbids=(SYSTEM_FENCE,)), slow=True)


register_impl(Impl("mlp", "triton_cut", "triton", 5, supports, prepare))
