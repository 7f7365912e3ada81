"""Messages for kernels of several programs: the first alone reads the mailbox, as words would cross the link for each program,
and passes x on as int8 words with a header: whether to reset, whether x holds a NaN or an infinity, whether to end, and from
which set of weights on to compute.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import pack_words, to_int8
from rtaccel.kernels._persistent.triton_exchange import poll, publish, split

INFINITY_BITS = tl.constexpr(0x7F800000)
HEADER_RESET, HEADER_SPOILED, HEADER_END = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)
RENEW, SECOND_BIT = tl.constexpr(16), tl.constexpr(5)
"""Of a command and of a header, as kernels/recurrent/cuda/recurrent.cu has it: other weights, and the bit that says which."""

ORDERS = tl.constexpr(1 + 16 + 32)
"""Bits of a command that go into a header as they are."""

NOT_A_COMMAND = tl.constexpr(256)

NO_CONTROL = tl.constexpr(-(1 << 62))
"""What the host never writes into the word that ends a kernel."""


@triton.jit
def quantized(message, inverse, zero_point, K: tl.constexpr):
    """(int8 words of a message's x, its header). The word after x is a command, or 0; one sum has it and what is not finite."""
    k = tl.arange(0, message.shape[0])
    payload = message.to(tl.int32)
    nonfinite = tl.where((payload & 0x7FFFFFFF) >= INFINITY_BITS, NOT_A_COMMAND, 0)
    found = tl.sum(tl.where(k < K, nonfinite, tl.where(k == K, payload, 0)), 0)
    header = (found & ORDERS) | tl.where(found >= NOT_A_COMMAND, HEADER_SPOILED, 0)
    q = to_int8(payload.to(tl.float32, bitcast=True) * inverse, zero_point).to(tl.int32)
    words = pack_words(tl.where(k < K, q, 0))
    return words, header


@triton.jit
def named_set(header, which):
    """The set of weights that a message names, or the one before."""
    return tl.where((header & RENEW) != 0, (header >> SECOND_BIT) & 1, which)


@triton.jit
def order_after(control_ptr, sequence):
    """Behind a message with other weights: what was written before it is seen, in the cache of the multiprocessor too. The number
    of the message before, from the one that is to be looked at again: what nobody reads, Triton 3.6 leaves out."""
    word = tl.atomic_add(control_ptr, 0, sem="acquire", scope="sys")
    return tl.where(word == NO_CONTROL, sequence, sequence - 1)


@triton.jit
def order_before(slot_ptr, header):
    """Before a message with other weights is passed on: whoever reads it behind an acquire sees what was written before it. The
    slot is the writer's own, in the card's memory: this is an atomic, and a link may have none."""
    if (header & RENEW) != 0:
        tl.atomic_add(slot_ptr, 0, sem="acq_rel", scope="sys")


@triton.jit
def pass_on(slot_ptr, words, header, sequence, WORDS: tl.constexpr):
    """The first WORDS int8 words of x, and the header after them."""
    own = tl.arange(0, words.shape[0])
    whole = (words.to(tl.int64) & 0xFFFFFFFF) | (sequence.to(tl.int64) << 32)
    tl.store(slot_ptr + own, whole, mask=own < WORDS, cache_modifier=".wt")
    publish(slot_ptr, WORDS, tl.zeros((1,), tl.int32) + header, sequence)


@triton.jit
def await_words(slot_ptr, sequence, WORDS: tl.constexpr, SIZE: tl.constexpr):
    """(words of x, one a thread or more, zeros beyond WORDS; header) that the first program passes on, however long that takes:
    it says when to end."""
    own = tl.arange(0, SIZE)
    words = tl.zeros((SIZE,), tl.int64)
    missing = tl.full((), 1, tl.int32)
    while missing != 0:
        words, missing = poll(slot_ptr, sequence, WORDS + 1, SIZE)
    payload = words.to(tl.int32)
    header = tl.sum(tl.where(own == WORDS, payload, 0), 0)
    return tl.where(own < WORDS, payload, 0), header


@triton.jit
def await_passed(slot_ptr, sequence, WORDS: tl.constexpr, CX: tl.constexpr, NX: tl.constexpr, SIZE: tl.constexpr):
    """The same with x in chunks."""
    words, header = await_words(slot_ptr, sequence, WORDS, SIZE)
    return split(words, CX, NX, SIZE), header
