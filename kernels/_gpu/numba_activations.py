"""The activation functions in Numba: `activate`, made from those rows of kernels/_common/activations that have a formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtaccel.kernels._common.activations import ACTIVATIONS, ROWS
from rtaccel.kernels._gpu.numba_alias import cuda


def missing(name: str) -> str | None:
    """None, or a sentence saying that Numba has no such function."""
    return None if name in ROWS and ROWS[name].numba is not None else f"has no {name}"


def number(name: str) -> int:
    """What `activate` knows it by."""
    return ACTIVATIONS.index(name)


def source() -> str:
    """Of `activate`: one value is computed for an output, so the branches may be taken at run time."""
    branches = "".join(
        f"    if kind == {number(name)}:\n        return {row.numba}\n"
        for name, row in ROWS.items()
        if row.numba is not None and row.numba != "t"
    )
    return f"def activate(kind, parameter, t):\n{branches}    return t\n"


def _compiled() -> Any:
    scope: dict[str, Any] = {}
    exec(compile(source(), "<the activations of rtaccel>", "exec"), {"FLOAT32": np.float32}, scope)
    return cuda.jit(device=True)(scope["activate"])


activate = _compiled()
