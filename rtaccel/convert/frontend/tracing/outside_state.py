"""What a model's code reaches outside of its modules: attributes of classes, globals, closures and default arguments.

A trace of the model leaves tensors without numbers there, as it does in attributes. They are taken out again, else the model
itself would compute with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

P = ParamSpec("P")
R = TypeVar("R")

_CONTAINERS = (dict, list, set)
_DEPTH = 3
"""Of containers in one another, and of functions that call one another."""
_LARGEST = 10_000
"""Elements of a container that is looked through."""


class Place(NamedTuple):
    """A name outside: how it is read, and written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]

    def value(self) -> Any:
        try:
            return self.read()
        except (AttributeError, KeyError, ValueError):  # there is none now
            return None


@contextmanager
def outside_kept(model: nn.Module) -> Iterator[None]:
    """Puts back what stood where a trace of the model left tensors without numbers."""
    reached = _Reached(model)
    places = [(place, place.value()) for place in reached.places]
    containers = [(own, own.copy()) for _, own in reached.containers.values()]
    try:
        yield
    finally:
        for container, before in containers:
            if any(map(_is_traced, _values(container))):
                _refill(container, before)
        for place, value in places:
            if _is_traced(place.value()):
                place.write(value)


class Snapshot:
    """The tensors that a model's code reaches outside of its modules, and the containers that they are in."""

    def __init__(self, model: nn.Module) -> None:
        reached = _Reached(model)
        self._places = [(p, v) for p in reached.places if isinstance(v := p.value(), Tensor)]
        self._containers = [(name, own, own.copy()) for name, own in reached.containers.values()]
        held = [(p.name, v) for p, v in self._places]
        held += [(name, v) for name, own, _ in self._containers for v in _values(own) if isinstance(v, Tensor)]
        self._numbers = [(name, v, v.detach().clone()) for name, v in held if _has_numbers(v)]

    def changed(self) -> tuple[str, ...]:
        """Names whose tensors are others than before, or have other numbers."""
        found = [p.name for p, v in self._places if p.value() is not v]
        found += [name for name, own, before in self._containers if _others(own, before)]
        found += [name for name, v, numbers in self._numbers if not _same(v, numbers)]
        return tuple(dict.fromkeys(found))

    def restore(self) -> None:
        for _, own, before in self._containers:
            if _others(own, before):
                _refill(own, before)
        for place, value in self._places:
            if place.value() is not value:
                place.write(value)
        for _, value, numbers in self._numbers:
            if not _same(value, numbers):
                value.data.copy_(numbers)


def outside_untouched(call: Callable[P, R]) -> Callable[P, R]:
    """The function, whose first argument is a model: what that reaches outside is afterwards what it was."""

    @wraps(call)
    def kept(*args: P.args, **kwargs: P.kwargs) -> R:
        model = kwargs.get("model", args[0] if args else None)
        before = Snapshot(model) if isinstance(model, nn.Module) else None
        try:
            return call(*args, **kwargs)
        finally:
            if before is not None:
                before.restore()

    return kept


def _others(own: Any, before: Any) -> bool:
    """Whether a container has other tensors than before."""
    now, then = ([v for v in _values(parts) if isinstance(v, Tensor)] for parts in (own, before))
    return len(now) != len(then) or any(a is not b for a, b in zip(now, then))


def _has_numbers(value: Tensor) -> bool:
    """Of a kind that can be compared and written."""
    plain = value.layout is torch.strided and not value.is_quantized and not isinstance(value, FakeTensor)
    return plain and value.device.type != "meta"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _refill(container: Any, parts: Any) -> None:
    container.clear()
    container.extend(parts) if isinstance(container, list) else container.update(parts)


class _Reached:
    """places: of names. containers: by id, with the name that leads to each."""

    def __init__(self, model: nn.Module) -> None:
        self.places: list[Place] = []
        self.containers: dict[int, tuple[str, Any]] = {}
        self._seen: set[int] = set()
        for module in model.modules():
            self.add_module(module)

    def add_module(self, module: nn.Module) -> None:
        for kind in type(module).__mro__:
            if not _is_torch(kind.__module__) and id(kind) not in self._seen:
                self._seen.add(id(kind))
                self._add_class(kind)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for hook in hooks.values():
                self._add_function(hook, _DEPTH)
        if "forward" in vars(module):
            self._add_function(module.forward, _DEPTH)

    def _add_class(self, kind: type) -> None:
        for name, value in list(vars(kind).items()):
            if isinstance(value, Tensor):
                self.places.append(
                    Place(f"{kind.__name__}.{name}", partial(getattr, kind, name), partial(setattr, kind, name))
                )
            self._add_value(f"{kind.__name__}.{name}", value, _DEPTH)
            self._add_function(value, _DEPTH)

    def _add_function(self, function: Any, depth: int) -> None:
        function = function.__func__ if isinstance(function, (MethodType, staticmethod, classmethod)) else function
        function = function.fget if isinstance(function, property) else function
        if not isinstance(function, FunctionType) or not depth or id(function) in self._seen:
            return
        self._seen.add(id(function))
        if _is_torch(function.__module__ or ""):
            return
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._add_value(f"a default of {function.__qualname__}", default, depth)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            self._add_named(
                Place(name, partial(getattr, cell, "cell_contents"), partial(setattr, cell, "cell_contents")), depth
            )
        space = function.__globals__
        for name in sorted(_names(function.__code__) & space.keys()):
            self._add_named(Place(name, partial(space.__getitem__, name), partial(space.__setitem__, name)), depth)

    def _add_named(self, place: Place, depth: int) -> None:
        self.places.append(place)
        self._add_value(place.name, place.value(), depth)
        self._add_function(place.value(), depth - 1)

    def _add_value(self, name: str, value: Any, depth: int) -> None:
        if type(value) in _CONTAINERS and depth and len(value) <= _LARGEST and id(value) not in self.containers:
            self.containers[id(value)] = name, value
            for part in list(_values(value)):
                self._add_value(name, part, depth - 1)


def _names(code: CodeType) -> set[str]:
    """Names that code and the functions in it read."""
    found = set(code.co_names)
    for part in code.co_consts:
        if isinstance(part, CodeType):
            found |= _names(part)
    return found


def _is_torch(module: str) -> bool:
    return f"{module}.".startswith(("torch.", "rtaccel."))


def _values(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _is_traced(value: Any) -> bool:
    return isinstance(value, (FakeTensor, torch.SymInt, torch.SymFloat, torch.SymBool))
