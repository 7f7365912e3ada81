"""Other weights for kernels that do not change: the memory that they read gets other contents.

A captured graph has the addresses of weights in it, and the numbers that a launch was given. So the kernels are prepared a
second time, from the new weights, and compared with those that run. Where all but the contents of tensors is the same, the
contents change places on the device, in the order of the model's calls: no capture, and no launch sees half of it.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_streams import Order
from rtaccel.core.errors import FormatError

EXPECTED = "kernels that differ in the contents of their tensors alone"
NEXT = "Compile the other model, and exchange the two."


class Exchange:
    """Contents of the tensors of two sets of prepared kernels, to be exchanged as often as one likes.

    running, fresh: what `prepare` gave, of the same stages in the same order. Raises FormatError, with nothing changed, where
    they differ in more than the contents of tensors.
    """

    def __init__(self, running: Any, fresh: Any) -> None:
        places: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for mine, other in _tensors(running, fresh, "plan", set()):
            a, b = mine.untyped_storage(), other.untyped_storage()
            if a.data_ptr() != b.data_ptr() and a.nbytes():
                places[a.data_ptr(), b.data_ptr()] = (_bytes(mine), _bytes(other))
        if len({a for a, _ in places}) != len(places) or len({b for _, b in places}) != len(places):
            raise _refused("tensors that share memory in one model, and not in the other")
        self._pairs = list(places.values())

    @property
    def bytes(self) -> int:
        """That one exchange moves to the kernels which run."""
        return sum(mine.numel() for mine, _ in self._pairs)

    def flip(self, order: Order) -> None:
        """Exchanges them, after the calls so far and before those to come. It is its own opposite."""
        with torch.no_grad(), order:
            for mine, other in self._pairs:
                kept = mine.clone()
                mine.copy_(other)
                other.copy_(kept)


def _bytes(tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),))  # type: ignore[call-overload]


def _refused(what: str) -> FormatError:
    return FormatError("swap", what, EXPECTED, NEXT)


def _kind(t: Tensor) -> tuple[object, ...]:
    """What kernels see beside the contents; where a tensor without elements would lie is nothing."""
    lies = (t.stride(), t.storage_offset(), t.untyped_storage().nbytes()) if t.numel() else ()
    return (t.shape, t.dtype, t.device, *lies)


def _tensors(a: Any, b: Any, path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors at the same places of two prepared kernels. Raises FormatError where something else differs."""
    if a is b or (id(a), id(b)) in seen:
        return
    seen.add((id(a), id(b)))
    if type(a) is not type(b):
        raise _refused(f"{path}: a {type(a).__name__} and a {type(b).__name__}")
    if isinstance(a, Tensor):
        if _kind(a) != _kind(b):
            raise _refused(f"{path}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
        if a.numel():
            yield a, b
        return
    key = getattr(type(a), "exchange_key", None)
    if key is not None:  # memory or code that holds nothing of the weights
        if key(a) != key(b):
            raise _refused(f"{path}: {key(a)} and {key(b)}")
        return
    parts = _parts(a, b)
    if parts is None:
        if not _same(a, b):
            raise _refused(f"{path}: {_short(a)} and {_short(b)}")
        return
    for name, left, right in parts:
        yield from _tensors(left, right, f"{path}.{name}", seen)


Part = tuple[str, Any, Any]


def _parts(a: Any, b: Any) -> list[Part] | None:
    """What two things of one type consist of; None for those that are compared as a whole."""
    for kind, parts in PARTS.items():
        if isinstance(a, kind):
            return parts(a, b)
    if dataclasses.is_dataclass(a):
        return [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return _of_mapping(vars(a), vars(b)) if hasattr(a, "__dict__") and _is_own(a) else None


def _is_own(a: Any) -> bool:
    """Whether it is one of this project's objects: of others the attributes say little."""
    return type(a).__module__.partition(".")[0] == "rtaccel"


def _of_function(a: Any, b: Any) -> list[Part]:
    if a.__code__ is not b.__code__:
        raise _refused(f"{a.__qualname__} and {b.__qualname__}")
    cells = zip(a.__code__.co_freevars, a.__closure__ or (), b.__closure__ or ())
    found = [(name, left.cell_contents, right.cell_contents) for name, left, right in cells]
    return [*found, ("defaults", a.__defaults__, b.__defaults__), ("keywords", a.__kwdefaults__, b.__kwdefaults__)]


def _of_mapping(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> list[Part]:
    if list(a) != list(b):
        raise _refused(f"{list(a)[:8]} and {list(b)[:8]}")
    return [(str(key), a[key], b[key]) for key in a]


def _of_sequence(a: Any, b: Any) -> list[Part]:
    if len(a) != len(b):
        raise _refused(f"{len(a)} and {len(b)} parts")
    return [(str(i), left, right) for i, (left, right) in enumerate(zip(a, b))]


PARTS: dict[Any, Callable[[Any, Any], list[Part]]] = {
    types.FunctionType: _of_function,
    types.MethodType: lambda a, b: [("self", a.__self__, b.__self__), ("function", a.__func__, b.__func__)],
    functools.partial: lambda a, b: [
        ("func", a.func, b.func),
        ("args", a.args, b.args),
        ("keywords", a.keywords, b.keywords),
    ],
    Mapping: _of_mapping,
    (list, tuple): _of_sequence,
}


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and a != a and b != b)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
