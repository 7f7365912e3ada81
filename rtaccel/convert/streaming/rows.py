"""How wide the rows of a value may be, so that each lies within a time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import TimeSpan
from rtaccel.core.traits import Role

WALKED = frozenset(("place", "places", "parts", "index"))
"""Attributes by which a node names elements, whatever rows they lie in."""


def fit_rows(op_nodes: Sequence[OpNode], buffers: Mapping[str, Buffer], name: str, inner: int) -> bool:
    """Whether each row of a value lies within a time step of `inner` elements. Rows that do not are cut where they mean
    nothing to all who read the value."""
    buffer = buffers[name]
    if (not buffer.width or inner % buffer.width) and not buffer.elements % inner:
        for own in _alike(op_nodes, buffers, name) or ():
            buffers[own].width = inner
    return bool(buffer.width) and inner % buffer.width == 0


def _alike(op_nodes: Sequence[OpNode], buffers: Mapping[str, Buffer], name: str) -> set[str] | None:
    """A value and others whose rows are cut with its own: they meet it element by element, and all else that reads them walks
    them by places. None where some reader needs its rows."""
    found, left = set[str](), [name]
    while left:
        own = left.pop()
        if own in found:
            continue
        found.add(own)
        for node in (n for n in op_nodes if own in n.reads or own in n.writes):
            beside, streaming = [*node.reads, *node.writes], node.operator.streaming
            by_element = streaming is not None and streaming.by_element and _is_uniform(node)
            if by_element and len({(buffers[n].elements, buffers[n].width) for n in beside}) == 1:
                left += beside
            elif own in node.reads and not (
                streaming is not None and streaming.any_layout and WALKED & node.attrs.keys()
            ):
                return None
    return found


def _is_uniform(node: OpNode) -> bool:
    """Whether the constants of a node are the same in each column."""
    return all(t.numel() and bool((t == t.flatten()[0]).all()) for t in node.tensors.values())


def cut_constants(node: OpNode, width: int) -> OpNode:
    """With constants of as many columns as its value now has: those of a node whose rows were cut are all alike."""
    if not any(t.shape[-1:] != (width,) for t in node.tensors.values()) or not _is_uniform(node):
        return node
    return replace(node, tensors={name: t.flatten()[:1].expand(width).clone() for name, t in node.tensors.items()})


def is_written_constant(node: OpNode, elements: int) -> bool:
    """Whether a node copies a constant over all of its value, and nothing of what it reads is left."""
    if node.operator.role is not Role.COPY or list(node.tensors) != ["c0"]:
        return False
    return node.attrs["parts"][-1] == ((elements,), (0, 1), (0, 1))


def by_places(node: OpNode, buffers: Mapping[str, Buffer], length: int) -> OpNode:
    """An expression whose rows hold time steps, and whose constants differ along them, with places for its operands; any other
    node as it is."""
    made = buffers[node.writes[0]]
    if node.attrs.keys() != {"program"} or not made.width or made.width % length or _is_uniform(node):
        return node
    rows, width = made.elements // made.width, made.width
    if any(tensor.numel() not in (1, width) for tensor in node.tensors.values()):
        return node
    constants = tuple((0, 0, int(tensor.numel() > 1)) for tensor in node.tensors.values())
    places = (*((0, width, 1) for _ in node.reads), *constants)
    return replace(node, op=with_role(Role.FORMULA).name, attrs={**node.attrs, "dims": (rows, width), "places": places})


def has_rows(time: TimeSpan, width: int, shape: Sequence[int]) -> bool:
    """Whether a time step of an output is several rows of features. shape: that the model gives, of the window."""
    if time.outer != 1 or not width or time.inner % width:
        return False
    return sorted(shape) == sorted((1, width, time.steps * time.inner // width))


def row_width(width: int, count: int) -> int:
    """Of a part of `count` elements of a value with rows of `width`: the same, or all where they do not fit, as of planes."""
    return width if width and count % width == 0 else count
