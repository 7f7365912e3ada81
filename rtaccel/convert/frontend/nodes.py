"""Nodes: what calls of the graph become, before neighbors are fused and numbers are quantized.

A node reads and writes stored values by name. A value is named after the graph node whose elements it holds, with a
suffix after ":" where it holds them in another order or only in part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.graph.open_shapes import open_shapes
from rtaccel.convert.frontend.tracing.called_modules import called_module
from rtaccel.core.registry import Operator, operator, with_role
from rtaccel.core.stage import QParams
from rtaccel.core.traits import FALLBACK, Role


def hints(sizes: Iterable[Any]) -> list[int]:
    """Sizes as they were traced, open ones too."""
    return [s if isinstance(s, int) else int(s.node.hint) for s in sizes]


_UNTAGGED = ("leaky_relu.default", "ldexp.Tensor")  # torch has tagged these since 2.12


def is_pointwise(target: Any) -> bool:
    """Whether a call computes each element of its result from one of each input, with broadcasting."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return torch.Tag.pointwise in target.tags or str(target).removeprefix("aten.") in _UNTAGGED


@dataclass(frozen=True)
class Text:
    """A result that is a text: a result that is a plain one names a value."""

    value: str


def constant(value: Any) -> Any:
    """A result that is no tensor, as a program holds it."""
    return Text(value) if isinstance(value, str) else value


def constant_value(held: Any) -> Any:
    """A result that is no tensor, as it is returned."""
    return held.value if isinstance(held, Text) else held


@dataclass
class Buffer:
    """A stored value: `steps` rows of `width` for each sample. width 0: of a dense tensor of the caller, whose rows may
    be seen as any split; the first reader decides. elements: steps * width."""

    elements: int
    width: int = 0
    dtype: str = "float32"

    @property
    def steps(self) -> int:
        return self.elements // self.width if self.width else 1


@dataclass(eq=False)
class OpNode:
    """Equal to itself alone. op: an operator, or FALLBACK for a call that stays as it is.

    name: dotted name of the module. node: the graph node whose value it gives. reads, writes: names of values.
    tensors, attrs: as a stage has them, still in float32.
    reason: of a fallback, why no operator takes it. layout: whether another form of the graph might be taken.
    quant: what the int8 input of a swapped layer means, where it is static;
    float_input: whether a swapped layer reads its input as it is. joined: names of layers that it took in.
    """

    op: str
    node: fx.Node
    name: str
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    layout: bool = False
    quant: QParams | None = None
    float_input: bool = False
    joined: tuple[str, ...] = ()

    @property
    def is_fallback(self) -> bool:
        """Whether the call stays PyTorch's."""
        return self.op == FALLBACK

    @property
    def operator(self) -> Operator:
        """The contract of what computes it; not of a fallback."""
        return operator(self.op)

    @property
    def swapped(self) -> bool:
        """Whether its weights are quantized already."""
        if self.is_fallback or self.operator.weights is None:
            return False
        names = self.operator.weights.matrices(self.tensors)
        return any(self.tensors[name].dtype != torch.float32 for name in names)

    @property
    def activation(self) -> str:
        return self.attrs.get("activation", "none")

    @property
    def affine(self) -> tuple[Tensor, Tensor] | None:
        """The scale and shift per column that an elementwise node has."""
        if self.is_fallback or self.operator.elementwise is None:
            return None
        return self.operator.elementwise.affine(self.tensors)

    @property
    def affine_only(self) -> bool:
        """A scale and shift per column and nothing else: it can fold into a neighbor."""
        return len(self.reads) == 1 and self.activation == "none" and self.affine is not None

    @property
    def adds(self) -> bool:
        """Whether it is a sum of two values, before its activation."""
        if self.is_fallback or self.operator.elementwise is None:
            return False
        return self.operator.elementwise.adds(len(self.reads), self.tensors, self.attrs)


def gather_node(node: fx.Node, name: str, source: str, result: str, attrs: dict[str, Any]) -> OpNode:
    """The node that copies rows or elements of a value (attrs rows or index)."""
    return OpNode(with_role(Role.GATHER).name, node, name, [source], [result], attrs=attrs)


def insert_call(
    graph: fx.Graph, like: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> fx.Node:
    """A call where the graph inserts now, in the place of another one, with the value that it would have."""
    made = graph.call_function(target, args, kwargs or {})
    given, named = fx.map_arg((args, kwargs or {}), lambda n: n.meta["val"])
    with open_shapes((like.meta.get("val"), given)), torch.no_grad():
        made.meta = {**like.meta, "val": target(*given, **named)}
    return made


def module_name(node: fx.Node) -> str:
    """Dotted name of the module that the call came from; the node's own name where it has none."""
    if (name := called_module(node)) != "":
        return name
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path if isinstance(path, str) and path and not path.startswith("_empty") else node.name


def depended_on(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes themselves, and all that they are computed from."""
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        stack.extend(node.all_input_nodes)
    return found


def zeros_like_rows(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device)
