"""What instructions do to numbers and predicates, by the first part of their names; those of uniform registers do the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tests.triton_checks.sass.instructions import Instruction, behind
from tests.triton_checks.sass.machine import Machine
from tests.triton_checks.sass.values import COMPARE, MASK, Bits, Flags, Number, Predicate, all_known, lut, made

Operation = Callable[[Machine, Instruction, Flags], None]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    def add(of: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys((*names, *(f"U{name}" for name in names)), of))
        return of

    return add


def _outs(m: Machine, i: Instruction) -> tuple[str, list[str], list[str]]:
    """(register, predicates behind it that are written, other operands)."""
    register, rest = i.operands[0], list(i.operands[1:])
    outs = []
    while rest and re.match(r"^U?P[\dT]$", rest[0]) and len(rest) > 3:
        outs.append(rest.pop(0))
    return register, outs, rest


@operation("MOV")
def _mov(m: Machine, i: Instruction, where: Flags) -> None:
    m.put(i.operands[0], m.number(i.operands[1]), where)


@operation("R2UR")
def _uniform(m: Machine, i: Instruction, where: Flags) -> None:
    m.put(i.operands[0], m.number(i.operands[-1]), where)


@operation("S2R", "S2UR")
def _special(m: Machine, i: Instruction, where: Flags) -> None:
    name = i.operands[1]
    if name == "SR_TID.X":
        m.put(i.operands[0], Number(np.arange(m.threads, dtype=np.int64), np.ones(m.threads, bool)), where)
    elif name == "SR_CgaCtaId":
        m.put(i.operands[0], Number.of(0, m.threads), where)
    elif name in m.ids:
        m.put(i.operands[0], Number.of(m.ids[name], m.threads), where)
    else:
        m.put(i.operands[0], Number.unknown(m.threads), where)


OPERATIONS["S2UR"] = _special


@operation("CS2R")
def _zeros(m: Machine, i: Instruction, where: Flags) -> None:
    for n in range(1 if "32" in i.parts else 2):
        m.put(behind(i.operands[0], n), m.number(i.operands[1]), where)


@operation("LDC")
def _constant(m: Machine, i: Instruction, where: Flags) -> None:
    bank = re.match(r"^c\[0x0\]\[(0x[0-9a-f]+)\]$", i.operands[1])
    for n in range(2 if "64" in i.parts else 1):
        found = m.constant(int(bank[1], 16) + 4 * n) if bank else Number.unknown(m.threads)
        m.put(behind(i.operands[0], n), found, where)


@operation("HFMA2")
def _halves(m: Machine, i: Instruction, where: Flags) -> None:
    """-RZ * RZ and a constant: two numbers of 16 bits."""
    if i.operands[1:3] != ("-RZ", "RZ"):
        m.forget(i, where)
        return
    high, low = (int(np.float16(float(text)).view(np.uint16)) for text in i.operands[3:5])
    m.put(i.operands[0], Number.of(high << 16 | low, m.threads), where)


@operation("IADD3", "VIADD")
def _add(m: Machine, i: Instruction, where: Flags) -> None:
    register, outs, rest = _outs(m, i)
    count = 2 if i.parts[0] == "VIADD" else 3
    carries = [m.predicate(name) for name in rest[count:]] if "X" in i.parts else []
    terms = [m.number(name) for name in rest[:count]]
    total = _sum(m, *(t.bits for t in terms), *(c.true.astype(np.int64) for c in carries))
    known = all_known(*terms, *carries)
    m.put(register, Number(total & MASK, known), where)
    for n, out in enumerate(outs):
        m.put_predicate(out, Predicate(total >> 32 > n, known), where)


def _sum(m: Machine, *terms: Bits) -> Bits:
    return sum(terms, np.zeros(m.threads, np.int64))


@operation("IMAD")
def _multiply(m: Machine, i: Instruction, where: Flags) -> None:
    register, _, rest = _outs(m, i)
    a, b = m.number(rest[0]), m.number(rest[1])
    unsigned = "U32" in i.parts
    x, y = (a.bits & MASK, b.bits & MASK) if unsigned else (_signed(a), _signed(b))
    if "WIDE" in i.parts:
        bits, known = m.wide(rest[2])
        m.put_wide(register, x * y + bits, known & all_known(a, b), where)
        return
    c = m.number(rest[2])
    if "HI" in i.parts:
        m.put(register, made((x * y >> 32) + c.bits, a, b, c), where)
        return
    carries = [m.predicate(name) for name in rest[3:4]] if "X" in i.parts else []
    total = (a.bits & MASK) * _signed(b) + _sum(m, c.bits, *(p.true.astype(np.int64) for p in carries))
    m.put(register, made(total, a, b, c, *carries), where)


def _signed(value: Number) -> Bits:
    return Number(value.bits & MASK, value.known).signed


@operation("LEA")
def _shifted_sum(m: Machine, i: Instruction, where: Flags) -> None:
    register, outs, rest = _outs(m, i)
    a, b = m.number(rest[0]), m.number(rest[1])
    if "HI" not in i.parts:
        shift = int(rest[2], 0)
        low = (a.bits & MASK) << shift & MASK
        total = low + b.bits
        m.put(register, made(total, a, b), where)
        for out in outs:
            m.put_predicate(out, Predicate(total >> 32 > 0, all_known(a, b)), where)
        return
    if "SX32" in i.parts:
        shift, carries = int(rest[2], 0), rest[3:4]
        high = _signed(a) << shift >> 32
        of: list[Number | Predicate] = [a, b]
    else:
        c, shift, carries = m.number(rest[2]), int(rest[3], 0), rest[4:5]
        high = ((c.bits & MASK) << shift & MASK) | ((a.bits & MASK) >> (32 - shift))
        of = [a, b, c]
    added = [m.predicate(name) for name in carries] if "X" in i.parts else []
    total = _sum(m, high, b.bits, *(p.true.astype(np.int64) for p in added))
    m.put(register, made(total, *of, *added), where)


@operation("SHF")
def _funnel(m: Machine, i: Instruction, where: Flags) -> None:
    low, shift, high = (m.number(name) for name in i.operands[1:4])
    s = shift.bits & 63
    both = (high.bits & MASK) << 32 | (low.bits & MASK)
    if "L" in i.parts:
        bits = (both << s >> 32) if "HI" in i.parts else (low.bits & MASK) << np.minimum(s, 32)
        of = (low, high, shift) if "HI" in i.parts else (low, shift)
    elif "HI" in i.parts:
        bits, of = (_signed(high) >> np.minimum(s, 31) if "S32" in i.parts else (high.bits & MASK) >> s), (high, shift)
    else:
        top = _signed(high) if "S64" in i.parts else high.bits & MASK
        bits, of = ((top << 32 | (low.bits & MASK)) >> s), (low, high, shift)
    m.put(i.operands[0], made(bits, *of), where)


@operation("LOP3")
def _logic(m: Machine, i: Instruction, where: Flags) -> None:
    operands = list(i.operands)
    out = operands.pop(0) if re.match(r"^U?P[\dT]$", operands[0]) else None
    a, b, c = (m.number(name) for name in operands[1:4])
    bits, known = lut(int(operands[4], 0), a.bits, b.bits, c.bits), all_known(a, b, c)
    m.put(operands[0], Number(bits, known), where)
    if out is not None:
        m.put_predicate(out, Predicate(bits != 0, known), where)


@operation("SGXT")
def _extend(m: Machine, i: Instruction, where: Flags) -> None:
    a, width = m.number(i.operands[1]), int(i.operands[2], 0)
    bits = a.bits & ((1 << width) - 1)
    if "U32" not in i.parts:
        bits = (bits ^ (1 << (width - 1))) - (1 << (width - 1))
    m.put(i.operands[0], made(bits, a), where)


@operation("PRMT")
def _bytes(m: Machine, i: Instruction, where: Flags) -> None:
    a, select, c = (m.number(name) for name in i.operands[1:4])
    both = (c.bits & MASK) << 32 | (a.bits & MASK)
    bits = np.zeros(m.threads, np.int64)
    for n in range(4):
        nibble = select.bits >> (4 * n) & 15
        byte = both >> (8 * (nibble & 7)) & 255
        bits |= np.where(nibble & 8, np.where(byte & 128, 255, 0), byte) << (8 * n)
    m.put(i.operands[0], made(bits, a, select, c), where)


@operation("SEL")
def _select(m: Machine, i: Instruction, where: Flags) -> None:
    a, b, by = m.number(i.operands[1]), m.number(i.operands[2]), m.predicate(i.operands[3])
    chosen = a.chosen(b, by.true)
    m.put(i.operands[0], Number(chosen.bits, chosen.known & by.known), where)


@operation("VIMNMX")
def _least(m: Machine, i: Instruction, where: Flags) -> None:
    if "S16x2" in i.parts:
        m.forget(i, where)
        return
    a, b, by = m.number(i.operands[1]), m.number(i.operands[2]), m.predicate(i.operands[3])
    x, y = (a.bits, b.bits) if "U32" in i.parts else (_signed(a), _signed(b))
    m.put(i.operands[0], made(np.where(by.true, np.minimum(x, y), np.maximum(x, y)), a, b, by), where)


@operation("VIADDMNMX")
def _sum_or_limit(m: Machine, i: Instruction, where: Flags) -> None:
    a, b, c = (m.number(name) for name in i.operands[1:4])
    by = m.predicate(i.operands[4])
    total = Number(a.bits + b.bits & MASK, all_known(a, b))
    x, y = (total.bits, c.bits & MASK) if "U32" in i.parts else (total.signed, _signed(c))
    m.put(i.operands[0], made(np.where(by.true, np.minimum(x, y), np.maximum(x, y)), total, c, by), where)


@operation("ISETP")
def _compare(m: Machine, i: Instruction, where: Flags) -> None:
    outs, rest = i.operands[:2], i.operands[2:]
    a, b, with_it = m.number(rest[0]), m.number(rest[1]), m.predicate(rest[2])
    x, y = (a.bits & MASK, b.bits & MASK) if "U32" in i.parts else (_signed(a), _signed(b))
    how = i.parts[1]
    true, of = COMPARE[how](x, y), [a, b]
    known = all_known(*of)
    if "EX" in i.parts:  # the high halves, behind what the low ones said
        below = m.predicate(rest[3])
        strict = {"GE": np.greater, "GT": np.greater, "LE": np.less, "LT": np.less}.get(how)
        true = (
            {"EQ": (x == y) & below.true, "NE": (x != y) | below.true}[how]
            if strict is None
            else (strict(x, y) | ((x == y) & below.true))
        )
        known = known & below.known
    if "OR" in i.parts:
        total, sure = true | with_it.true, (known & with_it.known) | (known & true) | (with_it.known & with_it.true)
    else:
        total, sure = true & with_it.true, (known & with_it.known) | (known & ~true) | (with_it.known & ~with_it.true)
    m.put_predicate(outs[0], Predicate(total, sure), where)
    m.put_predicate(outs[1], Predicate(~true & with_it.true, known & with_it.known), where)


@operation("PLOP3")
def _logic_of_predicates(m: Machine, i: Instruction, where: Flags) -> None:
    a, b, c = (m.predicate(name) for name in i.operands[2:5])
    for out, table in zip(i.operands[:2], i.operands[5:7]):
        bits = lut(int(table, 0), *(p.true * np.int64(MASK) for p in (a, b, c)))
        m.put_predicate(out, Predicate(bits != 0, all_known(a, b, c)), where)


@operation("P2R")
def _pack(m: Machine, i: Instruction, where: Flags) -> None:
    found = [m.predicate(f"P{n}") for n in range(7)]
    mask = int(i.operands[3], 0)
    bits = _sum(m, *(p.true.astype(np.int64) << n for n, p in enumerate(found) if mask >> n & 1))
    m.put(i.operands[0], made(bits, *(p for n, p in enumerate(found) if mask >> n & 1)), where)


@operation("R2P")
def _unpack(m: Machine, i: Instruction, where: Flags) -> None:
    a, mask = m.number(i.operands[1]), int(i.operands[2], 0)
    for n in range(7):
        if mask >> n & 1:
            m.put_predicate(f"P{n}", Predicate(a.bits >> n & 1 == 1, a.known), where)
