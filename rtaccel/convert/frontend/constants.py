"""What is known before any input: constants, and tensors that are the same for every sample.

A value is free of the inputs where it is computed from parameters, numbers and the number of samples alone. It is computed here
for one sample and for two. Where the second is the first for each sample, it is kept as a constant of one sample, which
operators read as they read a parameter.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import aten

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph.builder import Builder


_FILLED: dict[Any, Any] = {
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
    aten.full_like.default: None,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.new_full.default: None,
    aten.empty.memory_format: 0,
    aten.empty_like.default: 0,
    aten.new_empty.default: 0,
}
"""Calls that read the shape of a tensor alone -> what they fill theirs with: an argument of theirs where it is None, and zeros
where it is nothing in particular."""


def is_known(build: Builder, node: fx.Node) -> bool:
    """Whether the tensor of a call is a constant, or the same for every sample; it is then computed, once and for all."""
    if not build.free_of_inputs(node):
        return False
    made = node.meta.get("val")
    if isinstance(made, (tuple, list)):  # its parts are looked at one by one
        return bool(made) and all(reader.target is operator.getitem for reader in node.users)
    if not isinstance(made, Tensor):
        return False
    open_dims = [d for d, size in enumerate(made.shape) if not isinstance(size, int)]
    if not open_dims:
        found = _computed(build, node, 1)
        if found is None or found.shape != made.shape or not _whatever_the_samples(build, node, found):
            return False
        build.constants[node.name] = found
        return True
    if len(open_dims) > 1 or build.batch is None or not made.shape[open_dims[0]].node.expr.is_Symbol:  # type: ignore[attr-defined]
        return False
    d = open_dims[0]
    one, two = _computed(build, node, 1), _computed(build, node, 2)
    shapes = [(*made.shape[:d], n, *made.shape[d + 1 :]) for n in (1, 2)]
    if one is None or two is None or [tuple(one.shape), tuple(two.shape)] != shapes:
        return False
    if not _same(two.nan_to_num(), one.expand(two.shape).nan_to_num()):
        return False
    build.repeated[node.name] = one
    return True


def _whatever_the_samples(build: Builder, node: fx.Node, found: Tensor) -> bool:
    """Whether a value without samples is the same for any number of them: a sum over what is repeated for each is not."""
    if build.batch is None or all(source.name in build.constants for source in node.all_input_nodes):
        return True
    two = _computed(build, node, 2)
    return two is not None and two.shape == found.shape and _same(two.nan_to_num(), found.nan_to_num())


def _same(two: Tensor, one: Tensor) -> bool:
    """Equal, or for floats apart by what a sum in another order differs by: torch multiplies matrices of other sizes so."""
    if not two.is_floating_point() or torch.equal(two, one):
        return torch.equal(two, one)
    return bool(torch.allclose(two, one, rtol=0.0, atol=16 * torch.finfo(two.dtype).eps * float(one.abs().max())))


def is_free(build: Builder, node: fx.Node) -> bool:
    """Whether a value depends on constants and on the number of samples alone. Its sources have been asked before."""
    if node.name in build.constants:
        return True
    if node.op != "call_function":
        return False
    made = node.meta.get("val")
    if isinstance(made, Tensor) and _is_empty(made):
        return _sizes(build, made)
    if isinstance(made, torch.SymInt):
        return bool(made.node.expr.free_symbols <= build.samples)
    if node.target in _FILLED:
        return isinstance(made, Tensor) and not made.is_complex() and _filling(node) is not None and _sizes(build, made)
    if node.target is aten.type_as.default:
        return build.free_of_inputs(node.args[0])  # type: ignore[arg-type]
    if node.target is not operator.getitem:
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        if node.target._schema.is_mutable or draws(node):
            return False
    return all(build.free_of_inputs(source) for source in node.all_input_nodes)


def draws(node: fx.Node) -> bool:
    """Whether the call draws random numbers. Attention is marked so for its dropout, which is none here."""
    if node.target is aten.scaled_dot_product_attention.default:
        dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return bool(dropout != 0.0)
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_empty(made: Any) -> bool:
    """Whether a tensor has no elements whatever the inputs are, such as the part of a split that is left over."""
    return isinstance(made, Tensor) and any(isinstance(s, int) and s == 0 for s in made.shape)


def _sizes(build: Builder, made: Tensor) -> bool:
    return all(isinstance(s, int) or s.node.expr.free_symbols <= build.samples for s in made.shape)


def _filling(node: fx.Node) -> Any:
    value = _FILLED[node.target]
    if value is None:
        value = node.args[-1] if len(node.args) > 1 else node.kwargs.get("fill_value")
    return value if isinstance(value, (bool, int, float)) else None


def _computed(build: Builder, node: fx.Node, samples: int) -> Any:
    """The value of a free node for so many samples; None where sizes of so few do not fit."""
    try:
        with torch.no_grad():
            return _value(build, node, samples)
    except (RuntimeError, IndexError):
        return None


def take_value(build: Builder, node: fx.Node, result: fx.Node) -> None:
    """What is free of the inputs in `result` is so in `node`, whose own arguments may not be."""
    for samples in (1, 2):
        build.computed[node.name, samples] = _computed(build, result, samples)


def _value(build: Builder, node: fx.Node, samples: int) -> Any:
    key = (node.name, samples)
    if node.name in build.constants:
        return build.constants[node.name]
    if key not in build.computed:
        build.computed[key] = _call(build, node, samples)
    return build.computed[key]


def _call(build: Builder, node: fx.Node, samples: int) -> Any:
    made = node.meta.get("val")
    if isinstance(made, torch.SymInt):
        return _number(build, made, samples)
    if _is_empty(made) or node.target in _FILLED:
        shape = [s if isinstance(s, int) else _number(build, s, samples) for s in made.shape]  # type: ignore[union-attr]
        return torch.full(shape, 0 if _is_empty(made) else _filling(node), dtype=made.dtype)  # type: ignore[union-attr]
    if node.target is aten.type_as.default:
        return _value(build, node.args[0], samples).to(made.dtype)  # type: ignore[arg-type,union-attr]
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: _value(build, n, samples))
    numbers = pytree.tree_map_only(torch.SymInt, lambda s: _number(build, s, samples), (args, kwargs))
    return node.target(*numbers[0], **numbers[1])  # type: ignore[operator]


def _number(build: Builder, size: Any, samples: int) -> int:
    found = size.node.expr.subs(dict.fromkeys(build.samples, samples))
    if not found.is_Integer:
        raise RuntimeError("a size of something else than the samples")
    return int(found)
