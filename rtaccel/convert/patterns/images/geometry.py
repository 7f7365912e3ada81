"""What rules of images share: channels-last values, with a row of channels for each position."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.patterns.rules import Call, Refused

FLAT_CHANNELS = 4
"""Up to so many channels an image of the caller is taken as it lies, one dense row, instead of a row for each position."""


def per_dimension(value: Any, rank: int, default: int | Sequence[int]) -> tuple[int, ...]:
    """A parameter of a window, given once or for each of `rank` dimensions, or not at all."""
    values = [value] if isinstance(value, int) else list(value or ())
    values = values or ([default] if isinstance(default, int) else list(default))
    return tuple(values * rank if len(values) == 1 else values)


def image_view(call: Call, node: fx.Node, rank: int) -> View:
    """The view of a tensor [.., C, D.., W] whose samples are in front of its channels."""
    view = call.view(node)
    front = len(view.dims) - rank - 1
    if front < 0 or any(view.has_batch(i) for i in range(front, len(view.dims))):
        raise Refused("layout: its samples are not its first dimension")
    return view


def channels_last(call: Call, node: fx.Node, spatial: int) -> tuple[str, View, tuple[int, ...]]:
    """A value that holds images [.., C, (H,) W] with a row of channels for each position (or, of few channels in the caller's
    memory, one dense row), the view of it, and its spatial shape. In front are the samples, and images side by side."""
    view = image_view(call, node, spatial)
    return as_channels_last(call, view, len(view.dims) - spatial - 1)


def stacked(view: View, front: int) -> int:
    """How many images one sample holds: what is in front of the channels and no samples."""
    return prod(a.size for dim in view.dims[:front] for a in dim if not a.batch)


def as_channels_last(call: Call, view: View, front: int) -> tuple[str, View, tuple[int, ...]]:
    channels, spatial = view.shape[front], view.shape[front + 1 :]
    rank = len(view.dims)
    turned = layout.permute(view, [*range(front), *range(front + 1, rank), front])
    buffer = call.build.buffers[view.base]
    back = [*range(front), rank - 1, *range(front, rank - 1)]
    flat = channels <= FLAT_CHANNELS and not call.build.windowed
    plain = layout.same_layout(turned, call.build._dense_like(turned)) and layout.covers(view, buffer.elements)
    if plain and buffer.width == 0 and flat:
        call.build.pin(view.base, buffer.elements)
    if not plain or not ((buffer.width == buffer.elements and flat) or call.build.pin(view.base, channels)):
        turned = call.build.packed(turned)
    return turned.base, layout.permute(turned, back), spatial


def by_position(call: Call, base: str, view: View, front: int, channels: int) -> str:
    """The same image with a row for each position, where it lies flat."""
    if call.build.buffers[base].width == channels:
        return base
    rank = len(view.dims)
    turned = layout.permute(view, [*range(front), *range(front + 1, rank), front])
    return call.build.packed(turned, width=channels).base


def image_of(front: Sequence[tuple[Atom, ...]], channels: int, spatial: Sequence[int]) -> View:
    """The view of a result [.., C, (H,) W] over channels-last rows, one image after the other."""
    stride = channels
    dims: list[tuple[Atom, ...]] = []
    for size in reversed(spatial):
        dims.insert(0, (Atom(size, stride),))
        stride *= size
    dims.insert(0, (Atom(channels, 1),))
    for dim in reversed(front):
        atoms: list[Atom] = []
        for atom in reversed(dim):
            atoms.insert(0, atom if atom.batch else Atom(atom.size, stride))
            stride *= 1 if atom.batch else atom.size
        dims.insert(0, tuple(atoms))
    return View("", tuple(dims))
