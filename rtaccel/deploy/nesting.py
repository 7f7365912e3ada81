"""Arrays as a model takes and returns them: in tuples ("." is an array, "( )" a tuple of what is between), and with their
samples in another dimension than the first, as the state of a recurrent layer has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

Tree = Any
"""The place of an array among all, or a tuple of trees."""

_DEEPEST = 16


def described(tensors: Sequence[Any], text: str | None) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """(name, dtype, shape) of tensors. text: the file's own list, which tells truth values from bytes, and no more."""
    try:
        rows = json.loads(text or "[]")
        kinds = [row["dtype"] for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        kinds = []
    kinds = kinds if len(kinds) == len(tensors) else [""] * len(tensors)
    return tuple(
        (name, "bool" if dtype == "uint8" and kind == "bool" else dtype, tuple(shape))
        for (name, dtype, shape), kind in zip(tensors, kinds)
    )


def tree_of(form: str, count: int) -> Tree:
    """Raises ValueError for a text that does not nest so many arrays."""
    stack: list[list[Tree]] = [[]]
    seen = 0
    for sign in form:
        if sign == ".":
            stack[-1].append(seen)
            seen += 1
        elif sign == "(" and len(stack) < _DEEPEST:
            stack.append([])
        elif sign == ")" and len(stack) > 1:
            inner = tuple(stack.pop())
            stack[-1].append(inner)
        else:
            raise ValueError(f"{form!r} is no nesting of arrays")
    if len(stack) != 1 or len(stack[0]) != 1 or seen != count:
        raise ValueError(f"{form!r} does not nest {count} arrays")
    return stack[0][0]


def flattened(value: Any, tree: Tree) -> list[Any] | None:
    """The arrays of a value in order; None where it is nested otherwise."""
    if not isinstance(tree, tuple):
        return None if isinstance(value, (tuple, list)) else [value]
    if not isinstance(value, (tuple, list)) or len(value) != len(tree):
        return None
    arrays: list[Any] = []
    for part, inner in zip(value, tree):
        found = flattened(part, inner)
        if found is None:
            return None
        arrays += found
    return arrays


def nested(tree: Tree, arrays: Sequence[Any]) -> Any:
    return tuple(nested(part, arrays) for part in tree) if isinstance(tree, tuple) else arrays[tree]


def sample_dims(text: str, ranks: Sequence[int]) -> tuple[int, ...]:
    """The dimension of each returned array that is its samples, from a field of a file: "" where it is the first of all.
    Raises ValueError for a text that does not say it of arrays of these ranks."""
    if not text:
        return (0,) * len(ranks)
    words = text.split(" ")
    found = tuple(int(word) if word.isdecimal() and len(word) < 2 else -1 for word in words)
    if len(found) != len(ranks) or not all(0 <= dim < max(rank, 1) for dim, rank in zip(found, ranks)):
        raise ValueError(f"{text!r} names no dimensions of {len(ranks)} results")
    return found


def as_returned(arrays: Sequence[Any], dims: Sequence[int]) -> tuple[Any, ...]:
    """Arrays as they lie, samples first, seen as the model returns them. Nothing is copied."""
    return tuple(_moved(array, 0, dim) if dim else array for array, dim in zip(arrays, dims))


def as_they_lie(arrays: Sequence[Any], dims: Sequence[int]) -> list[Any]:
    """The other way round, of arrays to write into. What is no array stays as it is, for a later check to refuse."""
    return [_moved(array, dim, 0) if dim else array for array, dim in zip(arrays, dims)]


def _moved(array: Any, source: int, to: int) -> Any:
    if getattr(array, "ndim", 0) <= max(source, to):
        return array
    if isinstance(array, np.ndarray):
        return np.moveaxis(array, source, to)
    return array.movedim(source, to) if hasattr(array, "movedim") else array  # torch's
