"""torch.as_strided as a view: strides of torch's own storage, which a value here may not have."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import hints
from rtaccel.convert.frontend.view_ops import Arguments, looks
from rtaccel.core.errors import UnsupportedProblem

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph.builder import Builder

OF_STORAGE = {aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default}


def expect_own_strides(node: fx.Node) -> None:
    """Raises UnsupportedProblem for a call of torch that counts in the strides of torch's storage."""
    if node.target in OF_STORAGE:
        raise _not_dense(node)


@looks(aten.as_strided.default, aten.as_strided_copy.default)
def _as_strided(build: Builder, view: View, node: fx.Node, call: Arguments) -> View:
    """Of a tensor that is dense in the order of its strides, and inside each sample. Raises UnsupportedProblem for any other: a
    value here may lie in another order than torch's, so that strides of torch's mean nothing in it."""
    dense = _in_memory_order(build, view, node.args[0].meta["val"])  # type: ignore[union-attr]  # `look` checked it
    seen = node.meta["val"]
    sizes, strides, start = hints(seen.shape), hints(seen.stride()), seen.storage_offset()
    batch = next((a for dim in view.dims for a in dim if a.batch), None)
    if dense is None or not isinstance(start, int):
        raise _not_dense(node)
    dims: list[tuple[Atom, ...]] = [(Atom(n, s),) for n, s in zip(sizes, strides)]
    elements = prod(a.size for a in dense.atoms if not a.batch)
    if batch is not None and sizes and (sizes[0], strides[0]) == (batch.size, elements):
        dims[0] = (batch,)
    elif batch is not None and sizes and batch.size == 1:
        dims[0] = (batch, *dims[0])
    elif batch is not None:
        raise _not_dense(node)
    last = start + sum((a.size - 1) * a.stride for dim in dims for a in dim if not a.batch)
    if not 0 <= start <= last < elements or 0 in sizes:
        raise _not_dense(node)
    return View(dense.base, tuple(dims), dense.offset + start)


def _in_memory_order(build: Builder, view: View, traced: Tensor) -> View | None:
    """The view with its dimensions in the order in which torch stores them, dense; None where torch's storage is not."""
    strides, shape = hints(traced.stride()), hints(traced.shape)
    order = sorted(range(len(shape)), key=lambda d: (not (view.has_batch(d) and shape[d] == 1), -strides[d]))
    expected = 1
    for d in reversed(order):
        if shape[d] != 1 and strides[d] != expected:
            return None
        expected *= shape[d]
    if traced.storage_offset() != 0 or any(view.has_batch(d) for d in order[1:]):
        return None
    turned = layout.permute(view, order)
    in_order = len(layout.merged([a for a in turned.atoms if not a.batch])) <= 1
    return turned if in_order and layout.covers(turned, build.buffers[view.base].elements) else build.packed(turned)


def _not_dense(node: fx.Node) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile", f"{node.target} to {hints(node.meta['val'].shape)} of memory that is not dense or not of each sample",
        "strides within a contiguous tensor", "Use unfold, slices or an index.",
    )  # fmt: skip
