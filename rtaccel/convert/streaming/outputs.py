"""In which order the elements of an output lie in one time step of its value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import View
from rtaccel.core.row_traits import TimeSpan


def order_of_step(view: View, span: TimeSpan, width: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(the place of each element of the output in a time step of the value [outer, inner], the shape of these elements): of the
    last step. None where the output is no whole row over time. width: of the rows of the value."""
    index, sizes = layout.offsets(view), list(view.shape)
    inner = span.inner or width
    if span.steps:
        over = [d for d, size in enumerate(sizes) if size == span.steps and _steps_by(index, d, inner)]
        if len(over) != 1:
            return None
        index = np.take(index, span.steps - 1, over[0])
        del sizes[over[0]]
        whole = span.steps * inner
        index = index // whole * inner + index % whole % inner
    return tuple(int(i) for i in index.reshape(-1)), tuple(sizes)


def _steps_by(index: NDArray[np.int64], dim: int, inner: int) -> bool:
    return index.shape[dim] == 1 or bool((np.diff(index, axis=dim) == inner).all())


def is_in_order(order: Sequence[int]) -> bool:
    return all(i == place for i, place in enumerate(order))
