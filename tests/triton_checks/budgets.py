"""The budget file: what the code of every kernel costs, per version of triton and architecture.

    budgets.json: {"3.9": {"linear_gemv_...": {"80": [registers, shared bytes, barriers, instructions], ...}, ...}, ...}

A version that is not in it is held to the most that any recorded one needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton

from rtaccel.kernels._gpu.triton_aot import Allowed, Footprint

FILE = Path(__file__).parent / "budgets.json"
INSTRUCTIONS = FILE.with_name("instructions.json")
"""{"3.9": {"linear_gemv_...": {"80": "dp4a 8, 16-byte loads 4", ...}, ...}, ...}: for the page, not a budget."""

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


FAMILIES = {
    "mma": r"[IHQO]MMA", "wgmma": r"[IHQ]GMMA", "tcgen05": r"UTC\w*MMA", "dp4a": r"IDP\.4A", "fma": "FFMA|HFMA",
    "16-byte loads": r"LDG\..*128", "copies to shared memory": "LDGSTS|UTMALDG|UBLKCP", "system loads": r"LDG\..*STRONG\.SYS",
    "atomics": r"ATOM|REDG?\b",
}  # fmt: skip
"""What the page tells apart: tensor cores of three generations, products, and ways to memory."""


def families(found: Footprint) -> str:
    counted = ((name, found.count(pattern)) for name, pattern in FAMILIES.items())
    return ", ".join(f"{name} {n}" for name, n in counted if n)


def write(file: Path, rows: Mapping[str, Mapping[str, Any]], keep: bool) -> None:
    """Puts what was found with this version of triton beside what is there of others; keep: and of other kernels."""
    recorded = json.loads(file.read_text()) if file.exists() else {}
    recorded[VERSION] = {**(recorded.get(VERSION, {}) if keep else {}), **rows}
    lines = []
    for version in sorted(recorded):
        kernels = [f'  "{name}": {json.dumps(recorded[version][name])}' for name in sorted(recorded[version])]
        lines.append(f' "{version}": {{\n' + ",\n".join(kernels) + "\n }")
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
