"""Tensors that are the same for every sample: filled with a number, or computed from such tensors and constants alone.

They are kept as constants of one sample, so that operators take them as they take parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.view_ops import Arguments

aten = torch.ops.aten
FILLS: dict[Any, int | str] = {
    aten.full.default: "fill_value", aten.full_like.default: "fill_value", aten.new_full.default: "fill_value",
    aten.zeros.default: 0, aten.zeros_like.default: 0, aten.new_zeros.default: 0,
    aten.ones.default: 1, aten.ones_like.default: 1, aten.new_ones.default: 1,
}  # fmt: skip
"""What fills a tensor with a number, or the name of the argument that says it."""
ALIKE = (aten._to_copy.default, aten.clone.default, aten.unsqueeze.default, aten.slice.Tensor, aten.view.default,
         aten.select.int, aten.expand.default, aten.permute.default, aten.cat.default, aten.embedding.default,
         aten.index.Tensor, aten.transpose.int, aten.linear.default, aten.mm.default, aten.addmm.default,
         aten.__and__.Tensor, aten.__or__.Tensor)  # fmt: skip
"""What may be computed for one sample where it is the same for all; that the result is of one is looked at."""

ALONG = (aten.cumsum.default, aten.sum.dim_IntList, aten.mean.dim, aten.any.dim, aten.all.dim, aten.softmax.int,
         aten.argmax.default, aten.flip.default, aten.diff.default)  # fmt: skip
"""The same, where the dimensions that the call names are not those of the samples."""


def _along_others(node: fx.Node) -> bool:
    if node.target not in ALONG:
        return False
    source = node.all_input_nodes[0].meta.get("val")
    given = Arguments(node)["dims" if node.target is aten.flip.default else "dim"]
    dims = [given] if isinstance(given, int) else list(given or [])
    return isinstance(source, Tensor) and bool(dims) and all(isinstance(source.shape[d], int) for d in dims)


def _is_pointwise(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def counts_samples(value: Any) -> bool:
    """Whether an index is 0, 1, 2, ... for as many samples as there are: each takes of itself."""
    if not isinstance(value, fx.Node):
        return False
    open_sizes = [s.node.expr for s in value.meta["val"].shape if not isinstance(s, int)]
    while value.target in (
        aten.view.default, aten.unsqueeze.default, aten.expand.default, aten.reshape.default, aten.alias.default,
        aten.slice.Tensor,
    ):  # fmt: skip
        value = value.args[0]
    if value.target not in (aten.arange.default, aten.arange.start, aten.arange.start_step):
        return False
    size, given = value.meta["val"].shape[0], Arguments(value)
    start = 0 if value.target is aten.arange.default else given["start"]
    step = given["step"] if value.target is aten.arange.start_step else 1
    if isinstance(size, int) or not size.node.expr.is_Symbol or start != 0 or step != 1:
        return False
    return open_sizes == [size.node.expr]


def _own_sample(node: fx.Node, repeated: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Indices by which each sample takes of itself, as those of one sample."""
    source, indices = node.args[0], node.args[1]
    known = repeated.get(getattr(source, "name", ""))
    if known is None or not isinstance(indices, (list, tuple)):
        return {}
    return {
        index.name: torch.zeros([s if isinstance(s, int) else 1 for s in index.meta["val"].shape], dtype=torch.int64)
        for d, index in enumerate(indices)
        if isinstance(index, fx.Node) and known.shape[d] == 1 and counts_samples(index)
    }


def of_one_sample(node: fx.Node, repeated: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor of one sample, 1 in the dimension of the samples; None where samples may differ, or where none is theirs alone.

    repeated: what is known to be alike for all samples, of one.
    """
    made = node.meta.get("val")
    sizes: list[Any] = list(made.shape) if isinstance(made, Tensor) else []
    samples = [s for s in sizes if not isinstance(s, int)]
    if not isinstance(made, Tensor) or len(samples) != 1 or not samples[0].node.expr.is_Symbol:
        return None
    shape = tuple(s if isinstance(s, int) else 1 for s in sizes)
    if node.target in FILLS:
        named = FILLS[node.target]
        value = Arguments(node)[named] if isinstance(named, str) else named
        return torch.full(shape, value, dtype=made.dtype) if isinstance(value, (bool, int, float)) else None
    if node.target not in ALIKE and not _is_pointwise(node.target) and not _along_others(node):
        return None
    known = {**repeated, **constants}
    if node.target is aten.index.Tensor:
        known.update(_own_sample(node, repeated))
    sources = [s.name for s in node.all_input_nodes if isinstance(s.meta.get("val"), Tensor)]
    if not any(name in repeated for name in sources) or not all(name in known for name in sources):
        return None
    with torch.no_grad():  # sizes of the batch are 1 too
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known.get(n.name, 1))
        result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return result if tuple(result.shape) == shape else None
