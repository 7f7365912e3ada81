"""Which operator a call becomes: one rule per kind of ATen call, found in the files of this folder.

A rule gets the call and returns a node, or a sentence saying why it does not fit; the call then falls back to PyTorch. A
sentence that starts with "layout: " says that the same call might fit where the shapes are fixed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.small import SMALL
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, hints, module_name
from rtaccel.convert.frontend.view_ops import Arguments
from rtaccel.convert.frontend.written_out import READS_PARAMETER
from rtaccel.core.registry import operators, with_role
from rtaccel.core.traits import Role

if TYPE_CHECKING:
    from rtaccel.convert.frontend.graph.builder import Builder

Rule = Callable[["Call"], "OpNode | str"]
_RULES: dict[Any, Rule] = {}
_GENERAL: dict[Any, Rule] = {}
_WHOLE: dict[Any, Rule] = {}
_WHOLE_NUMBERS = (torch.int64, torch.int32)
_WHOLE_RESULTS = (*_WHOLE_NUMBERS, *SMALL)
_READ_AS_REAL = (torch.float32, torch.bool, *SMALL)
"""Truth values and whole numbers of one or two bytes are values of float32."""


class Refused(Exception):
    """A call that does not fit, with the sentence saying why: for what rules share."""


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(targets, function))
        return function

    return add


def general(*targets: Any) -> Callable[[Rule], Rule]:
    """A rule for calls that the rule of their target does not take, or that have none."""

    def add(function: Rule) -> Rule:
        _GENERAL.update(dict.fromkeys(targets, function))
        return function

    return add


def whole(*targets: Any) -> Callable[[Rule], Rule]:
    """A rule for calls with whole numbers that no other rule of their target takes."""

    def add(function: Rule) -> Rule:
        _WHOLE.update(dict.fromkeys(targets, function))
        return function

    return add


def _has_whole_numbers(node: fx.Node) -> bool:
    values = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    return any(isinstance(v, Tensor) and v.dtype in _WHOLE_RESULTS for v in values)


@cache
def _load() -> None:
    """Imports the files of this folder and those in it, which add their rules."""
    from rtaccel.convert import patterns

    for file in pkgutil.walk_packages(patterns.__path__, f"{patterns.__name__}."):
        importlib.import_module(file.name)


def match(build: Builder, node: fx.Node) -> OpNode | str:
    _load()
    reason = "no operator computes it"
    numbers = _WHOLE.get(node.target) if _has_whole_numbers(node) else None
    for found in (_RULES.get(node.target), _GENERAL.get(node.target), numbers):
        if found is None:
            continue
        try:
            op_node = found(Call(build, node))
        except Refused as refusal:
            op_node = str(refusal)
        if isinstance(op_node, OpNode):
            return op_node if op_node.op in operators() else f"there is no operator {op_node.op}"
        reason = op_node
    return "computes in float64, and kernels in float32: model.float() compiles whole" if _is_double(node) else reason


def _is_double(node: fx.Node) -> bool:
    return any(
        isinstance(v := n.meta.get("val"), Tensor) and v.dtype == torch.float64 for n in (node, *node.all_input_nodes)
    )


def of_one_sample(constant: Tensor, sizes: Sequence[int]) -> Tensor:
    """A constant in the sizes that it broadcasts to, with samples as 1. Raises Refused where it differs from sample to sample."""
    front = len(sizes) - constant.dim()
    if front < 0 or any(n not in (1, size) for n, size in zip(constant.shape, sizes[front:])):
        raise Refused("has a constant for each sample")
    return constant.expand(*sizes)


class Call:
    """One call of the graph: its arguments, the constants of the model, and the values it can read."""

    def __init__(self, build: Builder, node: fx.Node) -> None:
        self.build, self.node, self._arguments = build, node, Arguments(node)

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def constant(self, value: Any) -> Tensor | None:
        """The tensor of an argument that is a parameter, a buffer, or computed from them alone; None for anything else."""
        return self.build.constants.get(value.name) if isinstance(value, fx.Node) else None

    def view(self, value: Any, dtype: torch.dtype = torch.float32) -> View:
        """Where a computed tensor lies. Raises Refused where that is not known, or for another dtype."""
        meta = value.meta.get("val") if isinstance(value, fx.Node) else None
        if not isinstance(meta, Tensor):
            raise Refused("its input is no tensor")
        if self.constant(value) is not None:
            raise Refused(READS_PARAMETER)
        if meta.dtype != dtype:
            raise Refused(f"works on {meta.dtype}, and operators here on {dtype}")
        view = self.build.view(value)
        if view is None and self.repeated(value) is not None:
            raise Refused(READS_PARAMETER)
        if view is None:
            raise Refused("layout: its input has no fixed place for each sample")
        return view

    def elements(self, value: fx.Node) -> View:
        """Where the elements of a computed tensor lie: float32, a truth value that an operator computed, or whole numbers, as
        they go into a function of float32."""
        view = self.stored(value)
        if value.meta["val"].dtype in _WHOLE_NUMBERS and not self._in_floats():
            raise Refused("computes with whole numbers")
        return view

    def stored(self, value: Any) -> View:
        """Where the elements of a computed tensor lie: float32, truth values or whole numbers. Raises Refused for others."""
        meta = value.meta.get("val") if isinstance(value, fx.Node) else None
        view = self.build.view(value)
        if not isinstance(meta, Tensor) or view is None:
            raise Refused("layout: its input has no fixed place for each sample")
        whole_numbers = meta.dtype in _WHOLE_NUMBERS
        stored = self.build.buffers[view.base].dtype
        if not (whole_numbers or meta.dtype in _READ_AS_REAL) or (stored == "int64") != whole_numbers:
            raise Refused(f"works on {meta.dtype}")
        return view

    def _in_floats(self) -> bool:
        """Whether torch computes the call in float32, whatever it gives."""
        made = self.node.meta["val"]
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            return True
        values = [n.meta.get("val") for n in self.node.all_input_nodes]
        floats = any(isinstance(v, Tensor) and v.dtype == torch.float32 for v in values)
        return floats or any(isinstance(a, float) for a in self.node.args)

    def repeated(self, value: Any) -> Tensor | None:
        """The tensor of an argument that is a constant, or one repeated over the samples: then with 1 in their place."""
        if not isinstance(value, fx.Node):
            return None
        found = self.build.constants.get(value.name)
        return found if found is not None else self.build.repeated.get(value.name)

    @property
    def shape(self) -> list[int]:
        """Of the result, with the traced size in place of an open one."""
        return hints(self.node.meta["val"].shape)

    def leading(self, views: Sequence[View], shape: Sequence[int]) -> list[tuple[Atom, ...]]:
        """Of a result that these broadcast to: each dimension with the samples of the operand that has them there."""
        dims: list[tuple[Atom, ...]] = []
        for d, size in enumerate(shape):
            own = [v.dims[d - len(shape)] for v in views if len(v.dims) >= len(shape) - d]
            dims.append(next((dim for dim in own if any(a.batch for a in dim)), (Atom(size, 1),)))
        return dims

    def gathered(self, view: View, dims: Sequence[tuple[Atom, ...]], index: np.ndarray[Any, Any]) -> OpNode:
        """A copy of elements in another order. dims: of the result, where its samples are. index: the elements of the value, in
        the shape of the result with its samples as 1."""
        result = self.build._dense_like(View("", tuple(dims)))
        width = 1 if result.has_batch(len(dims) - 1) else index.shape[-1]
        attrs = self.build._rearrangement(view.base, index.reshape(-1), width)
        return self.op_node(with_role(Role.GATHER).name, [view.base], result, index.size, width, True, attrs=attrs)

    def ordered(self, shape: Sequence[int], like: View) -> View:
        """A dense result of this shape, its dimensions in memory in the order in which those of `like` lie."""

        def far(d: int) -> float:
            """A dimension of one element lies in front of the one behind it: what is stacked along it stays in runs."""
            strides = [abs(a.stride) for a in like.dims[d] if not a.batch and a.size != 1]
            if not strides and d + 1 < len(like.dims) and not like.has_batch(d) and not like.has_batch(d + 1):
                return far(d + 1)
            return -max(strides, default=0)

        order = sorted(range(len(shape)), key=lambda d: (not like.has_batch(d), far(d)))
        dims: list[tuple[Atom, ...]] = [()] * len(shape)
        stride = 1
        for d in reversed(order):
            own = like.dims[d] if like.has_batch(d) else (Atom(shape[d], 1),)
            atoms: list[Atom] = []
            for atom in reversed(own):  # samples joined with another dimension stay in their order
                if atom.batch:
                    atoms.insert(0, atom)
                elif atom.size != 1 or not like.has_batch(d):
                    atoms.insert(0, Atom(atom.size, stride))
                    stride *= atom.size
            dims[d] = tuple(atoms)
        return View("", tuple(dims))

    def row_of(self, view: View) -> int:
        """Width of the rows of a dense result: of its innermost dimension, 0 where that holds samples."""
        inner = [a.size for dim in view.dims for a in dim if not a.batch and a.stride == 1 and a.size != 1]
        return inner[0] if inner else 0

    def rows(self, value: Any) -> View:
        """A view whose last dimension is a whole row of its value."""
        view = self.view(value)
        if not view.dims or view.has_batch(len(view.dims) - 1):
            raise Refused("layout: its last dimension is not fixed")
        return self.build.rows(view)

    def width(self, view: View) -> int:
        return self.build.buffers[view.base].width

    def give(self, node: fx.Node, view: View, elements: int, width: int) -> str:
        """Declares the value of a node: its size, and where the elements of the node's tensor lie in it."""
        made = node.meta["val"]  # of several results the first one
        first = made[0] if isinstance(made, (tuple, list)) else made
        dtype = "int64" if first.dtype in _WHOLE_NUMBERS else "float32"
        self.build.buffers[node.name] = Buffer(elements, width, dtype)
        self.build.views[node.name] = View(node.name, view.dims, view.offset)
        return node.name

    def op_node(
        self, op: str, reads: Sequence[str], view: View, elements: int, width: int, whole: bool = False, **parts: Any
    ) -> OpNode:
        """A node whose only value is that of the node. whole: it may hold whole numbers."""
        meta = self.node.meta["val"]
        if meta.dtype not in (torch.float32, torch.bool, *(_WHOLE_RESULTS if whole else ())):
            raise Refused(f"gives {meta.dtype}, and operators here float32")
        if elements == 0 or any(tensor.numel() == 0 for tensor in parts.get("tensors", {}).values()):
            raise Refused("has no elements")
        name = self.give(self.node, view, elements, width)
        return OpNode(op, self.node, module_name(self.node), list(reads), [name], **parts)

    def row_wise(self, op: str, view: View, width: int, *more: str, **parts: Any) -> OpNode:
        """A node that has a row of `width` for each row of `view`, which `rows` gave."""
        steps = self.build.buffers[view.base].steps
        result = self.build.scaled(view, self.node.name, width)
        return self.op_node(op, [view.base, *more], result, steps * width, width, **parts)

    def spread(self, constant: Tensor, view: View) -> Tensor:
        """A constant that broadcasts against a tensor, as the rows of its value: [steps, width], or [width] where all
        rows are alike. Raises Refused where it differs from sample to sample."""
        shape = [prod(a.size for a in dim if not a.batch) for dim in view.dims]  # of one sample
        full = list(view.shape)
        if constant.dim() > len(full) or any(c not in (1, f) for c, f in zip(reversed(constant.shape), reversed(full))):
            raise Refused(f"has a constant of shape {list(constant.shape)}, which makes its result larger")
        padded = constant.reshape([*([1] * (len(full) - constant.dim())), *constant.shape])
        if any(view.has_batch(i) and padded.shape[i] != 1 for i in range(len(full))):
            raise Refused("has a constant for each sample")
        buffer = self.build.buffers[view.base]
        place = torch.from_numpy(np.ascontiguousarray(layout.offsets(view).reshape(-1)))
        table = torch.empty(buffer.elements, dtype=torch.float32, device="cpu")
        table[place] = padded.detach().float().cpu().expand(shape).reshape(-1)
        rows = table.reshape(buffer.steps, buffer.width)
        return rows[0].clone() if bool((rows == rows[:1]).all()) else rows
