"""Causal convolutions that stay on the GPU: a whole streamed network in one program, a message is a time step of x.

The weights are int32 words in registers, four int8 each, a tile [N, C / 4] for every tap. The past of a layer is a ring of its
int8 columns in device memory, of a power of two of rows, which this program alone reads and writes. All taps but the newest read
columns that were there before the message came: what they add is summed while the host still prepares x, so that after a
message every layer costs one tile, however many taps it has.

Of a network that the registers do not hold they keep the newest tap of each layer, which an answer waits for; older ones are read
again from L2 for each time step, before its message.

Nothing is cleared at a reset: a column older than it counts as the zero point, that is as zero. Behind the rings lie the age of
the stream and for how long results stay NaN: a start finds them, and leaves them at its end, so that a stream can go on.

The layers are an order of operations over values (triton/persistent_config.py): "quantize" a float32 value,
a "layer" (a convolution with a ring, or a linear layer), or a "join" of two.
Sizes are padded with zeros to powers of two, in which everything is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from rtaccel.core import settings
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import dot4, multiply_rn, pack_words, to_int8
from rtaccel.kernels._gpu.triton_spec import (
    DROPS_CACHE,
    FUSED,
    GPU_DP4A,
    SYSTEM_FENCE,
    SYSTEM_LOAD,
    SYSTEM_STORE,
    Specialisation,
    Tiling,
    power_of_two,
)
from rtaccel.kernels._persistent.triton_broadcast import named_set, order_after
from rtaccel.kernels._persistent.triton_exchange import split
from rtaccel.kernels._persistent.triton_mailbox import BEFORE, SPINS_PER_LOOK, answer, wait
from rtaccel.kernels.conv.triton.persistent_config import THREAD_REGISTERS, KernelConfig, example, select_config

INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def load_tap(words_ptr, tap, N: tl.constexpr, WORDS: tl.constexpr):
    """A tile [N, WORDS] of a layer, the oldest tap first."""
    n, w = tl.arange(0, N)[:, None], tl.arange(0, WORDS)[None, :]
    return tl.load(words_ptr + tap * N * WORDS + n * WORDS + w)


@triton.jit
def load_layer(words_ptr, N: tl.constexpr, WORDS: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr):
    """The newest HELD of TAPS tiles that follow each other."""
    tiles = ()
    for tap in tl.static_range(HELD):
        tiles = tiles + (load_tap(words_ptr, TAPS - HELD + tap, N, WORDS),)  # noqa: RUF005
    return tiles


@triton.jit
def load_tiles(
    words_ptr, KINDS: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr, WORDS: tl.constexpr, OUTPUTS: tl.constexpr
):
    """The weights of all layers that stay. WORDS: of a column of each layer's input."""
    tiles = ()
    for i in tl.static_range(len(KINDS)):
        if KINDS[i] == "layer":
            tiles = tiles + load_layer(words_ptr, OUTPUTS[i], WORDS[i], TAPS[i], HELD[i])
            words_ptr += TAPS[i] * OUTPUTS[i] * WORDS[i]
    return tiles


@triton.jit
def past_column(ring_ptr, tick, age, zero, back, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """int32 [WORDS]: the column of so many time steps ago; zero where the stream is younger."""
    row = (tick - back) & (ROWS - 1)
    return tl.where(age >= back, tl.load(ring_ptr + row * WORDS + tl.arange(0, WORDS)), zero)


@triton.jit
def past_sum(
    tiles, words_ptr, ring_ptr, sums_ptr, tick, age, FIRST: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr,
    DILATION: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, N: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """int32 [N]: what all taps of a layer but the newest add. FIRST: its first tile that is held."""
    past = tl.zeros((N,), tl.int32)
    if TAPS > 1:
        AGAIN: tl.constexpr = TAPS - HELD if HELD else TAPS - 1
        zero = tl.load(sums_ptr + 2 * N)
        acc = tl.zeros((N, WORDS), tl.int32)
        if AGAIN:
            for tap in range(AGAIN):
                column = past_column(ring_ptr, tick, age, zero, (TAPS - 1 - tap) * DILATION, ROWS, WORDS)
                acc = dot4(load_tap(words_ptr, tap, N, WORDS), tl.broadcast_to(column[None, :], (N, WORDS)), acc, ASM)
        for held in tl.static_range(TAPS - 1 - AGAIN):
            column = past_column(ring_ptr, tick, age, zero, (TAPS - 1 - AGAIN - held) * DILATION, ROWS, WORDS)
            acc = dot4(tiles[FIRST + held], tl.broadcast_to(column[None, :], (N, WORDS)), acc, ASM)
        past = tl.sum(acc, 1) + tl.load(sums_ptr + N + tl.arange(0, N))
    return past


@triton.jit
def newest_tap(
    tiles, words_ptr, AT: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr, N: tl.constexpr, WORDS: tl.constexpr
):
    if HELD:  # noqa: SIM108 - the other branch must not be compiled
        tile = tiles[AT]
    else:
        tile = load_tap(words_ptr, TAPS - 1, N, WORDS)
    return tile


@triton.jit
def past_sums(
    tiles, words_ptr, rings_ptr, sums_ptr, tick, age, KINDS: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr,
    HELD: tl.constexpr, DILATIONS: tl.constexpr, RINGS: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr,
    OUTPUTS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`past_sum` of each operation; of what is no layer 0. age: time steps since the reset.

    sums of a layer: its compensation for the newest tap [N] and for the others [N], and the zero point four times in a word."""
    found = ()
    for i in tl.static_range(len(KINDS)):
        past = tl.full((), 0, tl.int32)
        if KINDS[i] == "layer":
            past = past_sum(
                tiles, words_ptr, rings_ptr + RINGS[i], sums_ptr, tick, age, TILES[i], TAPS[i], HELD[i], DILATIONS[i], ROWS[i],
                WORDS[i], OUTPUTS[i], ASM,
            )  # fmt: skip
            sums_ptr += 2 * OUTPUTS[i] + 4
            words_ptr += TAPS[i] * OUTPUTS[i] * WORDS[i]
        found = found + (past,)  # noqa: RUF005
    return found


@triton.jit
def run_layer(
    tiles, words_ptr, words, past, ring_ptr, params_ptr, sums_ptr, tick, reset, FIRST: tl.constexpr, TAPS: tl.constexpr,
    HELD: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, N: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """float32 [N] before the activation, from the words of the newest column, which goes into the ring."""
    n = tl.arange(0, N)
    if TAPS > 1:
        tl.store(ring_ptr + (tick & (ROWS - 1)) * WORDS + tl.arange(0, WORDS), words)
    tile = newest_tap(tiles, words_ptr, FIRST + HELD - 1, TAPS, HELD, N, WORDS)
    acc = tl.sum(dot4(tile, tl.broadcast_to(words[None, :], (N, WORDS)), tl.zeros((N, WORDS), tl.int32), ASM), 1)
    acc += tl.load(sums_ptr + n) + tl.where(reset, 0, past)
    return multiply_rn(acc.to(tl.float32), real(params_ptr + n), ASM) + real(params_ptr + N + n)


@triton.jit
def real(at):
    """The float32 that lies between whole numbers: all of a set is read by one address, and the rest is in the instruction."""
    return tl.load(at).to(tl.float32, bitcast=True)


@triton.jit
def end_operation(t, values, params_ptr, OTHERS: tl.constexpr, ACTIVATIONS: tl.constexpr, INT8: tl.constexpr,
                  INDEX: tl.constexpr):  # fmt: skip
    """act(t + other) of one operation, in float32 or rounded to int8 words."""
    NAME: tl.constexpr = ACTIVATIONS[INDEX]
    if OTHERS[INDEX] >= 0:
        t = t + pick(values, OTHERS[INDEX])
    y = activate(t, real(params_ptr), NAME)
    if INT8[INDEX]:
        y = pack_words(to_int8(y * real(params_ptr + 1), real(params_ptr + 2).to(tl.int32)))
    return y


@triton.jit
def pick(values, INDEX: tl.constexpr):
    return values[INDEX]


@triton.jit
def time_step(
    tiles, words_ptr, pasts, x, rings_ptr, params_ptr, sums_ptr, tick, reset, KINDS: tl.constexpr, SOURCES: tl.constexpr,
    OTHERS: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr, RINGS: tl.constexpr, ROWS: tl.constexpr,
    WORDS: tl.constexpr, OUTPUTS: tl.constexpr, INT8: tl.constexpr, ACTIVATIONS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """float32 [N padded] of the last operation; the columns of this time step go into the rings.

    numbers of a layer: N multipliers and N offsets; then of every operation the activation's parameter, the inverse scale and
    the zero point of an int8 result, and 0."""
    values = (x,)
    for i in tl.static_range(len(KINDS)):
        t = pick(values, SOURCES[i])
        if KINDS[i] == "layer":
            t = run_layer(
                tiles, words_ptr, t, pasts[i], rings_ptr + RINGS[i], params_ptr, sums_ptr, tick, reset, TILES[i], TAPS[i],
                HELD[i], ROWS[i], WORDS[i], OUTPUTS[i], ASM,
            )  # fmt: skip
            sums_ptr += 2 * OUTPUTS[i] + 4
            words_ptr += TAPS[i] * OUTPUTS[i] * WORDS[i]
            params_ptr += 2 * OUTPUTS[i]
        values = values + (end_operation(t, values, params_ptr, OTHERS, ACTIVATIONS, INT8, i),)  # noqa: RUF005
        params_ptr += 4
    return values[len(KINDS)]


@triton.jit(do_not_specialize=["idle_looks", "second"])
def persistent_kernel(
    request_ptr, reply_ptr, control_ptr, set_ptr, rings_ptr, idle_looks, second,
    K: tl.constexpr, N: tl.constexpr, PADDED_K: tl.constexpr, MEMORY: tl.constexpr, KINDS: tl.constexpr,
    SOURCES: tl.constexpr, OTHERS: tl.constexpr, TILES: tl.constexpr, TAPS: tl.constexpr, HELD: tl.constexpr,
    DILATIONS: tl.constexpr, RINGS: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, OUTPUTS: tl.constexpr,
    INT8: tl.constexpr, ACTIVATIONS: tl.constexpr, SPARE: tl.constexpr, ASM: tl.constexpr,
    SET: tl.constexpr, PARAMS: tl.constexpr, SUMS: tl.constexpr, PAST: tl.constexpr, MESSAGE: tl.constexpr,
    LOOK: tl.constexpr,
):  # fmt: skip
    """One program; the number of a message is that of its column. MEMORY: for how many further time steps x reaches. PAST: where,
    behind the rings, the age and the NaN's steps are.
    SPARE: which of the sums is 0, where not all weights stay; else 0. SET: numbers of a set of weights: words, params from
    PARAMS on, and sums from SUMS on. A second set lies behind the first; a message names the one from which on it is computed.
    second: at the start."""
    k = tl.arange(0, MESSAGE)
    sequence = tl.full((), BEFORE, tl.int32)
    age, nonfinite = tl.load(rings_ptr + PAST), tl.load(rings_ptr + PAST + 1)
    named = second  # the set; below 0 once the kernel is to end
    while named >= 0:
        which = named & 1  # what the proof of indices sees
        tiles = load_tiles(set_ptr + which * SET, KINDS, TAPS, HELD, WORDS, OUTPUTS)
        if sequence == BEFORE:
            tl.store(control_ptr + 1, tl.full((), 1, tl.int64), cache_modifier=".wt")
        named = which
        while named == which:
            sequence += 1
            # An offset of 0, that only memory knows: else the registers keep every address of what is read again. At most 1 for
            # the proof of indices.
            shift = tl.load(set_ptr + SUMS + SPARE) & 1 if SPARE else 0
            words_at, rings_at = set_ptr + (which * SET + shift), rings_ptr + shift
            params_at, sums_at = words_at + PARAMS, words_at + SUMS
            pasts = past_sums(
                tiles, words_at, rings_at, sums_at, sequence, age, KINDS, TILES, TAPS, HELD, DILATIONS, RINGS, ROWS, WORDS,
                OUTPUTS, ASM,
            )  # fmt: skip
            message, end = wait(request_ptr, control_ptr, sequence, idle_looks, K + 1, MESSAGE, LOOK)
            payload = message.to(tl.int32)
            command = tl.sum(tl.where(k == K, payload, 0), 0)
            named = tl.where(end == 0, named_set(command, which), -1)
            if named < 0:
                tl.store(
                    rings_at + PAST, age
                )  # by an address of this time step: another would be kept through the loop
                tl.store(rings_at + PAST + 1, nonfinite)
                tl.store(control_ptr + 1, end, cache_modifier=".wt")
            elif named != which:
                sequence = order_after(
                    control_ptr, sequence
                )  # the same message again, which is still there, by the other set
            else:
                reset = (command & 1) != 0
                finite = tl.max(tl.where(k < K, payload & 0x7FFFFFFF, 0), 0) < INFINITY_BITS
                x = split(tl.where(k < K, payload, 0), PADDED_K, 1, MESSAGE)[0].to(tl.float32, bitcast=True)
                y = time_step(
                    tiles, words_at, pasts, x, rings_at, params_at, sums_at, sequence, reset, KINDS, SOURCES, OTHERS, TILES,
                    TAPS, HELD, RINGS, ROWS, WORDS, OUTPUTS, INT8, ACTIVATIONS, ASM,
                )  # fmt: skip
                nonfinite = tl.where(finite, tl.maximum(tl.where(reset, 0, nonfinite) - 1, 0), MEMORY + 1)
                answer(reply_ptr, tl.where(nonfinite == 0, y, float("nan")), sequence, N)
                age = tl.minimum(tl.where(reset, 0, age) + 1, MEMORY + 1)  # no reach is longer
                tl.debug_barrier()  # other threads read these columns with the next time step


def specialize(config: KernelConfig) -> Specialisation:
    """The kernel of a network; its name says what is in it."""
    shape = "-".join(
        f"{n}{f'k{t}d{d}' if t > 1 else ''}"
        for kind, n, t, d in zip(config.kinds, config.widths, config.taps, config.dilations)
        if kind == "layer"
    )
    warps, again = config.num_warps, "" if config.whole else "_streamed"
    return Specialisation(
        name=f"conv_persistent_{config.inputs}-{shape}{'_joined' if max(config.others, default=-1) >= 0 else ''}{again}",
        kernel=persistent_kernel,
        signature={
            "request_ptr": "*i64", "reply_ptr": "*i64", "control_ptr": "*i64", "set_ptr": "*i32",
            "rings_ptr": "*i32", "idle_looks": "i32", "second": "i32",
        },
        constants={
            **config.constants(), "ASM": not settings.triton_interpret(), "LOOK": SPINS_PER_LOOK.value,
            "MESSAGE": max(power_of_two(config.inputs + 1, 16, 1 << 20), 32 * warps),
        },
        tiling=Tiling(1, max(config.padded_outputs), 1, num_warps=warps),
        registers=THREAD_REGISTERS,  # it has its multiprocessor for itself
    )  # fmt: skip


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stages in (
        example((6, 16, 16, 16), 3, 2),
        example((40,) + (64,) * 6, 3, 8),
        example((128,) * 4, 8, 8, residual=False),
        example((128,) * 10, 3, 8),
    ):
        config = select_config(stages)
        assert isinstance(config, KernelConfig), config
        spec = specialize(config).with_requirements(
            GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, DROPS_CACHE, forbids=(SYSTEM_FENCE, FUSED)
        )
        yield replace(spec, slow=True)
