"""A vector that the programs of one launch compute in parts and all of them read: words that say themselves that they are there.

Every word is 8 bytes, payload below and sequence number above, stored at once: whoever reads the number he waits for has the
payload. So nothing needs a counter, a fence or a barrier of the grid, and a value is one store and one load away from whoever
needs it. (With a counter, it would be a store, a fence, an atomic, a poll and then the load; and an acquire empties the cache of
the multiprocessor, where weights may be.)

There are two slots, taken in turn by the number: whoever writes number n has read all of n - 1, which its writer wrote after he
had read all of n - 2; so nobody still needs what is overwritten. Numbers go on from launch to launch: `first` reads where the
last launch ended, `finish` writes it, by the program that ends last.

All programs of a launch must be on the device at once, as they wait for each other: a cooperative launch. A word that does not
come within LIMIT looks is given up, so that an error is a NaN and no hang. Polls take one element a thread and end on a sum
over all of them: see triton_mailbox.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOOKS = tl.constexpr(1 << 22)
"""Looks for a word, each some hundred nanoseconds, before it is given up."""


@triton.jit
def publish(slot_ptr, first, words, sequence):
    """Stores this program's int32 words [W] from word `first` on."""
    w = tl.arange(0, words.shape[0])
    whole = (words.to(tl.int64) & 0xFFFFFFFF) | (sequence.to(tl.int64) << 32)
    tl.store(slot_ptr + first + w, whole, cache_modifier=".wt")


@triton.jit
def poll(slot_ptr, sequence, WORDS: tl.constexpr, THREADS: tl.constexpr):
    """(a word for each thread, how many of WORDS are not there)."""
    own = tl.arange(0, THREADS)
    mine = own < WORDS
    words = tl.load(slot_ptr + own, mask=mine, other=0, volatile=True)
    return words, tl.sum((mine & ((words >> 32).to(tl.int32) != sequence)).to(tl.int32), 0)


@triton.jit
def receive_words(slot_ptr, sequence, WORDS: tl.constexpr, THREADS: tl.constexpr):
    """(the payloads, one a thread, zeros beyond WORDS; how many words never came)."""
    words = tl.zeros((THREADS,), tl.int64)
    missing, looks = tl.full((), 1, tl.int32), 0
    while (missing != 0) & (looks < LOOKS):
        words, missing = poll(slot_ptr, sequence, WORDS, THREADS)
        looks += 1
    return words.to(tl.int32), missing


@triton.jit
def receive(slot_ptr, sequence, WORDS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, THREADS: tl.constexpr):
    """(the payloads as CHUNKS tensors of CHUNK words, zeros beyond WORDS; how many words never came)."""
    words, missing = receive_words(slot_ptr, sequence, WORDS, THREADS)
    return split(words, CHUNK, CHUNKS, THREADS), missing


@triton.jit
def split(words, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, THREADS: tl.constexpr):
    """One word a thread, zeros beyond the last -> CHUNKS tensors of CHUNK words that every warp has."""
    if THREADS > CHUNK * CHUNKS:  # sums over parts that hold nothing
        words = tl.sum(tl.trans(tl.reshape(words, (THREADS // (CHUNK * CHUNKS), CHUNK * CHUNKS))), 1)
    if CHUNKS == 1:
        chunks = (words,)
    elif CHUNKS == 2:
        chunks = tl.split(tl.trans(tl.reshape(words, (2, CHUNK))))
    else:
        parts, at, chunks = tl.reshape(words, (CHUNKS, CHUNK)), tl.arange(0, CHUNKS)[:, None], ()
        for i in tl.static_range(CHUNKS):
            chunks = chunks + (tl.sum(tl.where(at == i, parts, 0), 0),)  # noqa: RUF005
    return chunks


@triton.jit
def finish(sync_ptr, PROGRAMS: tl.constexpr, after):
    """Counts this program as done. sync: int32 [2], programs done and the number to begin with; the last one resets both."""
    if tl.atomic_add(sync_ptr, 1, sem="acq_rel", scope="gpu") == PROGRAMS - 1:
        tl.store(sync_ptr + 1, after)
        tl.store(sync_ptr, 0)
