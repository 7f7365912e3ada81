"""Where a model keeps what one call leaves for the next: buffers and attributes that are tensors, or trees of them.

A copy of the model is called a few times with different numbers, and what moved is looked at. A tensor of one shape and dtype is
state that can be given and taken. A tensor whose shape moves, or a number of Python that does, can not.

What only the first call changes is settled afterwards: caches, notes of Python. The model is captured as it is from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.attribute_state import attributes, changed_between
from rtaccel.core.errors import UnsupportedProblem

CARRIED = dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float32) | dict.fromkeys(
    (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool), torch.int64
)
"""Dtype of a state -> the one that a plan keeps it in, which holds every number of it."""

CALLS = 4


@dataclass(frozen=True)
class Place:
    """A buffer or attribute: name of its module, and its own. spec: the tree of its value. fixed: leaves of it that are no
    tensors, by number. leaves: names of the others, in order, as a state dict has them. buffer: whether it is one."""

    module: str
    name: str
    spec: Any
    fixed: Mapping[int, Any]
    leaves: tuple[str, ...]
    buffer: bool

    def get(self, model: nn.Module) -> Any:
        return _get(model.get_submodule(self.module), self.name)

    def put(self, model: nn.Module, value: Any) -> None:
        """As a plain attribute: torch.export would make a result of what is written to a buffer."""
        model.get_submodule(self.module).__dict__[self.name] = value

    def remove(self, model: nn.Module) -> None:
        module = model.get_submodule(self.module)
        module._buffers.pop(self.name, None)
        module.__dict__.pop(self.name, None)

    def tree(self, tensors: list[Tensor]) -> Any:
        """The value with these tensors in it, which are taken off the list."""
        count = self.spec.num_leaves
        leaves = [self.fixed[i] if i in self.fixed else tensors.pop(0) for i in range(count)]
        return pytree.tree_unflatten(leaves, self.spec)

    def tensors(self, value: Any) -> list[Tensor] | None:
        """Those of a value; None where it is another tree."""
        leaves, spec = pytree.tree_flatten(value)
        if spec != self.spec:
            return None
        found = [leaf for i, leaf in enumerate(leaves) if i not in self.fixed]
        return found if all(isinstance(t, Tensor) for t in found) else None


@dataclass(frozen=True)
class OwnState:
    """places: of all that a call changes and a later one may read. initial: the tensors there before the first call, in order;
    later: after some. assumed: places that held none of the later shape then, for which zeros stand. settled: a copy of the model
    that was called."""

    places: tuple[Place, ...]
    initial: tuple[Tensor, ...]
    later: tuple[Tensor, ...]
    assumed: tuple[str, ...]
    settled: nn.Module

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for place in self.places for name in place.leaves)


def own_state(
    make: Callable[[], nn.Module],
    args: tuple[Any, ...],
    other: Callable[[], tuple[Any, ...]],
    also: frozenset[str] = frozenset(),
) -> OwnState:
    """make: gives a copy of the model as it stands. other: arguments of the same shapes with other numbers. also: what is known
    to be state, whether or not these calls move it.

    Raises UnsupportedProblem, naming it, for state of another kind, and what the model raises.
    """
    model, first = make(), make()
    before = attributes(model)
    values: list[dict[str, Any]] = []
    moved: list[tuple[str, ...]] = []
    with torch.no_grad():
        for call in range(CALLS):
            model(*(args if call == 0 else other()))
            after = attributes(model)
            moved.append(changed_between(before, after))
            values.append({name: _leaves(model, name) for name in after})
            before = after
    later = {name for names in moved[1:] for name in names}
    settled = {name for name in moved[0] if name not in later and _is_same_kind(first, model, name)}
    weights = {name for name, _ in model.named_parameters()}
    places, initial, assumed = [], [], []
    for name in before:  # in the order of the model
        if name not in later | settled | also or (name in weights and name not in later | also):
            continue
        if name in weights:
            raise _refused(f"self.{name}", "a parameter", "Keep what changes in a buffer.")
        place = _place(model, name, [v.get(name) for v in values])
        found, zeros = _initial(first, place, model)
        places.append(place)
        initial += found
        assumed += [name] if zeros else []
    missing = later - {*before}
    if missing:
        raise _refused(f"self.{min(missing)}", "which comes and goes", "Keep it in one place.")
    if not places:
        raise _refused("itself", "where no buffer or attribute shows it", "Keep it in a buffer.")
    _check_apart(first, places, initial, _changed_in_place(make(), places, args))
    ends = [t.detach().clone() for place in places for t in place.tensors(place.get(model)) or []]
    return OwnState(tuple(places), tuple(initial), tuple(ends), tuple(assumed), model)


def _refused(name: str, why: str, next_step: str) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile",
        f"a model that changes {name} when called, {why}",
        "state in tensors that keep their shape and dtype",
        next_step,
    )


def _get(module: nn.Module, name: str) -> Any:
    for held in (module._buffers, module._parameters, module.__dict__):
        if name in held:
            return held[name]
    return None


def _split(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own


def _leaves(model: nn.Module, name: str) -> tuple[list[Any], Any]:
    """The leaves of a value and its tree; of tensors, what they are like."""
    leaves, spec = pytree.tree_flatten(_get(*_split(model, name)))
    return [_kind(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec


@dataclass(frozen=True)
class _Kind:
    """Of a tensor: what stays the same from call to call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    layout: torch.layout

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}".removeprefix("torch.")


def _kind(tensor: Tensor) -> _Kind:
    return _Kind(tuple(tensor.shape), tensor.dtype, tensor.device.type, tensor.layout)


def _is_same_kind(first: nn.Module, model: nn.Module, name: str) -> bool:
    """Of what the first call alone changed: whether it was and is a tensor of one shape. Others are caches and notes."""
    before, after = _get(*_split(first, name)), _get(*_split(model, name))
    return isinstance(before, Tensor) and isinstance(after, Tensor) and _kind(before) == _kind(after)


def _place(model: nn.Module, name: str, found: list[Any]) -> Place:
    """found: leaves and tree of the value after each call."""
    (leaves, spec), *others = found
    fixed = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, _Kind)}
    for other, tree in others:
        if tree != spec or [type(a) for a in other] != [type(a) for a in leaves]:
            raise _refused(
                f"self.{name}", "whose parts are others at each call", "Keep as many tensors from the start."
            )
        for was, now in zip(leaves, other):
            if isinstance(was, _Kind) and was != now:
                raise _refused(
                    f"self.{name}",
                    f"whose shape changes from call to call ({was}, then {now})",
                    "Keep a buffer of a fixed size, or the newest rows of it.",
                )
            if not isinstance(was, _Kind) and not (was is now or was == now):
                raise _refused(
                    f"self.{name}", "which is no tensor", "Count in a buffer: torch.zeros((), dtype=torch.int64)."
                )
    if len(fixed) == len(leaves):
        raise _refused(f"self.{name}", "which is no tensor", "Keep tensors in a buffer.")
    for kind in leaves:
        if isinstance(kind, _Kind) and (
            kind.dtype not in CARRIED or kind.device != "cpu" or kind.layout is not torch.strided or 0 in kind.shape
        ):
            raise _refused(f"self.{name}", f"{kind} on {kind.device}", "Keep float32 or int64 on the CPU.")
    path, _, own = name.rpartition(".")
    keys = [f"{name}{_text(key)}" for key, _ in pytree.tree_flatten_with_path(_template(spec))[0]]
    leaves_of = tuple(key for i, key in enumerate(keys) if i not in fixed)
    return Place(path, own, spec, fixed, leaves_of, own in model.get_submodule(path)._buffers)


def _template(spec: Any) -> Any:
    return pytree.tree_unflatten([0] * spec.num_leaves, spec)


def _text(path: Any) -> str:
    """Where in a tree: ".0" of a tuple, ".h" of a dict."""
    words = [str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", key)))) for key in path]
    return "".join(f".{word}" for word in words)


def _initial(first: nn.Module, place: Place, model: nn.Module) -> tuple[list[Tensor], bool]:
    """What stood there before any call, and whether zeros stand for it. A number stands for a tensor of it."""
    made = place.tensors(place.get(model)) or []
    leaves, spec = pytree.tree_flatten(place.get(first))
    given = (
        [leaf for i, leaf in enumerate(leaves) if i not in place.fixed] if spec == place.spec else [None] * len(made)
    )
    found, assumed = [], False
    for old, new in zip(given, made):
        if isinstance(old, Tensor) and _kind(old) == _kind(new):
            found.append(old.detach())
        elif isinstance(old, (bool, int, float)):
            found.append(torch.full_like(new, old))
        else:
            found.append(torch.zeros_like(new))
            assumed = True
    return found, assumed


def _changed_in_place(model: nn.Module, places: list[Place], args: tuple[Any, ...]) -> list[bool]:
    """Of each tensor that a model holds as state, whether a call writes into it, or puts another there. model: is called."""
    held = [t for place in places for t in place.tensors(place.get(model)) or []]
    if len(held) != sum(len(place.leaves) for place in places):
        return [True] * sum(len(place.leaves) for place in places)  # it holds others before the first call
    before = [t.detach().clone() for t in held]
    versions = [None if t.is_inference() else t._version for t in held]
    with torch.no_grad():
        model(*args)
    return [
        version is None or t._version != version or not torch.equal(t.detach().nan_to_num(), was.nan_to_num())
        for t, was, version in zip(held, before, versions)
    ]


def _check_apart(first: nn.Module, places: list[Place], initial: list[Tensor], written: list[bool]) -> None:
    """Raises UnsupportedProblem where a state shares memory with another, or with a weight, and a call writes into it: it changes
    both then."""
    own = {id(place.get(first)) for place in places}
    rest = [t for t in (*first.parameters(), *first.buffers()) if id(t) not in own]
    taken = dict.fromkeys(
        (t.untyped_storage().data_ptr() for t in rest if t.layout is torch.strided and t.numel()), False
    )
    names = [n for place in places for n in place.leaves]
    for name, tensor, writes in zip(names, initial, written):
        start = tensor.untyped_storage().data_ptr()
        if start in taken and (writes or taken[start]):
            raise _refused(f"self.{name}", "which shares memory with another tensor", "Clone it.")
        taken[start] = taken.get(start, False) or writes
