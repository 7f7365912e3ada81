"""Arrays as a model takes and returns them: nested, and with their samples in another dimension than the first, as the state of a
recurrent layer has them.

"." is an array, "( )" a tuple of what is between, "[ ]" a list, and "{ }" a dict, each of its keys in front as JSON has a text.
Of results, "#" is a constant array of the file, and "!" is what follows as JSON has it: null, a number, a truth value, a text.
"""

from __future__ import annotations

import json
import math
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

Tree = Any
"""The place of an array among all, a Fixed, or a tuple, a list or a dict of trees."""

CONSTANT, LITERAL = "#", "!"


@dataclass(frozen=True)
class Fixed:
    """What is the same in every call: an array, or what JSON has."""

    value: Any

    def again(self) -> Any:
        return self.value.copy() if isinstance(self.value, np.ndarray) else self.value


_DEEPEST = 16
_ENDS = {"(": ")", "[": "]", "{": "}"}
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(rf"null|true|false|NaN|-?Infinity|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|{_TEXT.pattern}")


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


def written(spec: Any, leaves: Iterable[str] = repeat(".")) -> str | None:
    """The text of a pytree: what `tree_of` reads. A named tuple is a tuple, and a dict of any kind a dict; None for other
    containers, and for keys that are no texts. leaves: what stands for each."""
    leaves = iter(leaves)
    if spec.is_leaf():
        return next(leaves)
    parts = [written(child, leaves) for child in spec.children()]
    kind, keys = spec.type, spec.context
    if not parts or any(part is None for part in parts):
        return None
    if kind is namedtuple:  # what torch has as the type of all of them
        kind = tuple
    if not isinstance(kind, type):
        return None
    if issubclass(kind, (tuple, list)):
        return ("[{}]" if issubclass(kind, list) else "({})").format("".join(map(str, parts)))
    named = isinstance(keys, list) and len(keys) == len(parts) and all(isinstance(key, str) for key in keys)
    if not issubclass(kind, dict) or not named:
        return None
    return "{" + "".join(json.dumps(key) + str(part) for key, part in zip(keys, parts)) + "}"


def tree_of(form: str, count: int, constants: Sequence[Any] | None = None) -> Tree:
    """constants: of results, the arrays of the file. Raises ValueError for a text that does not nest so many arrays."""
    left = iter(constants or ())
    stack: list[tuple[str, list[Tree], list[str]]] = [("", [], [])]
    seen = at = 0
    while at < len(form):
        sign, (kind, parts, keys) = form[at], stack[-1]
        at += 1
        if kind == "{" and len(keys) == len(parts) and sign != "}":
            end = _TEXT.match(form, at - 1)
            key = None if end is None else _read(end[0])
            if end is None or key is None or key in keys:
                break
            keys.append(key)
            at = end.end()
        elif sign == ".":
            parts.append(seen)
            seen += 1
        elif sign == CONSTANT and constants is not None:
            array = next(left, None)
            if array is None:
                break
            parts.append(Fixed(array))
        elif sign == LITERAL and constants is not None:
            literal = _LITERAL.match(form, at)
            if literal is None:
                break
            parts.append(Fixed(json.loads(literal[0])))
            at = literal.end()
        elif sign in _ENDS and len(stack) < _DEEPEST:
            stack.append((sign, [], []))
        elif kind and sign == _ENDS[kind] and len(keys) == (len(parts) if kind == "{" else 0):
            stack.pop()
            stack[-1][1].append(dict(zip(keys, parts)) if kind == "{" else parts if kind == "[" else tuple(parts))
        else:
            break
    else:
        if len(stack) == 1 and len(stack[0][1]) == 1 and seen == count and next(left, None) is None:
            return stack[0][1][0]
    raise ValueError(f"{form!r:.200} does not nest {count} arrays")


def _read(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def flattened(value: Any, tree: Tree) -> list[Any] | None:
    """The arrays of a value in order; None where it is nested otherwise. A list fits where a tuple does."""
    if isinstance(tree, dict):
        if not isinstance(value, Mapping) or value.keys() != tree.keys():
            return None
        pairs = [(value[key], inner) for key, inner in tree.items()]
    elif isinstance(tree, Fixed):
        return []
    elif not isinstance(tree, (tuple, list)):
        return None if isinstance(value, (tuple, list, Mapping)) else [value]
    elif not isinstance(value, (tuple, list)) or len(value) != len(tree):
        return None
    else:
        pairs = list(zip(value, tree))
    arrays: list[Any] = []
    for part, inner in pairs:
        found = flattened(part, inner)
        if found is None:
            return None
        arrays += found
    return arrays


def fixed_in(value: Any, tree: Tree) -> Iterator[tuple[Any, Any]]:
    """Pairs of an array that was given to be written into, and the constant array that belongs there."""
    if isinstance(tree, Fixed):
        if isinstance(tree.value, np.ndarray) and value is not None:
            yield value, tree.value
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from fixed_in(value[key], part)
    elif isinstance(tree, (tuple, list)):
        for inner, part in zip(value, tree):
            yield from fixed_in(inner, part)


def nested(tree: Tree, arrays: Sequence[Any], constant: Callable[[Any], Any] = lambda array: array) -> Any:
    """constant: of a constant array, what is given for it."""
    if isinstance(tree, Fixed):
        again = tree.again()
        return constant(again) if isinstance(again, np.ndarray) else again
    if isinstance(tree, dict):
        return {key: nested(part, arrays, constant) for key, part in tree.items()}
    return (
        type(tree)(nested(part, arrays, constant) for part in tree) if isinstance(tree, (tuple, list)) else arrays[tree]
    )


@dataclass(frozen=True)
class Lying:
    """How a returned array lies: its dimension that is the samples comes first. Where its first one is several, the samples at
    their place and others in each of them, these are the sizes of the others."""

    samples: int = 0
    inner: tuple[int, ...] = ()

    def returned(self, array: Any) -> Any:
        """What lies there, seen as the model returns it. Copied where samples lie within what is one dimension."""
        moved = _moved(array, 0, self.samples) if self.samples else array
        if not self.inner:
            return moved
        return moved.reshape((array.shape[0] * math.prod(self.inner), *array.shape[1 + len(self.inner) :]))

    def as_it_lies(self, array: Any) -> Any:
        """The other way round, of an array to write into. What is no such array stays as it is, for a later check to refuse."""
        if not self.inner:
            return _moved(array, self.samples, 0) if self.samples else array
        shape = tuple(getattr(array, "shape", ()))
        whole, left = divmod(shape[0], max(math.prod(self.inner), 1)) if shape else (0, 1)
        if left or not _in_order(array):
            return array
        outer, inner = self.inner[: self.samples], self.inner[self.samples :]
        apart = array.reshape((*outer, whole, *inner, *shape[1:]))
        return _moved(apart, self.samples, 0) if self.samples else apart


def lying(samples: str, joined: str, shapes: Sequence[tuple[int, ...]]) -> tuple[Lying, ...]:
    """Of each returned array, from two fields of a file: "" where nothing is to be said. shapes: as they lie, -1 for samples.
    Raises ValueError for texts that do not say it of such arrays."""
    dims = _numbers(samples, 0, [max(len(shape), 1) for shape in shapes])
    counts = _numbers(joined, 1, [max(len(shape), 1) + 1 for shape in shapes])
    for dim, count, shape in zip(dims, counts, shapes):
        if count < 1 or (count > 1 and (dim >= count or any(size < 0 for size in shape[1:count]))):
            raise ValueError(f"{joined!r:.200} joins no dimensions of {len(shapes)} results")
    return tuple(Lying(dim, tuple(shape[1:count])) for dim, count, shape in zip(dims, counts, shapes))


def _numbers(text: str, usual: int, ends: Sequence[int]) -> tuple[int, ...]:
    if not text:
        return (usual,) * len(ends)
    words = text.split(" ")
    found = tuple(int(word) if word.isdecimal() and len(word) < 2 else -1 for word in words)
    if len(found) != len(ends) or not all(0 <= number < end for number, end in zip(found, ends)):
        raise ValueError(f"{text!r} names no dimensions of {len(ends)} results")
    return found


def _in_order(array: Any) -> bool:
    """Whether to see it in another shape copies nothing."""
    if isinstance(array, np.ndarray):
        return array.flags.c_contiguous
    return bool(array.is_contiguous()) if hasattr(array, "is_contiguous") else False


def _moved(array: Any, source: int, to: int) -> Any:
    if getattr(array, "ndim", 0) <= max(source, to):
        return array
    if isinstance(array, np.ndarray):
        return np.moveaxis(array, source, to)
    return array.movedim(source, to) if hasattr(array, "movedim") else array  # torch's
