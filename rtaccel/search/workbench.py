"""A model that was exported once, and any number of plans of it: what a search lowers, builds and throws away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.exported.example import check_example
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.convert.lower import lower
from rtaccel.convert.lower_memo import LowerMemo
from rtaccel.convert.passes.fuse_norm import fuse_norms
from rtaccel.convert.passes.program import Program
from rtaccel.convert.passes.sparse import in_fastest_form
from rtaccel.core.scheme import Scheme, SchemeMap
from rtaccel.runtime.build import build_verified
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.foreign import as_tensors
from rtaccel.runtime.options import Options
from rtaccel.runtime.verification.script_check import check_form

MAX_BATCHES_ROWS = 256
"""Rows of the calibration data that the outputs of plans are compared on."""


class Workbench:
    """Exports and verifies the model in float32, once. Raises as `rt.compile` does.

    exact: the compiled model in float32. calibration: a list of batches, or None.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, calibration: list[Any] | None) -> None:
        original, model = model, in_python("fit_budget", model)
        self.args = as_tensors("fit_budget", check_example(model, example_inputs))
        check_form(original, model, self.args)
        self.calibration = calibration
        self.title = type(model).__name__
        self._memo = LowerMemo()
        signature = signature_of(model)
        self._names = () if signature is None else tuple(signature.parameters)[: len(self.args)]
        captured: list[tuple[ExportedGraph, OpGraph]] = []

        def built(exported: ExportedGraph, graph: OpGraph) -> CompiledModel:
            captured[:] = [(exported, graph)]
            return self._compiled(lower(exported, graph, SchemeMap("float32"), None, memo=LowerMemo()))

        self.exact = build_verified(
            model, self.args, built, verify=True, exact=True, names=self._names, original=original
        )
        self._exported, graph = captured[0]
        self._graph = graph
        self.graph = fuse_norms(graph)

    def program(self, scheme: Mapping[str, Scheme]) -> Program:
        """The program with this scheme of each layer, by name."""
        made = lower(self._exported, self._graph, SchemeMap(scheme), self.calibration, memo=self._memo)
        return in_fastest_form(made, self._rows(made), None, self._memo.sparse)

    def build(self, scheme: Mapping[str, Scheme]) -> CompiledModel:
        """What `rt.compile(model, example_inputs, scheme=scheme, calibration=calibration)` gives, without exporting again."""
        return self.compiled(self.program(scheme))

    def compiled(self, program: Program) -> CompiledModel:
        return self._compiled(program).note_verified("its graph was verified against the model in float32")

    def _compiled(self, program: Program) -> CompiledModel:
        options = Options(self._rows(program), title=self.title, batch=program.batch)
        return CompiledModel(program, options, self._names)

    @property
    def rows(self) -> int:
        """The batch size that kernels are chosen for."""
        return self.exact._options.batch_size

    def _rows(self, program: Program) -> int:
        return max(1, program.samples(pytree.tree_leaves(self.args)))

    def batches(self) -> list[tuple[Any, ...]]:
        """Some of the calibration data as arguments, or the example where there is none."""
        if not self.calibration:
            return [self.args]
        found, rows = [], 0
        for batch in self.calibration:
            args = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            found.append(args)
            rows += next((len(t) for t in args if isinstance(t, Tensor) and t.dim()), 1)
            if rows >= MAX_BATCHES_ROWS:
                break
        return found


class Outputs:
    """What the model in float32 gives on some inputs, and how far a plan is off."""

    def __init__(self, model: CompiledModel, batches: Sequence[tuple[Any, ...]]) -> None:
        self._batches = batches
        self._want = [_floats(model(*args)) for args in batches]
        self._scale = [
            sum(float(w[i].double().square().sum()) for w in self._want) for i in range(len(self._want[0]))
        ]  # fmt: skip

    def error(self, model: Callable[..., Any]) -> float:
        """rms of the difference over rms of the outputs, of the output that is furthest off; NaN counts as infinite."""
        squares = [0.0] * len(self._scale)
        for args, want in zip(self._batches, self._want):
            for i, (y, w) in enumerate(zip(_floats(model(*args)), want)):
                squares[i] += float((y.double() - w.double()).square().sum())
        found = max(((s / max(t, 1e-300)) ** 0.5 for s, t in zip(squares, self._scale)), default=0.0)
        return found if found == found else float("inf")


def _floats(result: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]


def bound(model: CompiledModel, args: Sequence[Any]) -> Any:
    """A call of the model without arguments that reads and writes its own tensors."""
    with torch.no_grad():
        fresh = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        return model.bind(*fresh, out=model(*fresh))
