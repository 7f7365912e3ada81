"""Wavefronts of a kernel's loads, from its machine code: each LDG with the addresses of all threads, as machine.py finds them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from tests.triton_checks.sass.machine import BASE_BITS, Load, Machine
from tests.triton_checks.ttir.wavefronts import LANES, LINE, Counted

FIRST_PARAMETER = 0x210
"""Of the constant bank, on compute capability 9.0."""

SIZES = {"i64": 8, "fp64": 8}


def constants(signature: Mapping[str, str], scalars: Mapping[str, Any]) -> tuple[dict[int, int], list[str]]:
    """(the constant bank by byte, pointers in the order of their bases). Floats are unknown."""
    bank: dict[int, int] = {}
    pointers: list[str] = []
    at = FIRST_PARAMETER
    for name, kind in signature.items():
        size = 8 if kind.startswith("*") else SIZES.get(kind, 4)
        at = -(-at // size) * size
        if kind.startswith("*"):
            pointers.append(name)
            base = len(pointers) << BASE_BITS
            bank[at], bank[at + 4] = base & 0xFFFFFFFF, base >> 32
        elif not kind.startswith("fp"):
            value = int(scalars[name])
            bank[at] = value & 0xFFFFFFFF
            if size == 8:
                bank[at + 4] = value >> 32 & 0xFFFFFFFF
        at += size
    return bank, pointers


def count(load: Load, into: Counted) -> None:
    """As wavefronts.py counts: phases of 128 bytes, each of as many wavefronts as it has lines."""
    lanes = min(LANES, LINE // load.size)
    into.widest = max(into.widest, load.size)
    at, active = load.at.reshape(-1, LANES), load.active.reshape(-1, LANES)
    for warp, lane in product(range(at.shape[0]), range(0, LANES, lanes)):
        asked = at[warp, lane : lane + lanes][active[warp, lane : lane + lanes]]
        if asked.size:
            into.taken += np.unique(asked // LINE).size
            into.least += -(-np.unique(asked).size * load.size // LINE)


def counted(
    text: str, warps: int, signature: Mapping[str, str], scalars: Mapping[str, Any], programs: list[tuple[int, int, int]],
    tables: Mapping[str, bytes] | None = None,
) -> tuple[dict[str, Counted], int]:  # fmt: skip
    """(wavefronts by argument in these programs, loads of unknown addresses). tables: what is in the memory of arguments."""
    bank, pointers = constants(signature, scalars)
    found: dict[str, Counted] = {}
    lost = 0
    memory = {pointers.index(name): of for name, of in (tables or {}).items()}
    for ids in programs:
        machine = Machine(text, LANES * warps, bank, ids, memory)
        machine.run()
        lost += machine.lost
        met: dict[str, set[int]] = {}
        for load in machine.loads:
            argument = pointers[load.argument]
            count(load, found.setdefault(argument, Counted()))
            met.setdefault(argument, set()).update(np.unique(load.at[load.active] // LINE).tolist())
        for argument, lines in met.items():
            found[argument].lines += len(lines)
    return found, lost
