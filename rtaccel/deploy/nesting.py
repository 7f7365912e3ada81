"""Arrays in tuples, as a model takes and returns them: "." is an array, "( )" a tuple of what is between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tree = Any
"""The place of an array among all, or a tuple of trees."""

_DEEPEST = 16


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
