"""The kernel's side of a mailbox: how a persistent kernel on the GPU waits for x in the host's memory and answers there.

The messages are those of rta_mailbox.h: 8-byte words of payload and sequence number. Each thread polls a word of its own, so
that a word crosses the link once; what ends the loop is a sum over all threads, which passes through shared memory and is the
same for every thread. A scalar poll would run in every thread, and threads that read at different moments would part ways at
the next barrier. Scalars (the abort word) are read by an atomic of one thread, every SPINS_PER_LOOK spins.

Nothing needs a fence: a word is whole or not there. Loads are volatile and stores write through (`.wt`), to the system.

control words, int64: [0] abort (from the host: not 0 asks the kernel to end), [1] state (from the kernel: 1 running, 2 ended by
abort, 3 ended because nobody called for `idle_looks` looks, 0 for no limit), [2] looks since the last message, which tell a
waiting host that the kernel is alive. No atomic changes host memory, for which a link may have no operation.
"""

from __future__ import annotations

import triton
import triton.language as tl

SPINS_PER_LOOK = tl.constexpr(1024)
RUNNING, ABORTED, IDLE = 1, 2, 3

BEFORE = tl.constexpr(0)
"""The number before that of the first message. Numbers are of 32 bits and go on behind the last: a test begins just before it."""


@triton.jit
def wait(
    request_ptr, control_ptr, sequence, idle_looks, WORDS: tl.constexpr, THREADS: tl.constexpr, LOOK: tl.constexpr
):
    """(the words of message `sequence`, one per thread, 0 or the state in which to end)."""
    own = tl.arange(0, THREADS)
    mine = own < WORDS
    at = request_ptr + (sequence & 1) * WORDS + own
    words = tl.load(at, mask=mine, other=0, volatile=True)
    missing = tl.sum((mine & ((words >> 32).to(tl.int32) != sequence)).to(tl.int32), 0)
    spins = 0
    looks, end = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64)
    while (missing != 0) & (end == 0):
        words = tl.load(at, mask=mine, other=0, volatile=True)
        missing = tl.sum((mine & ((words >> 32).to(tl.int32) != sequence)).to(tl.int32), 0)
        spins += 1
        if spins == LOOK:
            spins = 0
            looks += 1
            tl.store(control_ptr + 2, looks, cache_modifier=".wt")
            if tl.atomic_add(control_ptr, 0, sem="relaxed", scope="sys") != 0:
                end += 2
            elif (idle_looks > 0) & (looks >= idle_looks):
                end += 3
    return words, end


@triton.jit
def answer(reply_ptr, y, sequence, N: tl.constexpr, first=0):
    """Stores float32 y [N padded] as the reply to message `sequence`, or as its part from number `first` on."""
    n = first + tl.arange(0, y.shape[0])
    low = y.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    word = low | (sequence.to(tl.int64) << 32)
    tl.store(reply_ptr + (sequence & 1) * N + n, word, mask=n < N, cache_modifier=".wt")
