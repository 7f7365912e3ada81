"""State that a model keeps in plain attributes (`self.h = ...`, counters): export freezes it at its first value.

Most models change no attribute when called; one call shows that. Those that do may only note something (`self.weights = w`)
or keep a cache; they are state where a later call goes on changing it, or where an answer depends on the call before.

Layers with a bound on their weights (`self.weight.data = renorm(self.weight.data, ...)`) change them in the first call alone:
the numbers that they leave are those of every later call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.exported.containers import VALUES

_OWN = frozenset(nn.Module().__dict__)
"""What every module has: hooks, parameters, and so on. Parameters and buffers are looked at by themselves."""

_DEPTH = 6

_SETTLED = 1e-6
"""By how much of itself a parameter may move in a call after the first and stay the same: a norm that is brought to its bound
again differs in the last bits."""


@dataclass(frozen=True)
class Changes:
    """What calls do to the attributes of a model. state: names of those by which one call changes the next. settled: parameters
    and buffers that the first call changes and no later one, by dotted name, as they are then."""

    state: tuple[str, ...] = ()
    settled: Mapping[str, Tensor] = field(default_factory=dict)

    def settle(self, model: nn.Module) -> nn.Module:
        """The model, its parameters and buffers as the first call leaves them."""
        with torch.no_grad():
            for name, value in self.settled.items():
                path, _, own = name.rpartition(".")
                module = model.get_submodule(path)
                if getattr(module, own) is None:
                    module._buffers[own] = value.clone()  # a cache: it would be a result of the trace
                else:
                    getattr(module, own).data = value.clone()
        return model


def attribute_state(
    make: Callable[[], nn.Module],
    args: tuple[Any, ...],
    other: Callable[[], tuple[Any, ...]],
    notes: frozenset[str] | None = None,
) -> Changes:
    """What calls change in the model, and what of it is state.

    make: gives a copy of the model as it stands before any call. other: arguments of the same shapes with other values. notes:
    attributes that are known to be read by no call; None: what the example does not move is not looked for.
    Raises what the model raises.
    """
    model = make()
    untouched = attributes(model)
    with torch.no_grad():
        model(*args)
        called = attributes(model)
        changed = changed_between(untouched, called)
        raised = () if notes is None else _moved_by_large(make, args, _replaced(untouched, called) - notes)
        if raised:
            return Changes(raised)
        if not changed:
            return Changes()
        model(*args)
        before = attributes(model)
        model(*args)
        moving = changed_between(before, attributes(model))
        held = _weights(model)
        settled = {n: held[n].detach().clone() for n in changed if n in held and _fits(untouched.get(n, ()), held[n])}
        moving = tuple(n for n in moving if n not in settled or not _nearly(before[n].values, settled[n]))
        if moving:
            return Changes(moving)
        given = other()
        later, first = model(*given), Changes(settled=settled).settle(make())(*given)
        moving = tuple(n for n in settled if not _nearly(_weights(model).get(n), settled[n]))
        if moving:  # the input decides what is left there
            return Changes(moving)
    return Changes((), settled) if _same_results(later, first, bool(settled)) else Changes(changed)


def _replaced(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Attributes with another tensor of the same numbers: a maximum, or an alarm, that nothing has raised."""
    pairs = {n: (before[n], after[n]) for n in before.keys() & after.keys()}
    return {
        name
        for name, (was, now) in pairs.items()
        if isinstance(was, _Held) and isinstance(now, _Held) and was.tensor is not now.tensor and was.same(now)
    }


def _moved_by_large(make: Callable[[], nn.Module], args: tuple[Any, ...], names: set[str]) -> tuple[str, ...]:
    """Those that large inputs move, where the model takes such."""
    for scale in (1e3, -1e3) if names else ():
        model = make()
        before = attributes(model)
        try:
            model(*pytree.tree_map(lambda t, by=scale: t * by if _is_real(t) else t, args))
        except Exception:  # such numbers are none of its inputs
            return ()
        moved = tuple(name for name in changed_between(before, attributes(model)) if name in names)
        if moved:
            return moved
    return ()


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, by dotted name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _fits(untouched: Any, later: Tensor) -> bool:
    """Whether a parameter or buffer can take its later numbers."""
    if untouched is None:
        return True
    if not isinstance(untouched, _Held):
        return False
    return untouched.tensor.shape == later.shape and untouched.tensor.dtype == later.dtype


def _nearly(a: Tensor | None, b: Tensor) -> bool:
    """Whether two states of a parameter are one but for rounding; whole numbers, such as counters, exactly."""
    if a is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.allclose(a, b, rtol=_SETTLED if b.is_floating_point() else 0, atol=0, equal_nan=True))


def _same_results(a: Any, b: Any, rounded: bool) -> bool:
    """rounded: parameters are the same but for rounding, and so are the results."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    if len(left) != len(right):
        return False
    for p, q in zip(left, right):
        if rounded and isinstance(p, Tensor) and isinstance(q, Tensor) and p.is_floating_point() and p.shape == q.shape:
            if not torch.allclose(
                p, q, rtol=1e-4, atol=1e-5 * float(p.abs().max()) if p.numel() else 0, equal_nan=True
            ):
                return False
        elif not _equal(p, q, _DEPTH):
            return False
    return True


def attributes(model: nn.Module) -> dict[str, Any]:
    """Dotted name -> a snapshot of the value of every attribute, parameter and buffer.

    Without the attributes of this library's own layers: what they keep are packed weights. Two copies may pack them for different
    kernels, the faster one each, whose sums differ in the last bit.
    """
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        own = type(module).__module__.startswith("rtaccel.nn.")
        values = {} if own else {k: v for k, v in module.__dict__.items() if k not in _OWN}
        for key, value in values.items():
            found[prefix + key] = _snapshot(value, _DEPTH)
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            found[prefix + key] = _Held(value, values=True) if isinstance(value, Tensor) else _snapshot(value, _DEPTH)
    return found


class _Held:
    """A tensor and its version: the same tensor in the same version has the same numbers.

    values: they are kept too, as `.data` of a parameter changes its numbers without a version.
    """

    def __init__(self, tensor: Tensor, values: bool = False) -> None:
        self.tensor = tensor
        self.values = tensor.detach().clone() if values and tensor.layout is torch.strided else None
        try:
            self.version: int | None = tensor._version
        except RuntimeError:  # made in inference mode: it counts none
            self.version = None
            self.tensor = tensor.clone()

    def same(self, other: _Held) -> bool:
        if self.values is not None and other.values is not None:
            return _equal_tensors(self.values, other.values)
        if self.tensor is other.tensor:
            return self.version is not None and self.version == other.version
        return _equal_tensors(self.tensor, other.tensor)


def _snapshot(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return _Held(value)
    if isinstance(value, nn.Module) or depth == 0:
        return _Identity(value)
    if isinstance(value, Mapping):
        return {key: _snapshot(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return (type(value), [_snapshot(part, depth - 1) for part in value])
    if isinstance(value, VALUES):
        return value
    if callable(getattr(value, "tobytes", None)):  # NumPy
        return (type(value), getattr(value, "shape", None), value.tobytes())
    if hasattr(value, "__dict__") and not callable(value):
        return (
            type(value),
            {k: _snapshot(v, depth - 1) for k, v in vars(value).items()},
        )  # another one of the same content
    return _Identity(value)


class _Identity:
    def __init__(self, value: Any) -> None:
        self.value = value


def changed_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    names = {**before, **after}
    return tuple(n for n in names if n not in before or n not in after or not _equal(before[n], after[n], _DEPTH + 2))


def _equal(a: Any, b: Any, depth: int) -> bool:
    if isinstance(a, _Held) and isinstance(b, _Held):
        return a.same(b)
    if isinstance(a, _Identity) and isinstance(b, _Identity):
        return a.value is b.value
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _equal_tensors(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k], depth - 1) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(p, q, depth - 1) for p, q in zip(a, b))
    if isinstance(a, float):
        return a == b or (a != a and b != b)
    return bool(a == b)


def _equal_tensors(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_floating_point() or a.is_complex():
        return bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))
    return bool(torch.equal(a, b))
