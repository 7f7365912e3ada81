"""Numbers of the threads of a block: 32 bits each, or unknown where they come from memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.int64]
Flags = NDArray[np.bool_]
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Number:
    """bits: 0 to 2^32 - 1 of each thread, and what is carried out above that. known: of each thread."""

    bits: Bits
    known: Flags

    @classmethod
    def of(cls, value: int, threads: int) -> Number:
        return cls(np.full(threads, value & MASK, np.int64), np.ones(threads, bool))

    @classmethod
    def unknown(cls, threads: int) -> Number:
        return cls(np.zeros(threads, np.int64), np.zeros(threads, bool))

    @property
    def signed(self) -> Bits:
        return (self.bits ^ 0x80000000) - 0x80000000

    def chosen(self, other: Number, where: Flags) -> Number:
        """This one where `where`, else the other."""
        return Number(np.where(where, self.bits, other.bits), np.where(where, self.known, other.known))


@dataclass(frozen=True)
class Predicate:
    """true: of each thread; carries are 0 to 1."""

    true: Flags
    known: Flags

    @classmethod
    def of(cls, value: bool, threads: int) -> Predicate:
        return cls(np.full(threads, value), np.ones(threads, bool))

    def __invert__(self) -> Predicate:
        return Predicate(~self.true, self.known)

    def chosen(self, other: Predicate, where: Flags) -> Predicate:
        return Predicate(np.where(where, self.true, other.true), np.where(where, self.known, other.known))


def all_known(*values: Number | Predicate) -> Flags:
    return np.logical_and.reduce([value.known for value in values])


def made(bits: Bits, *of: Number | Predicate) -> Number:
    return Number(bits & MASK, all_known(*of))


def lut(table: int, a: Bits, b: Bits, c: Bits) -> Bits:
    """Each bit by a table of eight, as LOP3 has it."""
    result = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            term = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            result |= term
    return result & MASK


COMPARE = {
    "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
}  # fmt: skip
