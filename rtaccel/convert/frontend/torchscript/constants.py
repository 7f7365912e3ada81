"""Tensors that a graph holds itself, as buffers of the module that runs it, under the names that freezing has left."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.torchscript.numbers import HeldNumber, held_constant

UNNAMED = "constants"
"""The module with those that have no name."""

_FROZEN = re.compile(r"^self\.((?:[^.]+\.)*)([^.]+)$")
"""What freezing names a constant: `self.layer.weight`."""


class Place(nn.Module):
    """Stands for a module that a frozen graph has inlined: its tensors are here, and its calls run under its name."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self, run: Callable[..., Any], *values: Any) -> Any:
        return run(*values)


class Constants:
    """Those of one module."""

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner
        self._known: dict[int, tuple[str, str]] = {}
        self._kept: list[Tensor] = []  # so that no other gets the id of one

    def keep(self, name: str, value: Any) -> tuple[Callable[[nn.Module], Any], str]:
        """Keeps a tensor, or a list of them. Gives what reads it from a module that runs the graph, and the dotted name of the
        module that it belongs to, "" where that is not known."""
        found = _FROZEN.match(name)
        path, own = (found[1].split(".")[:-1], found[2]) if found else ([UNNAMED], "")
        leaves, spec = pytree.tree_flatten(value)
        readers = [
            self._reader(path, own, leaf) if isinstance(leaf, Tensor) else partial(_given, leaf) for leaf in leaves
        ]
        scope = ".".join(path) if found and isinstance(self._owner.get_submodule(".".join(path)), Place) else ""
        return (readers[0] if isinstance(value, Tensor) else partial(_all, readers, spec)), scope

    def _reader(self, path: list[str], own: str, tensor: Tensor) -> Callable[[nn.Module], Any]:
        """Numbers stay numbers beside their tensor."""
        if id(tensor) not in self._known:
            place = self._place(path)
            name = own if own and not hasattr(place, own) else f"{own or 'c'}_{len(self._known)}"
            dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
            place.register_buffer(name, dense.detach())
            self._known[id(tensor)] = ".".join(path), name
            self._kept.append(tensor)
        number = held_constant(tensor)
        at = self._known[id(tensor)]
        return partial(_tensor, *at) if number is None else partial(_number, *at, number, tensor.dtype)

    def _place(self, path: list[str]) -> nn.Module:
        """The module of that name, made where there is none; the owner where something else has the name."""
        place = self._owner
        for i, part in enumerate(path):
            if part not in place._modules:
                if hasattr(place, part):
                    path[i:] = []
                    break
                place.add_module(part, Place())
            child = place._modules[part]
            assert child is not None
            place = child
        return place


def _given(value: Any, owner: nn.Module) -> Any:
    return value


def _tensor(path: str, name: str, owner: nn.Module) -> Any:
    return getattr(owner.get_submodule(path), name)


def _number(path: str, name: str, number: Any, dtype: torch.dtype, owner: nn.Module) -> HeldNumber:
    return HeldNumber(number, dtype, _tensor(path, name, owner))


def _all(readers: list[Callable[[nn.Module], Any]], spec: Any, owner: nn.Module) -> Any:
    return pytree.tree_unflatten([read(owner) for read in readers], spec)
