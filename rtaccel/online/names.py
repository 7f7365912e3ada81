"""Columns by name: features of dicts, as river gives them, take columns in the order in which they first come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.arrays import F32


class Names:
    """The columns of an object with `size` of them. A name that was not there in a sample counts as 0."""

    def __init__(self, op: str, what: str, size: int) -> None:
        self._op, self._what, self._size = op, what, size
        self._columns: dict[str, int] = {}

    def row(self, sample: Mapping[Any, Any], grow: bool, missing: float = 0.0) -> F32:
        """The sample as [size] float32. grow: new names take columns, else they are left out.

        Raises ShapeError, with nothing changed, where there are more names than columns.
        """
        row = np.full(self._size, missing, dtype=np.float32)
        names = [str(name) for name in sample]
        new = [name for name in names if name not in self._columns] if grow else []
        if len(self._columns) + len(new) > self._size:
            raise ShapeError(
                self._op,
                f"{self._what} {new[:4]} beside {len(self._columns)} known ones",
                f"{self._size} {self._what} at most",
                f"Make the head with more {self._what}.",
            )
        values = []
        for name, value in zip(names, sample.values(), strict=True):
            try:
                values.append(float(value))
            except (TypeError, ValueError) as error:
                raise ShapeError(
                    self._op, f"{name}={value!r}", "a number", "Encode it, as with a one-hot encoder."
                ) from error
        for name in new:
            self._columns[name] = len(self._columns)
        with np.errstate(over="ignore"):
            for name, number in zip(names, values, strict=True):
                column = self._columns.get(name)
                if column is not None:
                    row[column] = number
        return row

    def named(self, values: F32) -> dict[str, float]:
        return {name: float(values[column]) for name, column in self._columns.items()}

    def __bool__(self) -> bool:
        return bool(self._columns)

    def saved(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.frombuffer(json.dumps(list(self._columns)).encode(), dtype=np.uint8)

    def parsed(self, saved: Any) -> dict[str, int]:
        """The columns in what `saved` gave; raises FormatError. Nothing is changed."""
        try:
            names = json.loads(np.asarray(saved, dtype=np.uint8).tobytes())
            fits = isinstance(names, list) and len(set(names)) == len(names) <= self._size
            if not fits or not all(isinstance(name, str) for name in names):
                raise ValueError("not a list of different names")
        except (TypeError, ValueError) as error:
            raise FormatError(
                self._op, f"{self._what} {error}", f"names of at most {self._size} columns", "Load an intact state."
            ) from error
        return {name: column for column, name in enumerate(names)}

    def set(self, columns: dict[str, int]) -> None:
        self._columns = columns
