"""Transposed convolutions: outputs a stride apart are an ordinary convolution of every stride-th tap, so that a transposed one is
a few of these, put together by a copy. Nothing is multiplied with inserted zeros."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import Buffer, OpNode, module_name
from rtaccel.convert.patterns.images.geometry import FLAT_CHANNELS, image_of, image_view, per_dimension, stacked
from rtaccel.convert.patterns.images.windows import Windows, convolution
from rtaccel.convert.patterns.rules import Call, Refused, rule
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role

_TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3,
}  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """Every stride-th output along one dimension. first, count: which these are. start: the position of the input that the first
    of them reads by the first of `taps`, which are in the order of what they read, `dilation` apart."""

    first: int
    count: int
    taps: tuple[int, ...]
    start: int
    dilation: int

    @property
    def window(self) -> tuple[int, int, int, int]:
        """What phases have in common that one convolution computes."""
        return self.start, self.count, len(self.taps), self.dilation


def _phases(kernel: int, stride: int, padding: int, dilation: int, out: int) -> Iterator[Phase]:
    for first in range(min(stride, out)):
        taps = [k for k in range(kernel) if (first + padding - k * dilation) % stride == 0]
        start = (first + padding - taps[-1] * dilation) // stride if taps else 0
        count = len(range(first, out, stride))
        yield Phase(first, count, tuple(reversed(taps)), start, dilation // gcd(dilation, stride))


@rule(*_TRANSPOSED)
def _conv_transpose(call: Call) -> OpNode | str:
    target: Any = call.node.target
    rank, groups = _TRANSPOSED[target], call["groups"]
    weight, bias = call.constant(call["weight"]), call["bias"]
    if weight is None:
        return "its weight is computed, not a parameter"
    filters = weight.shape[1] * groups
    given = torch.zeros(filters, device=weight.device) if bias is None else call.constant(bias)
    if given is None:
        return "its bias is computed, not a parameter"
    stride, padding, dilation = (
        per_dimension(call[name], rank, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    view = image_view(call, call["input"], rank)
    front = len(view.dims) - rank - 1
    out = tuple(call.shape[front + 1 :])
    each = [list(_phases(*p)) for p in zip(weight.shape[2:], stride, padding, dilation, out)]
    made = _Parts(call, view, front, stride, out, filters)
    for phases in made.alike(product(*each), groups):
        taps = [phase.taps for phase in phases[0]]
        if not all(taps):
            made.constant(phases[0], given)
            continue
        weights = torch.cat([_filters(weight, groups, [p.taps for p in own]) for own in phases])
        made.convolved(phases, weights, given.repeat(len(phases)), groups)
    return made.node()


def _filters(weight: Tensor, groups: int, taps: list[tuple[int, ...]]) -> Tensor:
    """[in channels, filters of a group, taps] as an ordinary convolution has them: [filters, in channels of a group, taps]."""
    inputs, filters = weight.shape[:2]
    found = weight.reshape(groups, inputs // groups, filters, *weight.shape[2:]).transpose(1, 2).flatten(0, 1)
    for dim, own in enumerate(taps):
        found = found.index_select(2 + dim, torch.tensor(own, device=weight.device))
    return found


class _Parts:
    """The convolutions of one call, and where their results lie in that of the call."""

    def __init__(
        self, call: Call, view: View, front: int, stride: tuple[int, ...], out: tuple[int, ...], filters: int
    ) -> None:
        self.call, self.view, self.front, self.stride, self.out, self.filters = call, view, front, stride, out, filters
        self.images = stacked(view, front)
        like = image_of(view.dims[:front], filters, out)
        # Of few channels the planes of the result lie one after the other, as the caller has them.
        self.result = call.build._dense_like(like) if filters <= FLAT_CHANNELS else like
        self.reads: list[str] = []
        self.parts: list[Any] = []
        self.constants: list[Any] = []
        self.tensors: dict[str, Tensor] = {}
        self.single: tuple[Any, ...] | None = None

    @staticmethod
    def alike(phases: Iterator[tuple[Phase, ...]], groups: int) -> list[list[tuple[Phase, ...]]]:
        """Phases that read the same positions are one convolution of so many times the filters."""
        found: dict[Any, list[tuple[Phase, ...]]] = {}
        for number, own in enumerate(phases):
            empty = not all(phase.taps for phase in own)
            apart = number if groups > 1 or empty else None
            found.setdefault((apart, *(phase.window for phase in own)), []).append(own)
        return list(found.values())

    def _target(self, own: tuple[Phase, ...]) -> View:
        target = self.result
        for d, (phase, step, size) in enumerate(zip(own, self.stride, self.out)):
            cut = layout.slice_of(target, self.front + 1 + d, phase.first, size, step)
            assert cut is not None
            target = cut
        return target

    def constant(self, own: tuple[Phase, ...], bias: Tensor) -> None:
        """Outputs that no tap reaches."""
        name = f"c{len(self.tensors)}"
        self.tensors[name] = bias.detach().float().cpu()
        along = (Atom(self.filters, 1),)
        around = [(Atom(phase.count, 0),) for phase in own]
        front = [tuple(a if a.batch else Atom(a.size, 0) for a in dim) for dim in self.view.dims[: self.front]]
        self.constants.append(self._part(View("", (*front, along, *around)), self._target(own)))

    def convolved(self, phases: list[tuple[Phase, ...]], weight: Tensor, bias: Tensor, groups: int) -> None:
        call, own = self.call, phases[0]
        source = self.view
        for d, phase in enumerate(own):  # what lies before the first position that is read
            if phase.start > 0:
                dim = self.front + 1 + d
                cut = call.build.cut(source, dim, phase.start, source.shape[dim])
                if cut is None:
                    raise Refused("reads a part of an image that no strides describe")
                source = cut
        kernel, dilation = tuple(len(p.taps) for p in own), tuple(p.dilation for p in own)
        before, count = tuple(max(0, -p.start) for p in own), tuple(p.count for p in own)
        windows = Windows(kernel, (1,) * len(own), dilation, before, count)
        op, base, tensors, attrs = convolution(call, source, weight, bias, windows, groups)
        if count == self.out and len(phases) == 1:
            self.single = op, base, tensors, attrs
            return
        name, width = f"{call.node.name}:phase{len(self.reads)}", self.filters * len(phases)
        call.build.buffers[name] = Buffer(self.images * prod(count) * width, width)
        made = OpNode(op, call.node, module_name(call.node), [base], [name], tensors=tensors, attrs=attrs)
        call.build.op_nodes.append(made)
        whole = image_of(self.view.dims[: self.front], width, count)
        for number, each in enumerate(phases):
            piece = layout.slice_of(whole, self.front, number * self.filters, (number + 1) * self.filters, 1)
            assert piece is not None
            self.reads.append(name)
            self.parts.append(self._part(piece, self._target(each)))

    @staticmethod
    def _part(source: View, target: View) -> Any:
        found = iteration(target, [source, target])
        assert found is not None, "both are dense but for the phases of one"
        return found.dims, *found.places

    def node(self) -> OpNode:
        elements = self.images * prod(self.out) * self.filters
        if self.single is not None:
            op, base, tensors, attrs = self.single
            result = image_of(self.view.dims[: self.front], self.filters, self.out)
            return self.call.op_node(op, [base], result, elements, self.filters, tensors=tensors, attrs=attrs)
        if not self.reads:
            raise Refused("reads nothing of its input")
        attrs = {"parts": (*self.parts, *self.constants), "fill": 0.0}
        copy = with_role(Role.COPY).name
        width = self.call.row_of(self.result)
        return self.call.op_node(copy, self.reads, self.result, elements, width, tensors=self.tensors, attrs=attrs)
