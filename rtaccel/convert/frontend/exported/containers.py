"""Which arguments and results are containers, values, or neither: dataclasses are containers, as named tuples and dicts are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.core.errors import UnsupportedProblem

VALUES = (
    bool, int, float, complex, str, bytes, type(None), torch.device, torch.dtype, torch.layout, torch.memory_format, range, slice,
    Enum, PurePath,
)  # fmt: skip
"""Kinds of values that are what they compare equal to."""

_NAMES = (type, FunctionType, BuiltinFunctionType, np.generic, type(...))
"""What does not change besides."""


def know_dataclasses(tree: Any) -> None:
    """Registers the dataclasses among the leaves with torch's pytree, as `torch.export.register_dataclass` does, which is how
    torch.export sees what they hold.

    One that is registered stays as it is. One that its fields alone do not make anew stays a leaf.
    """
    while found := {type(leaf) for leaf in pytree.tree_leaves(tree) if _made_of_fields(type(leaf))}:
        for kind in found:
            torch.export.register_dataclass(kind)


@contextmanager
def results_known(model: nn.Module) -> Iterator[None]:
    """Inside, the dataclasses that a call of the model gives are registered before its caller looks at them."""
    hook = None if isinstance(model, torch.jit.ScriptModule) else model.register_forward_hook(_know_result)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _know_result(_model: nn.Module, _args: Any, result: Any) -> None:
    know_dataclasses(result)


def _made_of_fields(kind: type) -> bool:
    """Whether its fields make an instance anew: it has no `__init__` of its own, and no `__post_init__`, which could change them
    once more."""
    if "__dataclass_fields__" not in vars(kind) or hasattr(kind, "__post_init__"):
        return False
    try:
        inspect.signature(kind).bind(**{field.name: None for field in fields(kind)})
    except (TypeError, ValueError):
        return False
    return True


def of_each_leaf(call: Callable[[Any], Any], tree: Any) -> Any:
    """`tree_map` as torch.export has dynamic shapes: what lies in a registered container is a list."""

    def registered(node: Any) -> bool:
        return type(node) in pytree.SUPPORTED_NODES and type(node) not in pytree.BUILTIN_TYPES

    def one(node: Any) -> Any:
        if not registered(node):
            return call(node)
        return [of_each_leaf(call, part) for part in pytree.tree_leaves(node, is_leaf=lambda part: part is not node)]

    return pytree.tree_map(one, tree, is_leaf=registered)


def check_values(op: str, leaves: Sequence[Any]) -> None:
    """Raises UnsupportedProblem for an argument that is no tensor and whose content can change: its tensors would be those of
    the example in every call, and the same object with other content could not be told from it."""
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, (Tensor, *VALUES, *_NAMES)):
            raise UnsupportedProblem(
                op, f"input {index}: a {type(leaf).__name__}", "tensors, numbers, text, in tuples, lists, dicts, dataclasses",
                "Pass what it holds as arguments, or register it with torch.utils._pytree.register_pytree_node.",
            )  # fmt: skip
