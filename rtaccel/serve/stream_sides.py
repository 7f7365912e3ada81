"""The stream of a batcher: a compiled one with torch's tensors, or one from a file with NumPy's arrays and no torch."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.deploy.loaded_model import LoadedModel


class LoadedSide:
    """A stream of `rt.load`. native: its native model; row, dtype: what one stream takes; output: (dtype, shape) of what it
    gives."""

    def __init__(self, model: LoadedModel) -> None:
        if not model.streams:
            raise UnsupportedProblem(
                "StreamBatcher",
                f"{model.name}, a model without a past",
                "a stream",
                "Its rows need no batcher: call it.",
            )
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise UnsupportedProblem(
                "StreamBatcher", f"{model.name} of several tensors", "one in and one out", "Give it one of each."
            )
        (_, self.dtype, shape), (_, dtype, given) = model.inputs[0], model.outputs[0]
        self.row, self.native, self.streams = shape[1:], model._native, model.streams
        self.output = dtype, list(given[1:])

    def fitted(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A contiguous copy of something that is right but lies otherwise. Raises ShapeError for anything else."""
        made = None
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            made = np.asarray(x)
        if made is not None and not hasattr(x, "dtype") and made.dtype == np.float64 and self.dtype == "float32":
            made = made.astype(np.float32)  # numbers of Python
        if made is None or made.dtype.name != self.dtype or made.shape != shape:
            raise ShapeError(
                "put", self.describe(x), f"{self.dtype}{list(shape)}, as the model takes it", "Convert it."
            )
        return np.array(made, order="C")

    def fitted_list(self, name: str, given: Any) -> Any:
        """int64 [n] of a list or an array. Raises ShapeError for anything else."""
        made = np.asarray(given if len(given) else np.empty(0, np.int64))
        if made.dtype != np.int64 or made.ndim != 1:
            raise ShapeError("put_many", f"{name} {self.describe(made)}", "int64 [n]", "Convert it.")
        return np.ascontiguousarray(made)

    def describe(self, x: Any) -> str:
        """dtype and shape."""
        if not hasattr(x, "dtype"):
            return type(x).__name__
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def side_of(live: Any) -> Any:
    """Raises UnsupportedProblem for what is no stream of one native plan."""
    if isinstance(live, LoadedModel):
        return LoadedSide(live)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(live, torch.nn.Module):
        from rtaccel.serve.compiled_side import CompiledSide

        return CompiledSide(live)
    raise not_a_stream(live)


def not_a_stream(live: Any) -> UnsupportedProblem:
    """The error for something else."""
    return UnsupportedProblem(
        "StreamBatcher", f"a {type(live).__name__}", "a stream", "Make one with rt.stream(model, example_step)."
    )
