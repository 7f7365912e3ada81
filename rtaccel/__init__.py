"""rtaccel: machine-learning inference inside a microsecond budget.

Names are loaded when first used, so `import rtaccel` costs next to nothing and brings in no GPU library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "quantize_": "rtaccel.convert.module_swap.swap",
    "restore_": "rtaccel.convert.module_swap.swap",
    "load_quantized_": "rtaccel.convert.module_swap.load_quantized",
    "SwapReport": "rtaccel.convert.module_swap.swap",
    "sparsify_": "rtaccel.convert.pruning.sparsify",
    "SparsifyReport": "rtaccel.convert.pruning.sparsify",
    "keep_zeros": "rtaccel.convert.pruning.keep_zeros",
    "compile": "rtaccel.runtime.compiler",
    "CompiledModel": "rtaccel.runtime.compiled",
    "stream": "rtaccel.runtime.stream",
    "StreamModel": "rtaccel.runtime.stream",
    "Latest": "rtaccel.realtime.latest",
    "Loop": "rtaccel.realtime.loop",
    "Latency": "rtaccel.measure.latency",
    "Budget": "rtaccel.measure.budget",
    "Float32": "rtaccel.core.scheme",
    "BFloat16": "rtaccel.core.scheme",
    "Float8": "rtaccel.core.scheme",
    "W8A8": "rtaccel.core.scheme",
    "W8A16": "rtaccel.core.scheme",
    "W4A8": "rtaccel.core.scheme",
    "W4A16": "rtaccel.core.scheme",
    "Unstructured": "rtaccel.core.sparsity",
    "BlockSparse": "rtaccel.core.sparsity",
    "SemiStructured": "rtaccel.core.sparsity",
    "RtaccelError": "rtaccel.core.errors",
    "UnsupportedProblem": "rtaccel.core.errors",
    "ShapeError": "rtaccel.core.errors",
    "FormatError": "rtaccel.core.errors",
    "BackendUnavailable": "rtaccel.core.errors",
    "BudgetExceeded": "rtaccel.core.errors",
}
"""Public name -> module that defines it."""

_ROOMS = ("measure", "nn", "realtime")
"""Packages reached as attributes; `measure` is also a function (the package is callable)."""

__all__ = [
    "W4A8",
    "W4A16",
    "W8A8",
    "W8A16",
    "BFloat16",
    "BackendUnavailable",
    "BlockSparse",
    "Budget",
    "BudgetExceeded",
    "CompiledModel",
    "Float8",
    "Float32",
    "FormatError",
    "Latency",
    "Latest",
    "Loop",
    "RtaccelError",
    "SemiStructured",
    "ShapeError",
    "SparsifyReport",
    "StreamModel",
    "SwapReport",
    "Unstructured",
    "UnsupportedProblem",
    "compile",
    "keep_zeros",
    "load_quantized_",
    "measure",
    "nn",
    "quantize_",
    "realtime",
    "restore_",
    "sparsify_",
    "stream",
]
"""Written out: type checkers read it, and it says what is public."""

if TYPE_CHECKING:
    from rtaccel import nn, realtime
    from rtaccel.convert.module_swap.load_quantized import load_quantized_
    from rtaccel.convert.module_swap.swap import SwapReport, quantize_, restore_
    from rtaccel.convert.pruning.keep_zeros import keep_zeros
    from rtaccel.convert.pruning.sparsify import SparsifyReport, sparsify_
    from rtaccel.core.errors import (
        BackendUnavailable,
        BudgetExceeded,
        FormatError,
        RtaccelError,
        ShapeError,
        UnsupportedProblem,
    )
    from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, BFloat16, Float8, Float32
    from rtaccel.core.sparsity import BlockSparse, SemiStructured, Unstructured
    from rtaccel.measure.budget import Budget
    from rtaccel.measure.latency import Latency, measure
    from rtaccel.realtime.latest import Latest
    from rtaccel.realtime.loop import Loop
    from rtaccel.runtime.compiled import CompiledModel
    from rtaccel.runtime.compiler import compile
    from rtaccel.runtime.stream import StreamModel, stream


if not TYPE_CHECKING:  # a type checker is to see what is imported above, and to refuse every other name

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        elif name in _ROOMS:
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module 'rtaccel' has no attribute {name!r}")
        globals()[name] = value  # found once, then an ordinary attribute
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_ROOMS])
