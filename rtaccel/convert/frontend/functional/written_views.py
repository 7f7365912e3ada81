"""Calls in place that others see, as calls that give new values: by edits of the graph, without a second trace.

Of each memory there is one whole value at a time, at first what made it. A call in place gives the part that it writes anew. Each
view between that part and the whole has a call that puts it back: `slice_scatter` for a slice, a transposition for a
transposition. So there is a new whole, and views that are read afterwards are made of it. torch does so while it traces a program
again; for a loop of a thousand writes that takes half a minute.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.functional.calls import MAYBE_ITSELF, RESHAPED, made

_SCATTERED = {
    aten.select.int: aten.select_scatter.default, aten.slice.Tensor: aten.slice_scatter.default,
    aten.diagonal.default: aten.diagonal_scatter.default,
}  # fmt: skip
_PARTS = {
    aten.chunk.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split.sizes,
    aten.tensor_split.sections,
}
_SAME = MAYBE_ITSELF - {aten.expand_as.default} | {aten.alias.default, aten.detach.default}
_SHAPED = RESHAPED | {aten.view.default}
_OTHERWISE = {aten.as_strided.default, aten.view.dtype, aten.real.default, aten.imag.default, aten.view_as_real.default,
              aten.view_as_complex.default}  # fmt: skip
"""Views of bytes, not of elements."""


class Memory:
    """Which memory the values of a trace hold: fake tensors that alias have one storage. same: pairs of values that are one."""

    def __init__(self, same: Iterable[tuple[Any, Any]] = ()) -> None:
        self._same: dict[int, int] = {}
        for value, other in same:
            if isinstance(value, Tensor) and isinstance(other, Tensor):
                self._same[value.untyped_storage()._cdata] = self._id(other)

    def _id(self, value: Tensor) -> int:
        found: int = value.untyped_storage()._cdata
        return self._same.get(found, found)

    def held(self, node: Any) -> set[int]:
        """By a node of a tensor, or of several."""
        leaves = pytree.tree_leaves(node.meta.get("val")) if isinstance(node, fx.Node) else []
        return {self._id(leaf) for leaf in leaves if isinstance(leaf, Tensor)}

    def one(self, node: Any) -> int | None:
        """The memory of a tensor or of the parts of one; None where there are several."""
        held = self.held(node)
        return held.pop() if len(held) == 1 else None


def write_views(graph: fx.Graph, targets: Mapping[fx.Node, Any], memory: Memory) -> bool:
    """targets: each call in place, and the same out of place. False, with nothing changed, where a part cannot be put back."""
    wholes = _Wholes(graph, targets, memory)
    if not wholes.known():
        return False
    for node in list(graph.nodes):
        wholes.step(node)
    for node in reversed(list(targets)):
        graph.erase_node(node)
    return True


class _Wholes:
    """The newest value of each memory, and its views."""

    def __init__(self, graph: fx.Graph, targets: Mapping[fx.Node, Any], memory: Memory) -> None:
        self._graph, self._targets, self._memory = graph, targets, memory
        written = {memory.one(node.args[0]) for node in targets}
        self._of = {node: s for node in graph.nodes if (s := memory.one(node)) in written}
        self._first: dict[int | None, fx.Node] = {}
        for node, storage in self._of.items():
            self._first.setdefault(storage, node)
        self._given: dict[fx.Node, tuple[Any, Any]] = {n: (n.args, n.kwargs) for n in self._of}  # as they were traced
        self._parents = {node: self._viewed(node) for node in self._of}
        self._version: dict[int | None, int] = dict.fromkeys(written, 0)
        self._at: dict[tuple[fx.Node, int], fx.Node] = {}  # a view and a version of its memory -> its value

    def known(self) -> bool:
        """Whether each view is one of elements, and each written one can be put back."""
        for node in self._graph.nodes:
            held = self._memory.held(node)
            if len(held) > 1 and any(s in self._first and self._first[s] not in node.users for s in held):
                return False  # some of its results are views
        for node, storage in self._of.items():
            if node is self._first[storage]:
                if node.op != "call_function" or not isinstance(node.meta["val"], Tensor) or _is_view(node):
                    return False
            elif self._parents.get(node) is None or node.target in _OTHERWISE:
                return False
        return all(self._puts_back(node) for node in self._targets)

    def _viewed(self, node: fx.Node) -> fx.Node | None:
        """What it is a view of."""
        parent = node.args[0] if node.op == "call_function" and node.args else None
        return parent if isinstance(parent, fx.Node) and self._of.get(parent) == self._of[node] else None

    def _puts_back(self, node: fx.Node) -> bool:
        part: fx.Node = node.args[0]  # type: ignore[assignment]
        if self._of.get(part) is None or _overlaps(part.meta["val"]):
            return False
        while part is not self._first[self._of[part]]:
            whole = self._parents.get(part)
            if whole is None or (part not in self._targets and not _can_put(part, whole)):
                return False
            part = whole
        return True

    def step(self, node: fx.Node) -> None:
        if node in self._targets:
            return self._write(node)
        node.args = fx.map_arg(node.args, lambda given: self._newest(given, node))
        node.kwargs = fx.map_arg(node.kwargs, lambda given: self._newest(given, node))
        if node in self._of:
            self._at[node, self._version[self._of[node]]] = node
        return None

    def _newest(self, given: fx.Node, before: fx.Node) -> fx.Node:
        """The value of a view as it is now, made before that node where it is not there."""
        storage = self._of.get(given)
        if storage is None:
            return given
        key = (given, self._version[storage])
        if key not in self._at:
            args, kwargs = self._given[given]
            if given in self._targets:  # gives what it wrote
                self._at[key] = self._newest(args[0], before)
            else:
                args, kwargs = fx.map_arg((args, kwargs), lambda a: self._newest(a, before))
                self._at[key] = _made(before, given, given.target, args, kwargs)
        return self._at[key]

    def _write(self, node: fx.Node) -> None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda given: self._newest(given, node))
        value = _made(node, node, self._targets[node], args, kwargs)
        part: fx.Node = node.args[0]  # type: ignore[assignment]
        storage = self._of[part]
        version = self._version[storage] + 1
        written = [(part, value)]
        while part is not self._first[storage]:
            whole = self._parents.get(part)
            assert whole is not None  # known
            parts = isinstance(part.meta["val"], (list, tuple))
            if part not in self._targets and part.target not in _SAME and not parts:
                value = self._put(node, part, whole, value)
            part = whole
            written.append((part, value))
        self._version[storage] = version
        self._at |= {(view, version): new for view, new in written if isinstance(view.meta["val"], Tensor)}

    def _put(self, node: fx.Node, part: fx.Node, whole: fx.Node, value: fx.Node) -> fx.Node:
        """The whole with a new value of its part."""
        if part.target is operator.getitem:
            (parts, index), _ = self._given[part]
            of: fx.Node = self._parents[parts]  # type: ignore[assignment]
            target, places = _place(parts, index)
            return _made(node, of, target, (self._newest(of, node), value, *places), {})
        if part.target in _SCATTERED:
            old = self._newest(whole, node)
            return _made(node, whole, _SCATTERED[part.target], (old, value, *self._given[part][0][1:]), {})
        target, args = _inverse(part, whole)
        return _made(node, whole, target, (value, *args), {})


def _made(before: fx.Node, like: fx.Node, target: Any, args: Any, kwargs: Any) -> fx.Node:
    with before.graph.inserting_before(before):
        return made(like, target, args, dict(kwargs))


def _is_view(node: fx.Node) -> bool:
    """Whether the result is always a view: then its memory is another's, whatever the trace says."""
    schema = getattr(node.target, "_schema", None)
    views = schema is not None and any(result.alias_info is not None for result in schema.returns)
    return views and node.target not in _SAME | _SHAPED


def _overlaps(value: Any) -> bool:
    """Whether elements lie over one another, as in what was expanded."""
    return any(
        isinstance(stride, int) and stride == 0 and size != 1 for size, stride in zip(value.shape, value.stride())
    )


def _can_put(part: fx.Node, whole: fx.Node) -> bool:
    if isinstance(part.meta["val"], (list, tuple)):
        return True  # its parts are asked
    if part.target is operator.getitem:
        return _place(whole, part.args[1]) is not None
    if part.target in _SAME:
        return True
    return (part.target in _SCATTERED and not part.kwargs) or _inverse(part, whole) is not None


def _place(parts: fx.Node, index: Any) -> Any:
    """The call that puts one of several parts back, and its arguments; None where that is not known."""
    if parts.kwargs or not isinstance(index, int):
        return None
    if parts.target is aten.unbind.int:
        return aten.select_scatter.default, (parts.args[1] if len(parts.args) > 1 else 0, index)
    if parts.target not in _PARTS:
        return None
    dim = parts.args[2] if len(parts.args) > 2 else 0
    lengths = [part.shape[dim] for part in parts.meta["val"]]
    if not all(isinstance(n, int) for n in lengths):
        return None
    start = sum(lengths[:index])
    return aten.slice_scatter.default, (dim, start, start + lengths[index])


def _inverse(part: fx.Node, whole: fx.Node) -> Any:
    """The call that gives the whole from a view of all of it, and its further arguments; None where there is none."""
    target: Any = part.target
    args: Any = part.args[1:]
    if part.kwargs:
        return None
    if target in (aten.transpose.int, aten.t.default):
        return target, args
    if target is aten.permute.default:
        order = [d % len(args[0]) for d in args[0]]
        return target, ([order.index(d) for d in range(len(order))],)
    if target is aten.unsqueeze.default:
        return aten.squeeze.dim, args
    if target is aten.squeeze.dim:
        one = whole.meta["val"].shape[args[0]]
        return (aten.unsqueeze.default, args) if isinstance(one, int) and one == 1 else None
    if target in _SHAPED:
        shape = [n if isinstance(n, int) else -1 for n in whole.meta["val"].shape]
        return (aten.view.default, (shape,)) if shape.count(-1) <= 1 and 0 not in shape else None
    return None
