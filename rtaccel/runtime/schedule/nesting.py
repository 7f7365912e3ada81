"""How arguments and results are nested: as the native module reads it, and their tensors in the order of the model's own.

A dict may have its keys in any order: what belongs to a key is found by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.errors import ShapeError


def nesting(spec: Any) -> str | None:
    """A tree of tuples as the native module writes it: "." a tensor, "( )" a tuple; None for any other container."""
    found = with_keys(spec)
    return None if found is None or not set(found[0]) <= set(".()") else found[0]


def with_keys(spec: Any) -> tuple[str, list[str]] | None:
    """The same with "[ ]" for lists and "{ }" for dicts, and the keys of all dicts in order; None for other containers."""
    if spec.is_leaf():
        return ".", []
    found = [with_keys(child) for child in spec.children()]
    signs = _SIGNS.get(spec.type)
    if signs is None or not found:
        return None
    keys = list(spec.context) if spec.type is dict else []
    text, inside = "", []
    for i, part in enumerate(found):
        if part is None or (keys and not isinstance(keys[i], str)):
            return None
        text += part[0]
        inside += [*keys[i : i + 1], *part[1]]
    return f"{signs[0]}{text}{signs[1]}", inside


_SIGNS = {tuple: "()", list: "[]", dict: "{}"}


def in_order(value: Any, spec: Any) -> list[Any] | None:
    """The leaves of a value nested as `spec` has it, but for the order of keys; None for one that is nested otherwise."""
    if spec.is_leaf():
        return [value] if isinstance(value, Tensor) or pytree.tree_structure(value).is_leaf() else None
    children = spec.children()
    if spec.type is dict and type(value) is dict:
        if value.keys() != set(spec.context):
            return None
        parts = [value[key] for key in spec.context]
    elif spec.type in (tuple, list) and type(value) is spec.type and len(value) == len(children):
        parts = list(value)
    else:
        leaves, found = pytree.tree_flatten(value)
        return leaves if found == spec else None
    leaves = []
    for part, child in zip(parts, children):
        inside = in_order(part, child)
        if inside is None:
            return None
        leaves += inside
    return leaves


def outs_in_order(op: str, out: Any, spec: Any) -> list[Any]:
    """The leaves of `out` in the order of the results: nested as these, a dict in the place of any container with keys, or one
    after the other in tuples and lists. Raises ShapeError for a dict with other keys."""
    found = in_order(out, spec)
    if found is not None:
        return found
    keys = spec.context if not spec.is_leaf() else None
    if isinstance(out, Mapping) and isinstance(keys, list) and len(keys) == spec.num_children:
        if out.keys() == set(keys):
            return [leaf for key, child in zip(keys, spec.children()) for leaf in outs_in_order(op, out[key], child)]
        raise ShapeError(
            op, f"out with the keys {sorted(map(str, out))}", f"{sorted(map(str, keys))}", "Name each result."
        )
    leaves = pytree.tree_leaves(out)
    if len(leaves) != 1 and _has_dict(out):
        raise ShapeError(
            op, f"out nested as {type(out).__name__} with dicts in it", "nested as the result", "Nest it so."
        )
    return leaves


def _has_dict(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    return isinstance(value, (tuple, list)) and any(_has_dict(part) for part in value)
