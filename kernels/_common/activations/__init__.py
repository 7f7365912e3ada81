"""The activation functions an epilogue may hold, from one table that every language reads.

table.def names them, in order, with their formula in C++ and CUDA C++. <name>.py beside it has the rest of a row: the
meaning in plain torch, which the kernels are held to, the formulas of Triton and Numba, and the calls of ATen. A new
function is a line of table.def and such a file.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from rtaccel.core.stage import QParams
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common.activations.row import Row

ACTIVATIONS: tuple[str, ...] = tuple(
    re.findall(r"^RTA_ROW\(\w+, (\w+),", (Path(__file__).parent / "table.def").read_text(), re.MULTILINE)
)
"""The names. The place of a name is the number of its enumerator in C++ and CUDA C++, which include the same table."""

ROWS: dict[str, Row] = {name: import_module(f"{__name__}.{name}").ROW for name in ACTIVATIONS}

HOMOGENEOUS = frozenset(name for name, row in ROWS.items() if row.homogeneous)
"""f(c * t) = c * f(t) for c > 0: the scale of an int8 output folds into the multiplier before it."""


def apply(name: str, t: Tensor, parameter: float = 0.0) -> Tensor:
    """f(t), elementwise, in the dtype of `t`. Raises ValueError for a name that is not in the table."""
    if name not in ROWS:
        raise ValueError(f"no activation {name!r}; there are {', '.join(ACTIVATIONS)}")
    return ROWS[name].reference(t, parameter)


def before_int8(name: str, parameter: float, quant: QParams) -> str:
    """The function that has the same int8 results: a bound at which the numbers of `quant` end anyway is left out."""
    clips = ROWS[name].clips
    top = int(to_int8(torch.tensor(parameter), inverse_scale(quant), quant.zero_point)) if clips else 0
    return clips if clips is not None and top == 127 else name


def beyond_relu() -> list[tuple[str, float]]:
    """(name, a parameter) of all but none and relu, for the cases of an operator with an epilogue."""
    return [(name, row.example) for name, row in ROWS.items() if name not in ("none", "relu")]


def slope(name: str, parameter: float) -> float:
    """The largest |f'(t)|: an error of t is at most so many times as large in f(t)."""
    return max(ROWS[name].slope, abs(parameter))


def error(name: str, t: Tensor) -> Tensor:
    """Bound on |kernel - exact| for a float32 kernel: 8 units in the last place of max(|t|, 1).

    The homogeneous ones are exact up to the one product of leaky_relu, which rounds alike everywhere.
    """
    if name in HOMOGENEOUS:
        return torch.zeros_like(t)
    return 8 * torch.finfo(torch.float32).eps * t.abs().clamp(min=1.0)
