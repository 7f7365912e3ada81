"""The table of operators and kernels: every operator, and the kernels for GPUs that the registry has."""

from __future__ import annotations

import re
from pathlib import Path

from rtaccel.core.registry import impls, operators

ROOT = Path(__file__).parent.parent.parent
NAMES = re.compile(r"`(\w+)`")


def rows() -> list[tuple[list[str], str]]:
    """(operators, the cell of GPUs)"""
    lines = (ROOT / "docs/reference/kernels.md").read_text().split("| operator |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [(NAMES.findall(row[0]), row[-1]) for row in cells]


def test_every_operator_has_a_row() -> None:
    assert sorted(name for found, _ in rows() for name in found) == sorted(operators())


def test_kernels_of_gpus_are_those_that_there_are() -> None:
    for found, cell in rows():
        if not found or "](../how-to" in cell:  # a page of its own says more
            continue
        named = {n for n in NAMES.findall(cell.split("streams:")[0]) if n.startswith(("triton", "cuda"))}
        registered = {
            i.name for op in found for backend in ("triton", "cuda", "numba_cuda") for i in impls(backend, op)
        }
        assert named == registered, found
