"""What is known before any input: constants, constants repeated over the samples, and tensors that are filled with a number."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph import Builder

aten = torch.ops.aten

_FILLED: dict[Any, Any] = {
    aten.zeros_like.default: 0,
    aten.ones_like.default: 1,
    aten.full_like.default: None,
    aten.new_zeros.default: 0,
    aten.new_ones.default: 1,
    aten.new_full.default: None,
}
"""Calls that read the shape of a tensor alone -> what they fill theirs with; None: the number is an argument."""


_IN_PARTS = {
    aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int, aten.tensor_split.indices,
}  # fmt: skip
"""Calls that give several parts of one tensor."""


def is_known(build: Builder, node: fx.Node) -> bool:
    """Whether the value of a call depends on no input, but for the number of samples; it is then computed, once and for all."""
    if node.target in _IN_PARTS:  # its parts are looked at one by one
        return all(reader.target is operator.getitem for reader in node.users) and _reads_known(build, node)
    return _is_filled(build, node) or _is_constant(build, node) or _is_repeated(build, node)


def _keep(build: Builder, node: fx.Node, value: Tensor, repeated: bool) -> bool:
    (build.repeated if repeated else build.constants)[node.name] = value
    return True


def _is_constant(build: Builder, node: fx.Node) -> bool:
    sources, meta = node.all_input_nodes, node.meta.get("val")
    if node.target is operator.getitem and _is_function(node):
        sources = sources[0].all_input_nodes
    if any(s.name not in build.constants for s in sources) or not _is_function(node):
        return False
    if not isinstance(meta, Tensor) or not all(isinstance(s, int) for s in meta.shape):
        return False
    found = _with_samples(build, node, None, 1)
    return found is not None and _keep(build, node, found, False)


def _is_filled(build: Builder, node: fx.Node) -> bool:
    if node.target not in _FILLED:
        return False
    value = _FILLED[node.target]
    if value is None:
        value = node.args[-1] if len(node.args) > 1 else node.kwargs.get("fill_value")
    meta = node.meta["val"]
    if not isinstance(value, (bool, int, float)) or meta.is_complex():
        return False
    shape = _shape_of_one(build, meta)
    if shape is None:
        return False
    return _keep(build, node, torch.full(shape[1], value, dtype=meta.dtype), shape[0])


def _shape_of_one(build: Builder, meta: Tensor) -> tuple[bool, list[int]] | None:
    """Whether dimension 0 is the samples, and the shape with one of them; None where another size is open."""
    if all(isinstance(s, int) for s in meta.shape):
        return False, list(meta.shape)
    if build.batch is None or not _open_first(meta):
        return None
    return True, [1, *meta.shape[1:]]


def _open_first(meta: Tensor) -> bool:
    first = meta.shape[0] if meta.dim() else 0
    if isinstance(first, int) or not first.node.expr.is_Symbol:
        return False
    return all(isinstance(s, int) for s in meta.shape[1:])


def _is_repeated(build: Builder, node: fx.Node) -> bool:
    """A value that is the same for every sample: a learned token that is expanded, zeros that a recurrence starts from, and
    what is computed from such values alone. It is computed for one sample, and held to what two would give."""
    meta = node.meta.get("val")
    if build.batch is None or not _is_function(node) or not isinstance(meta, Tensor) or not _open_first(meta):
        return False
    if node.target in (aten.empty.memory_format, aten.new_empty.default, aten.empty_like.default):
        return False
    symbol = meta.shape[0].node.expr  # type: ignore[attr-defined]
    if not _reads_known(build, node):
        return False
    one, two = (_with_samples(build, node, symbol, n) for n in (1, 2))
    if one is None or two is None or one.shape != (1, *meta.shape[1:]) or two.shape != (2, *meta.shape[1:]):
        return False
    if not torch.equal(two.nan_to_num(), one.expand(2, *one.shape[1:]).nan_to_num()):
        return False
    return _keep(build, node, one, True)


def _reads_known(build: Builder, node: fx.Node) -> bool:
    for source in node.all_input_nodes:
        known = source.name in build.constants or source.name in build.repeated
        known = known or (source.target in _IN_PARTS and _reads_known(build, source))
        if not known and not isinstance(source.meta.get("val"), torch.SymInt):
            return False
    return True


def _with_samples(build: Builder, node: fx.Node, symbol: Any, samples: int) -> Tensor | None:
    def value(source: fx.Node) -> Any:
        if source.name in build.repeated:
            known = build.repeated[source.name]
            return known.expand(samples, *known.shape[1:])
        if source.name in build.constants:
            return build.constants[source.name]
        if source.target in _IN_PARTS:
            return computed(source)
        size = source.meta["val"].node.expr.subs({symbol: samples})
        if not size.is_Integer:
            raise RuntimeError("a size of something else than the samples")
        return int(size)

    def computed(call: fx.Node) -> Any:
        args, kwargs = fx.map_arg((call.args, call.kwargs), value)
        return call.target(*args, **kwargs)  # type: ignore[operator]

    with torch.no_grad():
        try:
            found = computed(node)
        except RuntimeError:  # sizes of so few samples do not fit
            return None
    return found if isinstance(found, Tensor) else None


def _is_function(node: fx.Node) -> bool:
    """Whether the call gives the same for the same, and changes nothing."""
    if node.target is operator.getitem:
        return node.all_input_nodes[0].target in _IN_PARTS
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags
