"""A recurrent stack that stays on the GPU, with its states: a message is a time step of x, the answer the head's output, or h.

The loop of `stack_kernel` with the mailbox in place of time: weights and states stay in registers, and `time_step` is the same.
The last word of a message is a command: RESET puts the states to zero before the time step, RENEW names the set of weights from
which on it computes. Then the outer of two loops reads them, and the inner one finds the same message, which is still there.

With PARTS > 1 the first program alone reads the mailbox, as words would cross the link for each program, and passes x on as int8
words with a header: of a message it says whether to reset, whether x is finite, and whether to end. The head is computed by the
first program, from the int8 h of the last layer that all programs give; without a head every program answers with its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.stage import Stage
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import dot4, multiply_rn, pack_words, to_int8
from rtaccel.kernels._gpu.triton_spec import (
    DROPS_CACHE,
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    Specialisation,
    Tiling,
    power_of_two,
)
from rtaccel.kernels._persistent.triton_broadcast import (
    HEADER_END,
    HEADER_RESET,
    HEADER_SPOILED,
    await_passed,
    named_set,
    order_after,
    order_before,
    pass_on,
    quantized,
)
from rtaccel.kernels._persistent.triton_exchange import publish, receive, split
from rtaccel.kernels._persistent.triton_mailbox import BEFORE, SPINS_PER_LOOK, answer, wait
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, KernelConfig, Operands, select_config
from rtaccel.kernels.recurrent.triton.kernel import Weights, persistent_tiles, state_words, time_step
from rtaccel.kernels.recurrent.triton.stack import problem_of

RESET = 1
"""The command of a message."""

MAX_HEAD = 128
"""Outputs of a head."""


@triton.jit
def head(words, words_ptr, params_ptr, compensation_ptr, N: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
         ACTIVATION: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """float32 [N] of a linear layer from the words of its int8 input. numbers: N multipliers, N offsets, the parameter
    and three more, so that those of another set are aligned."""
    n, w = tl.arange(0, N), tl.arange(0, CHUNK)
    acc = tl.zeros((N, CHUNK), tl.int32)
    for c in tl.static_range(CHUNKS):
        tile = tl.load(words_ptr + (c * N + n[:, None]) * CHUNK + w[None, :])
        acc = dot4(tile, tl.broadcast_to(words[c][None, :], (N, CHUNK)), acc, ASM)
    total = tl.sum(acc, 1) + tl.load(compensation_ptr + n)
    t = multiply_rn(total.to(tl.float32), tl.load(params_ptr + n), ASM) + tl.load(params_ptr + N + n)
    return activate(t, tl.load(params_ptr + 2 * N), ACTIVATION)


@triton.jit(do_not_specialize=["x_zero_point", "y_zero_point", "idle_looks", "second"])
def stream_kernel(
    request_ptr, reply_ptr, control_ptr, words_ptr, params_ptr, compensation_ptr, head_words_ptr, head_numbers_ptr,
    head_compensation_ptr, exchange_ptr, past_ptr, x_inverse, x_zero_point, h_inverse, y_inverse, y_zero_point, idle_looks,
    second, CUT: tl.constexpr, MESSAGE: tl.constexpr, PASSED: tl.constexpr, N: tl.constexpr, HEAD: tl.constexpr,
    ACTIVATION: tl.constexpr, LOOK: tl.constexpr,
):  # fmt: skip
    """Grid (PARTS,). MESSAGE, PASSED: words polled of the mailbox, and of what the first program passes on. N: numbers of the
    answer. HEAD: they, padded, or 0 where h is the answer. second: the set of weights at the start, 1 is the one behind the
    first. past: h of all layers and what else is carried, NaN where the stream is corrupted; the same to begin with, and a
    number that is not 0 where it is."""
    BU: tl.constexpr = CUT.BU
    CH: tl.constexpr = CUT.CH
    NH: tl.constexpr = CUT.NH
    LAYERS: tl.constexpr = CUT.LAYERS
    program = tl.program_id(0)
    y_slots = exchange_ptr + 2 * LAYERS * CUT.SLOT
    x_slots = y_slots + 2 * CUT.SLOT

    PAST: tl.constexpr = (2 if CUT.GATES == 4 else 1) * LAYERS * CUT.H
    own = program * BU + tl.arange(0, BU)
    begins_ptr = past_ptr + PAST
    hidden, states = (), ()
    for layer in tl.static_range(LAYERS):
        hidden = hidden + state_words(begins_ptr + layer * CUT.H, h_inverse, CUT.H, CH, NH)
    for layer in tl.static_range(LAYERS):
        carried = begins_ptr + (PAST - (LAYERS - layer) * CUT.H) + own
        states = states + (tl.load(carried, mask=own < CUT.H, other=0.0),)  # noqa: RUF005
    alive = tl.load(begins_ptr + PAST) == 0.0
    sequence = tl.full((), BEFORE, tl.int32)
    begun = tl.full((), 0, tl.int32)  # the number does not say it: it may be any again
    state = tl.full((), 0, tl.int64)
    end = tl.full((), 0, tl.int32)
    named = second
    while end == 0:
        which = named & 1  # what the proof of indices sees
        place = program + which * CUT.PARTS
        own_words = words_ptr + place * (CUT.FIRST_WORDS + 2 * (LAYERS - 1) * CUT.OTHER_WORDS)
        own_params = params_ptr + place * (CUT.NUMBERS * LAYERS)
        own_compensation = compensation_ptr + place * CUT.GATES * BU
        tiles = persistent_tiles(own_words, CUT)
        if (program == 0) & (sequence == BEFORE):
            tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
        named = which
        while (end == 0) & (named == which):
            sequence += 1
            if CUT.PARTS == 1:
                message, state = wait(request_ptr, control_ptr, sequence, idle_looks, CUT.K + 1, MESSAGE, LOOK)
                words, header = quantized(message, x_inverse, x_zero_point, CUT.K)
                header = tl.where(state != 0, HEADER_END, header)
                x_words = split(words, CUT.CX, CUT.NX, MESSAGE // 4)
            else:
                slot = x_slots + (sequence & 1) * PASSED
                if program == 0:
                    message, state = wait(request_ptr, control_ptr, sequence, idle_looks, CUT.K + 1, MESSAGE, LOOK)
                    words, header = quantized(message, x_inverse, x_zero_point, CUT.K)
                    header = tl.where(state != 0, HEADER_END, header)
                    order_before(slot, header)
                    pass_on(slot, words, header, sequence, CUT.NX * CUT.CX)
                x_words, header = await_passed(slot, sequence, CUT.NX * CUT.CX, CUT.CX, CUT.NX, PASSED)
            end = header & HEADER_END
            named = named_set(header, which)
            if named != which:
                sequence = order_after(control_ptr, sequence)
            elif end == 0:
                reset = (header & HEADER_RESET) != 0
                cleared, zeroed = (), ()
                for i in tl.static_range(LAYERS * NH):
                    cleared = cleared + (tl.where(reset, 0, hidden[i]),)  # noqa: RUF005
                for i in tl.static_range(LAYERS):
                    zeroed = zeroed + (tl.where(reset, 0.0, states[i]),)  # noqa: RUF005
                alive = (alive | reset) & ((header & HEADER_SPOILED) == 0)
                hidden, states, outputs, alive = time_step(
                    tiles, cleared, zeroed, x_words, 1.0, alive, tl.where(reset, 0, begun) != 0,
                    Weights(own_words, None, own_params, own_compensation), exchange_ptr, sequence, h_inverse, program, CUT,
                )  # fmt: skip
                begun = tl.full((), 1, tl.int32)
                y = outputs[LAYERS - 1]
                if HEAD == 0:
                    answer(reply_ptr, tl.where(alive, y, float("nan")), sequence, N, program * BU)
                else:
                    head_words = head_words_ptr + which * HEAD * CH * NH
                    head_numbers = head_numbers_ptr + which * (2 * HEAD + 4)
                    head_compensation = head_compensation_ptr + which * HEAD
                    passed = pack_words(to_int8(y * y_inverse, y_zero_point))
                    if CUT.PARTS > 1:
                        slot = y_slots + (sequence & 1) * CUT.SLOT
                        publish(slot, program * (BU // 4), passed, sequence)
                        if program == 0:
                            y_words, missing = receive(slot, sequence, CUT.PARTS * BU // 4, CH, NH, CUT.THREADS)
                            out = head(y_words, head_words, head_numbers, head_compensation, HEAD, CH, NH, ACTIVATION,
                                       CUT.ASM)  # fmt: skip
                            answer(reply_ptr, tl.where(alive & (missing == 0), out, float("nan")), sequence, N)
                    else:
                        out = head((passed,), head_words, head_numbers, head_compensation, HEAD, CH, NH, ACTIVATION,
                                   CUT.ASM)  # fmt: skip
                        answer(reply_ptr, tl.where(alive, out, float("nan")), sequence, N)
                for layer in tl.static_range(LAYERS):
                    at = past_ptr + layer * CUT.H + own
                    tl.store(at, tl.where(alive, outputs[layer], float("nan")), mask=own < CUT.H)
                    if CUT.GATES == 4:
                        tl.store(at + LAYERS * CUT.H, tl.where(alive, states[layer], float("nan")), mask=own < CUT.H)
    if program == 0:
        tl.store(control_ptr + 1, state, cache_modifier=".wt")


def message_words(kernel_config: KernelConfig) -> int:
    """Words of the mailbox that are polled: at least one a thread, so that no warp has the words of another."""
    return max(power_of_two(kernel_config.inputs + 1, 16, 1 << 20), 32 * kernel_config.num_warps)


def passed_words(kernel_config: KernelConfig) -> int:
    chunk, chunks = kernel_config.chunks_x
    return max(power_of_two(chunk * chunks + 1, 16, 1 << 20), 32 * kernel_config.num_warps)


def specialize(op: str, kernel_config: KernelConfig, outputs: int, activation: str | None) -> Specialisation:
    """The persistent form of a stack cut in this way. activation: of its head; None where h is the answer."""
    g = kernel_config.geometry
    pointers = {
        "request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "words_ptr": "*i32", "params_ptr": "*fp32",
        "compensation_ptr": "*i32", "head_words_ptr": "*i32", "head_numbers_ptr": "*fp32",
        "head_compensation_ptr": "*i32", "exchange_ptr": "*i64", "past_ptr": "*fp32",
    }  # fmt: skip
    ended = f"N{outputs}_{activation}" if activation is not None else "states"
    return Specialisation(
        name=f"{op}_persistent_K{kernel_config.inputs}_H{g.hidden}_L{g.layers}_P{kernel_config.parts}_{ended}",
        kernel=stream_kernel,
        signature={
            **pointers, "x_inverse": "fp32", "x_zero_point": "i32", "h_inverse": "fp32", "y_inverse": "fp32",
            "y_zero_point": "i32", "idle_looks": "i32", "second": "i32",
        },
        constants={
            "CUT": kernel_config.cut(), "MESSAGE": message_words(kernel_config), "PASSED": passed_words(kernel_config),
            "N": outputs,
            "HEAD": 0 if activation is None else power_of_two(outputs, 4, MAX_HEAD), "ACTIVATION": activation or "none",
            "LOOK": SPINS_PER_LOOK.value,
        },
        tiling=Tiling(1, kernel_config.units, 4 * kernel_config.chunks_x[0], num_warps=kernel_config.num_warps),
        cooperative=kernel_config.parts > 1,
    )  # fmt: skip


def example(op: str, gates: int, geometry: Geometry, inputs: int, outputs: int) -> Specialisation:
    """The persistent form of a stack of this size, for what is only compiled; fewer outputs than h has are those of a head."""
    kernel_config = select_config(problem_of(op, gates, geometry, inputs), gates, MULTIPROCESSORS)
    assert isinstance(kernel_config, KernelConfig), kernel_config
    spec = specialize(op, kernel_config, outputs, None if outputs == geometry.hidden else "none")
    # Several programs have the one of a message with other weights.
    fences = {"once" if kernel_config.parts > 1 else "forbids": (SYSTEM_FENCE,)}
    return replace(spec.with_requirements(GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, DROPS_CACHE, **fences), slow=True)


@dataclass(frozen=True)
class HeadOperands:
    """A linear layer after the stack, as `head` reads it."""

    words: Tensor
    params: Tensor
    compensation: Tensor

    @classmethod
    def of(cls, low: Mapping[str, Any] | None, kernel_config: KernelConfig, device: str) -> HeadOperands:
        """low: what linear's `lower` gives; None for no head."""
        if low is None:
            one = (torch.zeros(1, dtype=torch.int32), torch.zeros(1), torch.zeros(1, dtype=torch.int32))
            return cls(*(t.to(device) for t in one))
        chunk, chunks = kernel_config.chunks_h
        outputs, inputs = low["weight"].shape
        rows = power_of_two(outputs, 4, MAX_HEAD)
        weight = torch.zeros((rows, 4 * chunk * chunks), dtype=torch.int8)
        weight[:outputs, :inputs] = low["weight"].cpu()
        words = weight.view(torch.int32).view(rows, chunks, chunk).transpose(0, 1).reshape(-1)
        params = [torch.nn.functional.pad(low[n].cpu().float(), (0, rows - outputs)) for n in ("multiplier", "offset")]
        params.append(torch.tensor([float(low["activation_parameter"]), 0.0, 0.0, 0.0]))
        compensation = -low["x_zero_point"] * weight.sum(1, dtype=torch.int32)
        return cls(*(t.contiguous().to(device) for t in (words, torch.cat(params), compensation)))


def exchange_words(kernel_config: KernelConfig) -> int:
    """int64 words of the exchange: slots of every layer, of the head's input, and of what is passed on."""
    chunk, chunks = kernel_config.chunks_h
    return (
        2 * ((kernel_config.geometry.layers + 1) * chunk * chunks + passed_words(kernel_config))
        if kernel_config.parts > 1
        else 1
    )


def past_numbers(kernel_config: KernelConfig) -> int:
    """float32 numbers of a past, of which the kernel has two and one number more."""
    g = kernel_config.geometry
    return (2 if kernel_config.gates == 4 else 1) * g.layers * g.hidden


def weights_of(operands: Operands, of_head: HeadOperands) -> dict[str, Tensor]:
    """What other weights change, by the names of the kernel's arguments."""
    return {
        "words_ptr": operands.words, "params_ptr": operands.params, "compensation_ptr": operands.compensation,
        "head_words_ptr": of_head.words, "head_numbers_ptr": of_head.params, "head_compensation_ptr": of_head.compensation,
    }  # fmt: skip


def scalars_of(operands: Operands) -> dict[str, float | int]:
    """What they do not."""
    return {
        "x_inverse": operands.x_inverse, "x_zero_point": operands.x_zero_point, "h_inverse": operands.h_inverse,
        "y_inverse": operands.y_inverse, "y_zero_point": operands.y_zero_point,
    }  # fmt: skip


def unsupported(stage: Stage, following: Stage | None) -> str | None:
    """None, or why a stage and its head cannot be persistent, whatever its size."""
    if stage.tensors["weight_ih_l0"].dtype != torch.int8:
        return "has int8 weights as a stream; windows and time steps with int4 weights run in a graph"
    if stage.inputs[0].dtype != "float32" or "x_scale" not in stage.attrs:
        return "quantizes x with a static scale: pass calibration="
    if following is None:
        return None if stage.outputs[0].dtype == "float32" else "answers in float32"
    if following.op != "linear" or str(following.tensors["weight"].dtype) != "torch.int8" or len(following.inputs) != 1:
        return f"has a W8A8 linear layer with a static scale as its head, not {following.name} ({following.op})"
    if following.outputs[0].dtype != "float32" or following.outputs[0].width > MAX_HEAD:
        return f"has a head of up to {MAX_HEAD} float32 outputs"
    return None
