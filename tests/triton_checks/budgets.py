"""The budget file: what the code of every kernel costs, per version of triton and architecture.

    budgets.json: {"3.9": {"linear_gemv_...": {"80": [registers, shared bytes, barriers, instructions], ...}, ...}, ...}

A version that is not in it is held to the most that any recorded one needs.
"""

from __future__ import annotations

import json
from pathlib import Path

import triton

from rtaccel.kernels._shared.triton_aot import Allowed

FILE = Path(__file__).parent / "budgets.json"
VERSION = ".".join(triton.__version__.split(".")[:2])
NEEDS = {110: (3, 7)}
"""Architectures that the assembler of an older triton does not know."""


def known(capability: int) -> bool:
    """Whether this triton compiles for the architecture at all."""
    return tuple(map(int, VERSION.split("."))) >= NEEDS.get(capability, (0,))


def read() -> dict[str, dict[str, dict[str, list[int]]]]:
    found: dict[str, dict[str, dict[str, list[int]]]] = json.loads(FILE.read_text())
    return found


def allowed(name: str, capability: int) -> Allowed | None:
    """For this version of triton; None where the kernel is not in the file."""
    recorded = read()
    rows = [recorded[VERSION]] if VERSION in recorded else list(recorded.values())
    found = [row[name][str(capability)] for row in rows if str(capability) in row.get(name, {})]
    return Allowed(*map(max, zip(*found))) if found else None
