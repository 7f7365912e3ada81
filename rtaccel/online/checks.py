"""Settings of online learners as they are checked: whole numbers, streams, states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError, ShapeError

MOST = 2**40
"""Streams or channels, far beyond any memory."""


def count(op: str, name: str, value: Any) -> int:
    """A whole number from 1. Raises ShapeError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MOST:
        raise ShapeError(op, f"{name}={value!r:.80}", "a whole number from 1", f"Change {name}.")
    return int(value)


def stream_of(op: str, value: Any, streams: int) -> int:
    """The number of a stream. Raises ShapeError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < streams:
        raise ShapeError(op, f"stream={value!r:.80}", f"0 to {streams - 1}", "Change stream.")
    return int(value)


def streams_of(op: str, value: Any, streams: int) -> list[int]:
    """All streams for None, or those with these numbers. Raises ShapeError."""
    if value is None:
        return list(range(streams))
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise ShapeError(op, f"streams={value!r:.80}", "numbers of streams, or None for all", "Pass a list.")
    return [stream_of(op, one, streams) for one in value]


def state_arrays(op: str, state: Any, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a state with just these keys. Raises FormatError."""
    if not isinstance(state, Mapping) or set(state) != set(keys):
        got = f"a state with {sorted(map(str, state))}" if isinstance(state, Mapping) else f"{type(state).__name__}"
        raise FormatError(op, got, "a state_dict()", "Pass one.")
    try:
        return {key: np.asarray(value) for key, value in state.items()}
    except ValueError as error:
        raise FormatError(op, f"a state: {error}", "a state_dict()", "Pass one.") from error
