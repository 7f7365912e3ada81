"""The program of one elementwise call while it is written, and the node that it becomes.

Operands may broadcast and lie in any order.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused

OPERATOR = "strided_expression"


class Expression:
    """The program of one call while it is written. `operand` gives an argument's word, `emit` adds an instruction."""

    operator = OPERATOR
    gives: tuple[torch.dtype, ...] = (torch.float32, torch.bool)

    def __init__(self, call: Call) -> None:
        self.call = call
        self.lines: list[str] = []
        self.views: list[View] = []
        self.constants: list[tuple[Tensor, View]] = []

    def operand(self, value: Any) -> str:
        """Of a computed tensor, a parameter or a number."""
        if isinstance(value, (bool, int, float)):
            return repr(float(value))
        if not isinstance(value, fx.Node):
            raise Refused("has an argument that is no tensor and no number")
        return self._tensor(value)

    def _tensor(self, value: fx.Node) -> str:
        constant = self.call.repeated(value)
        if constant is not None:
            return self.constant(constant)
        view = self.view(value)
        if view not in self.views:
            self.views.append(view)
        return f"x{self.views.index(view)}"

    def view(self, value: fx.Node) -> View:
        """Where a computed operand lies."""
        return self.call.elements(value)

    def constant(self, tensor: Tensor) -> str:
        if tensor.is_complex() or tensor.numel() == 0:
            raise Refused(f"has a constant of {tensor.dtype}")
        floats = tensor.detach().float().cpu()
        if not tensor.is_floating_point() and not torch.equal(floats.double(), tensor.detach().cpu().double()):
            raise Refused("has a constant that float32 cannot hold")
        if floats.numel() == 1 and tensor.dim() == 0:
            return repr(float(floats))
        self.constants.append((floats.reshape(-1), layout.dense("", tensor.shape, None)))
        return f"c{len(self.constants) - 1}"

    def emit(self, name: str, *operands: str) -> str:
        self.lines.append(" ".join((name, *operands)))
        return f"t{len(self.lines) - 1}"

    def node(self) -> OpNode:
        """The node of all that was emitted; the last instruction gives its value. Raises Refused where it cannot be laid out."""
        call = self.call
        meta = call.node.meta["val"]
        if meta.dtype not in self.gives:
            raise Refused(f"gives {meta.dtype}, and operators here float32")
        if not self.views:
            raise Refused("computes nothing from the inputs")
        result = self._result()
        found = iteration(result, [*self.views, *(view for _, view in self.constants)])
        if found is None:  # operands that no common strides fit are copied in the order of the result
            views = [v if iteration(result, [v]) is not None else self._packed(v, result) for v in self.views]
            self.views = views
            found = iteration(result, [*views, *(view for _, view in self.constants)])
            if found is None:
                raise Refused("layout: its operands' samples are different dimensions")
        elements = prod(found.dims)
        width = self._width(result, elements)
        tensors = {f"c{i}": tensor for i, (tensor, _) in enumerate(self.constants)}
        attrs = {"program": tuple(self.lines), "dims": found.dims, "places": found.places}
        reads = [v.base for v in self.views]
        return call.op_node(self.operator, reads, result, elements, width, True, tensors=tensors, attrs=attrs)

    def _packed(self, view: View, result: View) -> View:
        build = self.call.build
        if len(view.dims) != len(result.dims):
            raise Refused("layout: its operands have no common strides")
        return build.packed(view)

    def _width(self, result: View, elements: int) -> int:
        """That of the operand in whose order the result lies; open where none has one."""
        build = self.call.build
        for view in self.views:
            buffer = build.buffers[view.base]
            if view.dims == result.dims and view.offset == 0 and buffer.width and elements == buffer.elements:
                return buffer.width
        last = result.dims[-1] if result.dims else ()
        fixed = bool(last) and not any(a.batch for a in last)
        run = layout.run_of(result, -1) if fixed else None
        return run.size if run is not None and (run.stride == 1 or run.size == 1) and build.windowed else 0

    def _result(self) -> View:
        """In the order of an operand that has all elements, a computed one first; else dense in the order of dimensions."""
        call, build = self.call, self.call.build
        candidates = [v for v in self.views if list(v.shape) == call.shape]
        candidates.sort(key=lambda v: v.base in build.exported.inputs)
        for view in candidates:
            if layout.covers(view, build.buffers[view.base].elements):
                if build.windowed:
                    view = build.whole(view)
                return View(view.base, view.dims)
        return View("", build._dense_like(View("", tuple(call.leading(self.views, call.shape)))).dims)
