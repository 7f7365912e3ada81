"""What a learner takes: models with features, outputs and labels as rows, heads of a state's size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online.arrays import F32, as_float32, describe, to_array
from rtaccel.online.rls import RLSHead
from rtaccel.online.ud_head import UdHead


def prepared(model: Any, example: Any, tap: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """What gives the output and the features: a torch model is tapped and compiled, others are called as they are."""
    if example is None:
        if options:
            raise FormatError("Adapt", f"options {sorted(options)}", "none without an example", "Pass example=.")
        if not callable(model):
            raise UnsupportedProblem("Adapt", describe(model), "a callable", "Pass a compiled model.")
        found: Callable[..., Any] = model if callable(tap) else _with_features(model, tap)
        return found
    from rtaccel.online.tap import tapped
    from rtaccel.runtime.compiler import compile

    compiled: Callable[..., Any] = compile(model if callable(tap) else tapped(model, tap), example, **options)
    return compiled


def _with_features(model: Any, tap: str) -> Any:
    """A compiled model with one output gets its features as a second one; what else there is has them."""
    runtime = sys.modules.get("rtaccel.runtime.compiled")
    if runtime is None or not isinstance(model, runtime.CompiledModel) or len(model._program.outputs) != 1:
        return model
    from rtaccel.online.tap import tapped

    return tapped(model, tap)


def rows_of(name: str, value: Any) -> F32:
    """[batch, ...] as [batch, n] float32, a copy: the model may write over its own memory."""
    array = np.array(to_array("Adapt", name, value, (None,)), dtype=np.float32)
    if array.ndim == 0:
        raise ShapeError("Adapt", f"{name} {describe(value)}", "[batch, ...]", "Keep the batch dimension.")
    return array.reshape(len(array), -1)


def labels_of(y_true: Any, like: F32) -> F32:
    array = to_array("Adapt.learn", "y_true", y_true, like.shape)
    if array.size != like.size or (array.ndim > 1 and len(array) != len(like)) or array.dtype.kind not in "fiub":
        raise ShapeError(
            "Adapt.learn", f"y_true {describe(y_true)}", f"{list(like.shape)}", "Pass the label of that call."
        )
    return as_float32("Adapt.learn", "y_true", array.reshape(like.shape), like.shape)


def sized_head(state: Mapping[str, Any]) -> UdHead:
    """A head as Adapt makes them, of the size of a state."""
    w = np.asarray(state.get("w"))
    if w.ndim != 2:
        raise FormatError("Adapt", "a state without w of a head", "w [outputs, features]", "Pass a state_dict().")
    return RLSHead(w.shape[1], w.shape[0])
