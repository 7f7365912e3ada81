"""How many wavefronts a warp takes to read weights from shared memory into the registers that wgmma multiplies from, by TTGIR.

`ldmatrix` reads pieces of 8 rows of 16 bytes, and shared memory answers each in as many wavefronts as the most of its words of 4
bytes that lie in one of 32 banks. Where a byte lies is in TTGIR: rows are swizzled, `vec` elements at a time, by their number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

BANKS, WORD, ROWS, PIECE = 32, 4, 8, 16

_LOADED = re.compile(
    r"ttg\.local_load .*memdesc<(\d+)x(\d+)xi16, (#\w+),.*"
    r"-> tensor<\S+ #ttg\.dot_op<\{opIdx = 0, parent = (#\w+), kWidth = (\d+)\}>>"
)


@dataclass(frozen=True)
class Swizzled:
    """Bytes of a row are in order but for pieces of vec bytes, which row r has at piece ^ (r / per_phase % max_phase)."""

    vec: int
    per_phase: int
    max_phase: int

    def at(self, row: int, byte: int, width: int) -> int:
        piece, rest = divmod(byte, self.vec)
        return row * width + (piece ^ (row // self.per_phase % self.max_phase)) * self.vec + rest


@dataclass(frozen=True)
class Loads:
    """Of a warp: `ldmatrix` of four pieces, and the wavefronts of all of its pieces."""

    loads: int
    wavefronts: int


def wavefronts_of(where: Swizzled, rows: int, width: int, warps: int) -> Loads:
    """Of a warp that reads its part of a tile of bytes [rows, width]."""
    taken = []
    for first in range(0, rows // warps, ROWS):
        for block in range(0, width, PIECE):
            banks = np.zeros(BANKS, dtype=int)
            for row in range(first, first + ROWS):
                for byte in range(block, block + PIECE, WORD):
                    banks[where.at(row, byte, width) // WORD % BANKS] += 1
            taken.append(banks.max())
    return Loads(len(taken) // 4, int(sum(taken)))


def of_weights(ttgir: str, warps: int) -> Loads:
    """The loads of int8 or int4 weights in a kernel's loop, for compute capability 9.0."""
    found = _LOADED.search(ttgir)
    assert found is not None
    rows, width, shared, mma, together = found.groups()
    assert together == "2"  # as wgmma and ldmatrix have it: words of two elements
    assert re.search(
        rf"^{mma} = #ttg\.nvidia_mma<\{{versionMajor = 3,.*warpsPerCTA = \[{warps}, 1\]", ttgir, re.MULTILINE
    )
    layout = re.search(
        rf"^{shared} = #ttg\.swizzled_shared<\{{vec = (\d+), perPhase = (\d+), maxPhase = (\d+), order = \[1, 0\]", ttgir,
        re.MULTILINE,
    )  # fmt: skip
    assert layout is not None
    vec, per_phase, max_phase = map(int, layout.groups())
    return wavefronts_of(Swizzled(2 * vec, per_phase, max_phase), int(rows), 2 * int(width), warps)
