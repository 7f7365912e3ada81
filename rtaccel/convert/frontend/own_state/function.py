"""A model with state as a function of it: (arguments, states) -> (results, new states). Nothing is kept from call to call."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.own_state.places import CARRIED, OwnState
from rtaccel.convert.frontend.own_state.shown_buffers import buffers_shown
from rtaccel.core.errors import UnsupportedProblem


def carried(tensor: Tensor) -> Tensor:
    """In the dtype that a plan keeps it in."""
    return tensor.detach().to(CARRIED[tensor.dtype]).clone(memory_format=torch.contiguous_format)


def as_function(state: OwnState, count: int) -> nn.Module:
    """The settled model, whose forward takes its `count` arguments and then a tensor for each state, and gives (result, *states).

    Its modules keep their names, so it is the model itself that changes. Between calls it has no state. Raises UnsupportedProblem
    for a model that cannot be changed so.
    """
    model, kind = state.settled, type(state.settled)
    hooks = (model._forward_hooks, model._forward_pre_hooks)
    own = model.__dict__.get(
        "forward", MethodType(kind.forward, model)
    )  # exporters set `self.forward = self.forward_lstm`
    if isinstance(model, torch.jit.ScriptModule) or getattr(own, "__self__", None) is not model or any(hooks):
        raise UnsupportedProblem(
            "compile", f"{kind.__name__} with state, in TorchScript or with hooks of its own", "a plain module",
            "Wrap it in a module that calls it.",
        )  # fmt: skip
    dtypes = [t.dtype for t in state.initial]
    buffers = {p.module: tuple(model.get_submodule(p.module)._buffers) for p in state.places if p.buffer}

    def forward(self: nn.Module, *given: Any) -> Any:
        args, left = given[:count], [s.to(d).clone() for s, d in zip(given[count:], dtypes, strict=True)]
        try:
            for place in state.places:
                place.put(self, place.tree(left))
            with buffers_shown(self, buffers):
                result = own.__func__(self, *args)
            made = _new_states(self, state)
        finally:
            for place in state.places:
                place.remove(self)
        return (result, *made)

    model.__dict__.pop("forward", None)
    for place in state.places:
        place.remove(model)
    made: Any = type(kind)
    model.__class__ = made(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return model


def _new_states(model: nn.Module, state: OwnState) -> list[Tensor]:
    made: list[Tensor] = []
    for place in state.places:
        found = place.tensors(place.get(model))
        if found is None:
            raise _moved(place.leaves[0], "another tree")
        made += found
    for name, new, old in zip(state.names, made, state.initial):
        if new.shape != old.shape or new.dtype != old.dtype:
            raise _moved(name, f"{new.dtype}{list(new.shape)}")
    return [new.to(CARRIED[new.dtype]) for new in made]


def _moved(name: str, got: str) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile", f"self.{name} becoming {got}", "state of one shape and dtype", "Keep a buffer of a fixed size."
    )
