"""A model from a file as a step of a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtaccel import _native as native
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.lead_dims import of_rank

Edge = tuple[str, str, tuple[int, ...]]
Port = tuple[tuple[int, ...], str]


def model_step(
    op: str, name: str, model: Any, inputs: Sequence[Edge], outputs: Sequence[Edge], ports: Sequence[Port]
) -> tuple[Any, list[Port], list[Any]]:
    """(native step, (shape, dtype) of each output, native models). model: the native side.

    ports: (shape, dtype) of each input, with or without its batch of one. Raises ShapeError where they do not fit.
    """
    given = " and ".join(f"{dtype}{list(shape)}" for shape, dtype in ports)
    expected = " and ".join(f"{dtype}{list(shape)}" for _, dtype, shape in inputs)
    shapes = [of_rank(shape, len(edge[2])) for (shape, _), edge in zip(ports, inputs)]
    batch = next((s[0] for s, edge in zip(shapes, inputs) if s and edge[2] and edge[2][0] < 0), 0)
    sizes = [[batch if i == 0 and n < 0 else n for i, n in enumerate(edge[2])] for edge in outputs]
    kinds = [tuple("uint8" if d == "bool" else d for d in (dtype, edge[1])) for (_, dtype), edge in zip(ports, inputs)]
    if len(ports) != len(inputs) or any(found != wanted for found, wanted in kinds):
        raise ShapeError(op, f"{given} for {name}", expected, "Make the slots fit, in the order of .inputs.")
    if any(n < 0 for shape in sizes for n in shape):
        raise UnsupportedProblem(
            op, f"{name} with more than one open size", "an open batch alone", "Save it with that size fixed."
        )
    arrays = tuple(np.zeros(shape, np.dtype(dtype)) for shape, (_, dtype) in zip(shapes, ports))
    results = tuple(np.zeros(shape, np.dtype(edge[1])) for shape, edge in zip(sizes, outputs))
    try:
        native.BoundModel(model, arrays, results)  # looks at all of it, and computes nothing
        step = native.model_step(model, batch)
    except ValueError as error:
        raise ShapeError(op, f"{given} for {name}: {error.args[-1]}", expected, "Make the slots fit.") from None
    return step, [(tuple(y.shape), y.dtype.name) for y in results], [model]
