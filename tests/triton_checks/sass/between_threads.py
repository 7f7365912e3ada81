"""What threads tell each other: shuffles, sums and votes of a warp, and shared memory."""

from __future__ import annotations

import numpy as np

from tests.triton_checks.sass.instructions import WIDTHS, Instruction, behind
from tests.triton_checks.sass.machine import SHARED_WORDS, Machine
from tests.triton_checks.sass.operations import operation
from tests.triton_checks.sass.values import MASK, Flags, Number, Predicate

LANES = 32


@operation("SHFL")
def _shuffled(m: Machine, i: Instruction, where: Flags) -> None:
    register, a, by = i.operands[1], m.number(i.operands[2]), m.number(i.operands[3])
    lane = np.arange(m.threads) % LANES
    if i.parts[1] not in ("BFLY", "IDX"):
        m.forget(i, where)
        return
    source = np.arange(m.threads) - lane + ((lane ^ by.bits) if i.parts[1] == "BFLY" else by.bits) % LANES
    m.put(register, Number(a.bits[source], a.known[source] & by.known), where)


@operation("REDUX")
def _of_a_warp(m: Machine, i: Instruction, where: Flags) -> None:
    of = {"MAX": np.max, "MIN": np.min, "SUM": np.sum}.get(i.parts[1])
    a = m.number(i.operands[1])
    if of is None:
        m.forget(i, where)
        return
    values = (a.signed if "S32" in i.parts else a.bits).reshape(-1, LANES)
    bits, known = of(values, axis=1), a.known.reshape(-1, LANES).all(1)
    m.put(i.operands[0], Number(np.repeat(bits, LANES) & MASK, np.repeat(known, LANES)), where)


@operation("VOTE")
def _vote(m: Machine, i: Instruction, where: Flags) -> None:
    p = m.predicate(i.operands[-1])
    if i.parts[1] != "ANY" or not i.operands[0].lstrip("U").startswith("P"):
        m.forget(i, where)
        return
    any_ = (p.true & where).reshape(-1, LANES).any(1)
    m.put_predicate(
        i.operands[0], Predicate(np.repeat(any_, LANES), np.repeat(p.known.reshape(-1, LANES).all(1), LANES)), where
    )


def _shared_words(i: Instruction) -> int:
    return max(max((WIDTHS[p] for p in i.parts if p in WIDTHS), default=4) // 4, 1)


@operation("STS")
def _store_shared(m: Machine, i: Instruction, where: Flags) -> None:
    at, known = m.place(i.operands[0])
    if not known[where].all():  # anywhere
        m.shared = Number(m.shared.bits, np.zeros(SHARED_WORDS, bool))
        return
    for n in range(_shared_words(i)):
        value = m.number(behind(i.operands[1], n))
        whole = not set(i.parts) & {"U8", "U16", "S8", "S16"}
        m.shared.bits[at[where] + n] = value.bits[where] & MASK
        m.shared.known[at[where] + n] = value.known[where] & whole


@operation("LDS")
def _load_shared(m: Machine, i: Instruction, where: Flags) -> None:
    at, known = m.place(i.operands[1])
    whole = not set(i.parts) & {"U8", "U16", "S8", "S16"}
    for n in range(_shared_words(i)):
        place = np.minimum(at + n, SHARED_WORDS - 1)
        m.put(behind(i.operands[0], n), Number(m.shared.bits[place], m.shared.known[place] & known & whole), where)
