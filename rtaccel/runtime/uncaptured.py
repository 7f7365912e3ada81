"""A model that torch.export cannot capture: it runs as it is, layer by layer, with the layers that can be swapped swapped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.scheme import Float32, SchemeLike, parse_scheme
from rtaccel.plan.explain import Line, table
from rtaccel.runtime.inputs import bind_run, copy_out


class UncapturedModel(nn.Module):
    """Same calls as a CompiledModel. Python runs between the layers, so it is far slower than one native call;
    `explain()` says why it was not captured. The model it came from is copied, not changed."""

    def __init__(self, model: nn.Module, reason: str, scheme: SchemeLike, calibration: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.reason = reason
        exact = not isinstance(scheme, dict) and isinstance(parse_scheme(scheme), Float32)  # type: ignore[arg-type]
        self.report = None
        if not exact:
            from rtaccel.convert.swap import quantize_

            self.report = quantize_(self.model, scheme, calibration=calibration)
        self.eval()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with torch.no_grad():
            return self.model(*inputs, **named)

    def run(self, *inputs: Any, out: Any) -> Any:
        """Computes, then copies into `out`. Raises ShapeError, with `out` untouched, for an `out` that does not fit."""
        copy_out(pytree.tree_leaves(self(*inputs)), out)
        return out

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        return bind_run(self.run, inputs, out)

    def prefault(self) -> int:
        """Nothing here is the plan's own: 0 bytes."""
        return 0

    def seal(self, lock: bool = False) -> UncapturedModel:
        raise UnsupportedProblem("seal", "a model that was not captured", "native stages only", self.reason)

    @property
    def weight_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.model.parameters(), *self.model.buffers()))

    def explain(self, verbose: bool = True) -> str:
        lines = [Line(type(self.model).__name__, "the whole model, as it is", "torch", None, None, (self.reason,))]
        swapped = f"\n\n{self.report}" if self.report is not None else ""
        return f"{type(self.model).__name__}: not captured, {self.weight_bytes} B of weights\n\n{table(lines, verbose)}{swapped}"
