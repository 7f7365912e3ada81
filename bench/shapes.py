"""Reads `shapes.toml`: which sizes of which operator are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, operators
from rtaccel.core.stage import Problem, Quant, Stage, Value
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.pointwise import contract as pointwise
from rtaccel.kernels.quantize import contract as quantize

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

FILE = Path(__file__).parent / "shapes.toml"


def _quantize(k: int, scale: float | None = None, zero_point: int = 0) -> Stage:
    return quantize.make_stage(k, None if scale is None else Quant(scale, zero_point))


def _pointwise(c: int, activation: str, parameter: float = 0.0, affine: bool = False, residual: bool = False) -> Stage:
    return pointwise.make_stage(c, activation, parameter, affine, residual)


def _softmax(c: int) -> Stage:
    return Stage("softmax", "case", (Value("x", c),), (Value("y", c),))


MAKERS: dict[str, Callable[..., Stage]] = {
    "linear": linear.make_stage,
    "pointwise": _pointwise,
    "quantize": _quantize,
    "softmax": _softmax,
}
"""Operator -> a maker of its stage from a row of the file."""


def random_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Normal floats and int8 over its whole range, so that no multiplication is by a row of zeros. A row scale is positive."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for index, value in enumerate(stage.inputs):
        if value.dtype == "int8":
            found.append(torch.randint(-128, 128, (rows, value.width), generator=g, dtype=torch.int8))
        elif index and stage.inputs[0].dtype == "int8":
            found.append(torch.rand(rows, value.width, generator=g) * 0.02 + 1e-3)
        else:
            found.append(torch.randn(rows, value.width, generator=g))
    return tuple(found)


def cases() -> list[tuple[str, Case]]:
    """(operator, case) for every row of the file; for an operator without rows, the conformance case that moves most."""
    table: dict[str, list[dict[str, Any]]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    known = operators()
    if unknown := set(table) - set(known):
        raise FormatError("bench/shapes.toml", ", ".join(unknown), "operators: " + ", ".join(known), "Correct it.")
    found = []
    for name, operator in sorted(known.items()):
        rows = [_case(name, dict(row)) for row in table.get(name, [])]
        found += [(name, case) for case in rows or [max(operator.cases(), key=_bytes)]]
    return found


def _case(op: str, row: dict[str, Any]) -> Case:
    label, rows = row.pop("name"), row.pop("rows")
    stage = MAKERS[op](**row)
    return Case(label, stage, lambda seed: random_inputs(stage, rows, seed))


def _bytes(case: Case) -> int:
    rows = case.make(0)[0].shape[0]
    return operators()[case.stage.op].cost(Problem.of(case.stage, rows)).bytes
