"""A copy of a model to export, run and compare with: nothing that tracing or a call does reaches the caller's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.errors import RtaccelError, UnsupportedProblem

_SHARED = (staticmethod, classmethod, ModuleType, torch.jit.ScriptFunction)
"""`self.turn = staticmethod(turn)`: of these there is one, whichever copy has it."""

_CALLED = (FunctionType, MethodType, torch.jit.ScriptFunction)


def private_copy(op: str, model: nn.Module) -> nn.Module:
    """A deep copy. What copy.deepcopy refuses although it cannot change is shared.

    Tensors that hang on an autograd graph are detached, as torch does not copy them. They are in plain
    attributes, or in objects there.

    Raises UnsupportedProblem where the model cannot be copied at all.
    """
    memo: dict[int, Any] = {}
    for value in _attribute_leaves(model):
        if isinstance(value, _SHARED):
            memo[id(value)] = value
        elif isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    try:
        with torch.no_grad():
            return copy.deepcopy(model, memo)
    except RtaccelError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise UnsupportedProblem(
            op,
            f"{type(model).__name__}, which cannot be copied ({type(error).__name__}: {said})",
            "a model that copy.deepcopy takes",
            "Keep locks, files, generators and the like outside of the model.",
        ) from error


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Puts back what a trace leaves in attributes: results that a module keeps for its next call have no numbers then, and sizes
    that belong to the trace alone."""
    held = [(vars(module), dict(vars(module))) for module in model.modules()]
    inside = [
        (value, copy.copy(value)) for _, own in held for value in own.values() if type(value) in (dict, list, set)
    ]
    try:
        yield
    finally:
        for attributes, own in held:
            attributes.clear()
            attributes.update(own)
        for value, before in inside:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)


def _attribute_leaves(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        for value in list(module.__dict__.values()):
            yield from _leaves(value, 3)


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    if depth and isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part, depth - 1)
    elif depth and isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _leaves(part, depth - 1)
    else:
        yield value
        if depth and not isinstance(value, (Tensor, nn.Module, type, ModuleType, *_CALLED)):
            for part in list(getattr(value, "__dict__", {}).values()):  # an object of the model's own
                yield from _leaves(part, depth - 1)
