"""Convolutions over one to three dimensions, and over images side by side, as the operator of two dimensions computes them.

More than two dimensions lie as rows: the image is as wide as its last dimension, and all others are its rows, padded by a copy.
What each row of outputs and of taps reads is then a list of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from torch import Tensor

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.images.geometry import FLAT_CHANNELS, as_channels_last, by_position, image_of, stacked
from rtaccel.convert.patterns.rules import Call, Refused
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

CONV = "conv"


@dataclass(frozen=True)
class Windows:
    """Of one convolution, by dimension. before: padding in front; what is read behind is padding too."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Of the padded image, in each dimension."""
        parts = zip(self.out, self.stride, self.kernel, self.dilation)
        return tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in parts)

    def seen(self, sizes: Sequence[int]) -> list[slice]:
        """The taps of each dimension that read more than padding anywhere in images of these sizes; all where none does."""
        found = []
        for size, k, s, d, before, out in zip(sizes, self.kernel, self.stride, self.dilation, self.before, self.out):
            reads = [i for i in range(k) if any(0 <= o * s - before + i * d < size for o in range(out))]
            # No image begins with less than no padding.
            found.append(slice(max(0, min(reads[0], before // d)), reads[-1] + 1) if reads else slice(0, k))
        return found

    def of_taps(self, taps: Sequence[slice]) -> Windows:
        """The windows of these taps alone, with the same outputs."""
        kernel = tuple(t.stop - t.start for t in taps)
        before = tuple(b - t.start * d for b, t, d in zip(self.before, taps, self.dilation))
        return replace(self, kernel=kernel, before=before)

    @property
    def is_one_position(self) -> bool:
        return all(k == s == 1 and b == 0 for k, s, b in zip(self.kernel, self.stride, self.before))


def convolution(
    call: Call, view: View, weight: Tensor, bias: Tensor, windows: Windows, groups: int
) -> tuple[str, str, dict[str, Tensor], dict[str, Any]]:
    """(operator, value that it reads, tensors, attributes) of a convolution of images [.., C, D.., W]."""
    rank, filters = len(windows.kernel), weight.shape[0]
    front = len(view.dims) - rank - 1
    images, sizes = stacked(view, front), view.shape[front + 1 :]
    if not call.build.windowed:  # a stream's taps see what came before the window
        kept = windows.seen(sizes)
        every = (slice(None), slice(None), *kept)
        weight, windows = weight[every], windows.of_taps(kept)
    tensors = {"weight": weight.float(), "bias": bias.float()}
    alone = windows.is_one_position and groups == 1 and windows.out == sizes
    rows = (rank > 2 or images > 1) and not alone
    padded = rows and any(r > n or b for n, b, r in zip(sizes[:-1], windows.before[:-1], windows.reach[:-1]))
    if padded:
        base, sizes = _padded(call, view, front, windows)
        windows = Windows(windows.kernel, windows.stride, windows.dilation, (0,) * rank, windows.out)
    else:
        base, seen, _ = as_channels_last(call, view, front)
        if alone and (rank > 2 or images > 1):
            base = by_position(call, base, seen, front, weight.shape[1])
    if alone and call.build.buffers[base].width == weight.shape[1]:  # a product for each position
        return "linear", base, {**tensors, "weight": tensors["weight"].reshape(filters, -1)}, {}
    across = {name: getattr(windows, name)[-1] for name in ("kernel", "stride", "before", "dilation", "out")}
    if rows:
        down = [prod(sizes[d + 1 : -1]) for d in range(rank - 1)]  # rows from one position of a dimension to the next
        taps = [sum(i * d * n for i, d, n in zip(at, windows.dilation, down)) for at in _every(windows.kernel[:-1])]
        starts = [sum(i * s * n for i, s, n in zip(at, windows.stride, down)) for at in _every(windows.out[:-1])]
        apart = prod(sizes[:-1])
        starts = [image * apart + start for image in range(images) for start in starts]
        vertical = {"kernel": len(taps), "stride": 1, "before": 0, "dilation": 1, "out": len(starts)}
        height, more = images * apart, {"out_rows": tuple(starts), "tap_rows": tuple(taps)}
    else:
        two = rank == 2
        defaults = {"kernel": 1, "stride": 1, "before": 0, "dilation": 1, "out": 1}
        vertical = {name: getattr(windows, name)[0] if two else default for name, default in defaults.items()}
        height, more = sizes[0] if two else 1, {}
    tensors["weight"] = tensors["weight"].reshape(filters, weight.shape[1], vertical["kernel"], across["kernel"])
    pairs = {name: (vertical[name], across[name]) for name in across}
    attrs = {
        "in_size": (height, sizes[-1]), "kernel": pairs["kernel"], "stride": pairs["stride"], "padding": pairs["before"],
        "dilation": pairs["dilation"], "out_size": pairs["out"], "groups": groups, **more,
    }  # fmt: skip
    return CONV, base, tensors, attrs


def _every(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in sizes)))


def _padded(call: Call, view: View, front: int, windows: Windows) -> tuple[str, tuple[int, ...]]:
    """The images with zeros around, channels last, as a value of their own; and their size."""
    channels, sizes = view.shape[front], view.shape[front + 1 :]
    whole = tuple(max(n + b, r) for n, b, r in zip(sizes, windows.before, windows.reach))
    target: View | None = image_of(view.dims[:front], channels, whole)
    for d, (size, before) in enumerate(zip(sizes, windows.before)):
        assert target is not None
        target = layout.slice_of(target, front + 1 + d, before, before + size, 1)
    assert target is not None
    elements = stacked(view, front) * prod(whole) * channels
    width = elements if channels <= FLAT_CHANNELS and not call.build.windowed else channels
    return copied(call, "padded", view, target, elements, width), whole


def part_name(call: Call, of: str, tag: str) -> str:
    """A new name for a value that holds elements of `of`: its range is what was seen of that."""
    start = f"{of.split(':')[0]}:{tag}"
    return f"{start}{sum(name.startswith(start) for name in call.build.buffers)}"


def copied(call: Call, tag: str, view: View, target: View, elements: int, width: int) -> str:
    """A value of which `target` is the elements of `view`, and zero what else there is; its name."""
    found = iteration(target, [view, target])
    if found is None:
        view = call.build.packed(view)
        found = iteration(target, [view, target])
    if found is None:
        raise Refused("layout: its samples are joined with another dimension")
    name = part_name(call, view.base, tag)
    call.build.buffers[name] = Buffer(elements, width)
    attrs = {"parts": ((found.dims, *found.places),), "fill": 0.0}
    copy = with_role(Role.COPY).name
    call.build.op_nodes.append(OpNode(copy, call.node, module_name(call.node), [view.base], [name], attrs=attrs))
    return name
