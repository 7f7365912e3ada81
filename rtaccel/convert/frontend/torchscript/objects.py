"""Attributes and methods of modules and of classes of TorchScript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.torchscript.numbers import materialized
from rtaccel.convert.frontend.torchscript.refused import refuse


class Instance:
    """An object of a class of TorchScript. kind: the name of the class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


@dataclass(frozen=True)
class Method:
    """The first argument where a program calls a module. `forward__1` is a form of forward for arguments of other types."""

    name: str


def create(kind: str) -> Instance:
    return Instance(kind)


def get_attribute(name: str, owner: Any) -> Any:
    value = getattr(owner, name)
    if isinstance(value, torch.ScriptObject):
        refuse(f"the object {name} of {value._type().qualified_name()}")
    return value


def get_module(container: nn.Module, at: int | str) -> Any:
    """Of a list or dict of modules, by a number or name that the graph computes."""
    names = list(container._modules)
    return getattr(container, names[at] if isinstance(at, int) else at)


def set_attribute(name: str, owner: Any, value: Any) -> None:
    value = materialized(value)
    if isinstance(owner, nn.Module) and name in owner._parameters and isinstance(value, Tensor):
        owner._parameters.pop(name)
        owner.register_buffer(name, value)
    else:
        setattr(owner, name, value)


def call_method(name: str, owner: Any, *values: Any) -> Any:
    if not isinstance(owner, nn.Module):
        refuse(f"the method {name} of a {type(owner).__name__}")
    if name == "forward" or name.startswith("forward__"):
        return owner(Method(name), *values)  # a call, which says to a trace what module runs
    run: Any = owner._run_method
    return run(name, *values)
