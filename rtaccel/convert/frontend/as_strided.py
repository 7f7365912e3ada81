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
    """Of a tensor that is dense in the order of its strides, and inside each sample, or along its dimensions. Raises
    UnsupportedProblem for any other: a value here may lie in another order than torch's, so that strides of torch's mean nothing
    in it."""
    traced: Tensor = node.args[0].meta["val"]  # type: ignore[union-attr]  # `look` checked it
    dense = _in_memory_order(build, view, traced)
    seen = node.meta["val"]
    sizes, strides, start = hints(seen.shape), hints(seen.stride()), seen.storage_offset()
    batch = next((a for dim in view.dims for a in dim if a.batch), None)
    if not isinstance(start, int):
        raise _not_dense(node)
    if dense is None:
        found = _along_dimensions(view, traced, sizes, strides) if start == traced.storage_offset() else None
        if found is None:
            raise _not_dense(node)
        return found
    dims: list[tuple[Atom, ...]] = [(Atom(n, s),) for n, s in zip(sizes, strides)]
    elements = prod(a.size for a in dense.atoms if not a.batch)
    # Of a sample: heads that are joined with the samples.
    each = sizes[0] // batch.size if batch is not None and sizes else 0
    if batch is not None and each and sizes[0] == each * batch.size and strides[0] * each == elements:
        dims[0] = (batch,) if each == 1 else (batch, Atom(each, strides[0]))
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


def _along_dimensions(view: View, traced: Tensor, sizes: list[int], strides: list[int]) -> View | None:
    """Where each dimension that is asked for goes along one direction of the memory by whole steps, and stays within it: windows
    over time steps, whatever lies between these. None where one does not. The dimension with the samples stays as it is."""
    # Elements, how far apart they are in torch's storage, and how they lie here.
    directions: list[tuple[int, int, tuple[Atom, ...]]] = []
    for d in sorted(range(traced.dim()), key=lambda d: -hints(traced.stride())[d]):
        size, stride, atoms = hints(traced.shape)[d], hints(traced.stride())[d], view.dims[d]
        last = directions[-1] if directions else None
        joined = [] if last is None else layout.merged([*last[2], *atoms])
        if last is not None and last[1] == size * stride and len(joined) == 1 and not joined[0].batch:
            directions[-1] = (last[0] * size, stride, tuple(joined))
        else:
            directions.append((size, stride, atoms))
    left = [size - 1 for size, _, _ in directions]  # steps that are not taken yet
    dims: list[tuple[Atom, ...]] = []
    for size, stride in zip(sizes, strides):
        at = next((i for i, (n, apart, _) in enumerate(directions) if n > 1 and apart <= stride), None)
        if size == 1 or at is None:
            if size != 1:
                return None
            dims.append(())
            continue
        n, apart, atoms = directions[at]
        steps, rest = divmod(stride, apart)
        left[at] -= steps * (size - 1)
        if left[at] < 0 or rest:
            return None
        along = layout.merged(atoms)
        if (size, steps) == (n, 1):
            dims.append(atoms)
        elif len(along) == 1 and not along[0].batch:
            dims.append((Atom(size, steps * along[0].stride),))
        else:
            return None
    samples = [i for i, (n, _, atoms) in enumerate(directions) if n > 1 and any(a.batch for a in atoms)]
    return None if any(left[i] for i in samples) else View(view.base, tuple(dims), view.offset)


def _not_dense(node: fx.Node) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile", f"{node.target} to {hints(node.meta['val'].shape)} of memory that is not dense or not of each sample",
        "strides within a contiguous tensor", "Use unfold, slices or an index.",
    )  # fmt: skip
