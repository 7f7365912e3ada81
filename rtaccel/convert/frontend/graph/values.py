"""Stored values of a graph that is being built, and views: where the elements of its tensors lie in them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.decompositions.half import HALVES
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.small import SMALL
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, gather_node, hints, module_name
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

_VECTOR = 16
"""Numbers from which on a row fills vectors."""
_DTYPES = {torch.float32: "float32", torch.int64: "int64"}
STORED_APART = {
    **dict.fromkeys((torch.bool, *SMALL, *HALVES), "float32"),
    torch.int32: "int64",
}


class Values:
    """Rules ask it for views and for values they can read; copies that they need are nodes of their own."""

    def __init__(self, exported: ExportedGraph, batch: int | None, windowed: bool) -> None:
        """windowed: every row is a time step that must stay where it is, so that the graph can be streamed."""
        self.exported, self.batch, self.windowed = exported, batch, windowed
        self.views: dict[str, View] = {}
        self.buffers: dict[str, Buffer] = {}
        self.op_nodes: list[OpNode] = []
        self._packed: dict[tuple[str, int, bytes], str] = {}

    def adopt(self, node: fx.Node) -> None:
        """The tensor of a node that lies in memory as torch made it: an input, or the result of a torch call."""
        meta = node.meta.get("val")
        if not isinstance(meta, Tensor) or meta.dtype not in _DTYPES:
            return
        shape = self._shape(node)
        if shape is not None:
            self.views[node.name] = layout.dense(node.name, shape, self.batch)
            self.buffers[node.name] = Buffer(prod(shape), 0, _DTYPES[meta.dtype])

    def _shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Of one sample of a tensor that torch made; None where it is not the samples of dense tensors."""
        meta = node.meta["val"]
        if meta.dim() == 0 and self.batch is not None:
            return None  # one number for all samples
        shape = sizes(meta)
        if self.batch is not None:
            own = node.name in self.exported.inputs
            first = meta.shape[0]
            symbol = not isinstance(first, int) and first.node.expr.is_Symbol
            if not (symbol if self.exported.any_batch else own):
                return None
            if any(not isinstance(s, int) for s in meta.shape[1:]):
                return None
            shape = shape[1:]
        elif any(not isinstance(s, int) for s in meta.shape):
            return None
        return shape if prod(shape) else None

    def _widen(self, node: fx.Node) -> None:
        """An input of truth values, whole numbers of one to four bytes, or in half precision, in the dtype that operators compute
        in."""
        dtype = stored_apart(node)
        shape = self._shape(node) if dtype is not None else None
        if dtype is None or shape is None:
            return
        given, elements = str(dtype).removeprefix("torch."), prod(shape)
        name = f"{node.name}:wide"
        self.buffers[node.name] = Buffer(elements, elements, given)
        self.buffers[name] = Buffer(elements, 0, STORED_APART[dtype])
        self.views[node.name] = layout.dense(name, shape, self.batch)
        role, attrs = Role.CAST, {}
        if dtype not in HALVES:
            role = Role.WHOLE
            attrs = {
                "program": ("truth x0" if dtype == torch.bool else "copy x0",),
                "dims": (elements,),
                "places": ((0, 1),),
            }
        self.op_nodes.append(OpNode(with_role(role).name, node, node.name, [node.name], [name], attrs=attrs))

    def view(self, node: Any) -> View | None:
        return self.views.get(node.name) if isinstance(node, fx.Node) else None

    def pin(self, base: str, width: int) -> bool:
        """Whether the rows of a value are `width` wide; decides it where the value is still open."""
        buffer = self.buffers[base]
        if buffer.width == 0 and width and buffer.elements % width == 0:
            buffer.width = width
        return buffer.width == width

    def packed(self, view: View, order: View | None = None, width: int | None = None, tag: str = "packed") -> View:
        """The elements of a view in a value of their own: dense in the order of its dimensions, or of `order`, a dense
        view of the same shape. width: of the new rows, that of the last dimension where none is given."""
        if order is None:
            order = self._dense_like(view)
        source, place = layout.offsets(view).reshape(-1), layout.offsets(order).reshape(-1)
        index = np.empty(source.size, dtype=np.int64)
        index[place] = source
        width = width or (prod(a.size for a in view.dims[-1] if not a.batch) if view.dims else 1)
        key = (view.base, width, index.tobytes())
        if key not in self._packed:
            name = f"{view.base.split(':')[0]}:{tag}{len(self._packed)}"
            dtype = self.buffers[view.base].dtype
            self.buffers[name] = Buffer(index.size, width, dtype)
            attrs = self._rearrangement(view.base, index, width)
            node = next(n for n in self.exported.graph.nodes if n.name == view.base.split(":")[0])
            self.op_nodes.append(gather_node(node, module_name(node), view.base, name, attrs))
            self._packed[key] = name
        return View(self._packed[key], order.dims, 0)

    def cut(self, view: View, dim: int, start: int, end: int, step: int = 1) -> View | None:
        """A slice of a dimension: of a packed copy, where no strides describe it in place. None where it has no elements."""
        found = layout.slice_of(view, dim, start, end, step)
        if found is None and start < end and not view.has_batch(dim):
            found = layout.slice_of(self.packed(view), dim, start, end, step)
        return found

    @staticmethod
    def _dense_like(view: View) -> View:
        """Strides of a dense tensor in the order of the dimensions of `view`, its samples where they are."""
        stride = 1
        dims: list[tuple[layout.Atom, ...]] = []
        for dim in reversed(view.dims):
            atoms: list[layout.Atom] = []
            for atom in reversed(dim):
                if atom.batch:
                    atoms.insert(0, atom)
                    continue
                atoms.insert(0, layout.Atom(atom.size, stride))
                stride *= atom.size
            dims.insert(0, tuple(atoms))
        return View(view.base, tuple(dims), 0)

    def _rearrangement(self, base: str, index: np.ndarray[Any, Any], width: int) -> dict[str, Any]:
        """As whole rows where rows stay what they are, else as single elements."""
        rows = index.reshape(-1, width)
        whole = (rows[:, 0] % width == 0).all() and (rows == rows[:, :1] + np.arange(width)).all()
        if whole and self.pin(base, width):
            return {"rows": tuple((rows[:, 0] // width).tolist())}
        return {"index": tuple(index.tolist())}

    def rows(self, view: View) -> View:
        """A view of the same tensor whose last dimension is a whole row of its value, and which covers the value."""
        run = layout.run_of(view, -1)
        width = view.shape[-1]
        plain = run is not None and (run.stride == 1 or run.size == 1)
        if plain and layout.covers(view, self.buffers[view.base].elements) and self.pin(view.base, width):
            return view
        return self.packed(view)

    def whole(self, view: View) -> View:
        """A view of the same tensor that covers its value, in whatever order."""
        if layout.covers(view, self.buffers[view.base].elements):
            buffer = self.buffers[view.base]
            if buffer.width == 0:
                fixed = view.dims and not view.has_batch(len(view.dims) - 1)
                last = view.shape[-1] if fixed else 1
                found = self._innermost(view) if self.windowed else self._side_by_side(view)
                self.pin(view.base, found or last)
            return view

        def place(dim: int) -> float:
            own = [a.stride for a in view.dims[dim] if not a.batch and a.size > 1]
            return -float("inf") if view.has_batch(dim) or not own else -max(own)

        order = sorted(range(len(view.dims)), key=place)  # as it lies, samples first
        turned = layout.permute(view, order)
        return layout.permute(self.packed(turned), [order.index(d) for d in range(len(order))])

    @staticmethod
    def _innermost(view: View) -> int:
        """The size of the dimension that is the innermost as it lies; 0 where no dimension is."""
        found = [
            dim
            for d, dim in enumerate(view.dims)
            if not view.has_batch(d) and any(a.stride == 1 and a.size > 1 for a in dim)
        ]
        return prod(a.size for a in found[0]) if len(found) == 1 and len(layout.merged(found[0])) == 1 else 0

    @staticmethod
    def _side_by_side(view: View) -> int:
        """The size of the innermost dimensions as they lie, of as many as fill a vector."""
        width = 1
        for atom in sorted((a for a in view.atoms if not a.batch), key=lambda a: a.stride):
            if width >= _VECTOR or atom.stride != width:
                break
            width *= atom.size
        return width

    def scaled(self, view: View, base: str, width: int) -> View:
        """The view of a result that has a row of `width` for each row of the value of `view`, whose last dimension is
        the row."""
        old = self.buffers[view.base].width
        lead = tuple(
            tuple(a if a.batch or a.size == 1 else layout.Atom(a.size, a.stride // old * width) for a in dim)
            for dim in view.dims[:-1]
        )
        return View(base, (*lead, (layout.Atom(width, 1),)), 0)


def stored_apart(node: fx.Node) -> torch.dtype | None:
    """The dtype of its tensor where operators keep it in another: truth values (1 and 0), whole numbers of one or two bytes and
    half precision in float32, int32 in int64."""
    meta = node.meta.get("val")
    return meta.dtype if isinstance(meta, Tensor) and meta.dtype in STORED_APART else None


def sizes(meta: Tensor) -> tuple[int, ...]:
    """The shape with the traced size in place of an open one."""
    return tuple(hints(meta.shape))
