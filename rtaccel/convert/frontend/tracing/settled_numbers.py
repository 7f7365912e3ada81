"""Numbers that a model's Python reads of its own constants while torch.export traces it: those that they always have.

A trace has shapes alone. So `int(self.edges.max())`, `if self.ready:` and `x[:, self.mask]` stop it, or leave sizes that nobody
knows. No input changes these numbers. Beside each small tensor that only constants lead to, the same calls are made with the
constants themselves, on copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

MAX_NUMBERS = 65_536
"""Of a tensor: larger ones are not computed beside the trace."""

_READS = {
    Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.tolist, Tensor.numpy,
    Tensor.__array__, Tensor.is_nonzero, torch.is_nonzero, Tensor.equal, torch.equal, Tensor.allclose, torch.allclose,
}  # fmt: skip
_SIZED = {
    torch.nonzero, Tensor.nonzero, torch.argwhere, Tensor.argwhere, torch.masked_select, Tensor.masked_select, torch.where,
    Tensor.where, torch.unique, Tensor.unique, torch.unique_consecutive, Tensor.unique_consecutive, torch.bincount,
    Tensor.bincount, torch.repeat_interleave, Tensor.repeat_interleave,
}  # fmt: skip
"""Whose results may be as large as numbers say: they are constants of their own."""

_MAKES = {
    torch.tensor, torch.as_tensor, torch.arange, torch.zeros, torch.ones, torch.full, torch.eye, torch.linspace,
    torch.tril_indices, torch.triu_indices,
}  # fmt: skip
_REPEATS = {torch.repeat_interleave, Tensor.repeat_interleave}
_DRAWN = (
    "rand",
    "bernoulli",
    "multinomial",
    "dropout",
    "normal",
    "uniform",
    "exponential",
    "poisson",
    "empty",
    "resize",
    "set_",
)
"""In names of calls that draw numbers, or leave what stood in memory."""


@contextmanager
def settled_numbers(model: nn.Module) -> Iterator[None]:
    """Inside, while the model's forward runs, such a read gives the number. Of what an input has a part in, nothing is known."""
    mode = _SettledNumbers(model)
    hooks = (
        model.register_forward_pre_hook(mode.begin),
        model.register_forward_hook(mode.end, always_call=True),
    )
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _SettledNumbers(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model, self._runs = model, False
        self._stored = dict(_held(model))
        self._known: dict[
            int, tuple[Tensor, Tensor | None]
        ] = {}  # by id: the traced one, which is kept alive, and its numbers
        self._traced: dict[int, Tensor] = {}  # by id of what stands in its place: the constant

    def begin(self, *_: Any) -> None:
        """The modules hold what torch.export traces, in place of their constants."""
        self._traced = {id(tensor): self._stored[at] for at, tensor in _held(self._model) if at in self._stored}
        self._known, self._runs = {}, True

    def end(self, *_: Any) -> None:
        self._runs = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._runs:
            return func(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        traced = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(t.device.type == "meta" for t in traced) or not (
            traced or func in _MAKES
        ):  # torch's own, inside a trace
            return func(*args, **kwargs)
        numbers = [self._numbers(tensor) for tensor in traced]
        name = getattr(func, "__name__", "")
        written = _written(func, name, args, kwargs)
        apart = any(isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) for leaf in leaves)
        if apart or any(n is None for n in numbers) or any(word in name for word in _DRAWN):
            self._forget(numbers[i] for i, t in enumerate(traced) if any(t is w for w in written))
            made = self._repeated(args, kwargs) if func in _REPEATS else NotImplemented
            return func(*self._with_places(func, args), **kwargs) if made is NotImplemented else made
        given = iter(numbers)
        beside = pytree.tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
        if func in _READS:
            return _apart(func, beside)
        if func in _SIZED or (func is Tensor.__getitem__ and any(t.dtype is torch.bool for t in traced[1:])):
            made = _apart(func, beside)
            return pytree.tree_map_only(Tensor, self._literal, made)
        found = func(*args, **kwargs)
        if not (written or any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(found))):
            return found
        try:
            made = _apart(func, beside)
        except Exception:  # torch takes it in a trace alone
            self._forget(numbers[i] for i, t in enumerate(traced) if any(t is w for w in written))
            return found
        self._note(found, made)
        return found

    def _note(self, found: Any, made: Any) -> None:
        for one, numbers in zip(pytree.tree_leaves(found), pytree.tree_leaves(made)):
            if isinstance(one, Tensor) and isinstance(numbers, Tensor) and numbers.numel() <= MAX_NUMBERS:
                self._known[id(one)] = one, numbers

    def _numbers(self, tensor: Tensor) -> Tensor | None:
        """None where they are not known."""
        if id(tensor) not in self._known:
            stored = self._stored_of(tensor)
            small = stored is not None and stored.numel() <= MAX_NUMBERS and stored.layout is torch.strided
            self._known[id(tensor)] = tensor, _apart(_copied, ((stored,), {})) if small else None
        return self._known[id(tensor)][1]

    def _stored_of(self, tensor: Tensor) -> Tensor | None:
        """The constant that a traced tensor stands for."""
        if id(tensor) in self._traced:
            return self._traced[id(tensor)]
        plain = type(tensor) in (Tensor, nn.Parameter) and not isinstance(tensor, FakeTensor)
        return tensor if plain and not torch._is_functional_tensor(tensor) else None

    def _forget(self, numbers: Iterable[Tensor | None]) -> None:
        """What was written to otherwise, and all that shares memory with it."""
        for gone in numbers:
            start = None if gone is None else gone.untyped_storage().data_ptr()
            for key, (tensor, held) in self._known.items():
                if held is not None and held.untyped_storage().data_ptr() == start:
                    self._known[key] = tensor, None

    def _literal(self, numbers: Tensor) -> Tensor:
        """A constant of the graph."""
        found = torch.tensor(numbers.tolist(), dtype=numbers.dtype).reshape(numbers.shape)
        self._known[id(found)] = found, numbers
        return found

    def _with_places(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments whose masks are the places where they are true, each dimension of a mask as an index."""
        if func not in (Tensor.__getitem__, Tensor.__setitem__):
            return args
        places: list[Any] = []
        for one in args[1] if isinstance(args[1], tuple) else (args[1],):
            numbers = self._numbers(one) if isinstance(one, Tensor) else None
            if numbers is None or numbers.dtype is not torch.bool or not numbers.dim():
                places.append(one)
            else:
                places += [self._literal(p) for p in _apart(Tensor.nonzero, ((numbers,), {"as_tuple": True}))]
        return (args[0], tuple(places) if isinstance(args[1], tuple) or len(places) > 1 else places[0], *args[2:])

    def _repeated(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is repeated as often as constants say: rows by their places. NotImplemented for another call."""
        x, times = args[0], kwargs.get("repeats", args[1] if len(args) > 1 else None)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
        numbers = self._numbers(times) if isinstance(times, Tensor) and times.dim() else None
        if numbers is None or dim is None or not isinstance(x.shape[dim], int) or numbers.numel() != x.shape[dim]:
            return NotImplemented
        places = _apart(torch.repeat_interleave, ((numbers,), {}))
        return x.index_select(dim, self._literal(places))


def _held(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _written(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that a call may write into."""
    special = name.startswith("__")
    inside = (name.endswith("_") and not special) or func is Tensor.__setitem__ or name.startswith("__i")
    first = [args[0]] if args and (inside or kwargs.get("inplace") or name == "__set__") else []
    return first + [leaf for leaf in pytree.tree_leaves(kwargs.get("out")) if isinstance(leaf, Tensor)]


def _apart(func: Callable[..., Any], given: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """The call as torch computes it, which no trace sees."""
    args, kwargs = given
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        return func(*args, **kwargs)
