"""From the graph of a model to a compiled one, by what `compile` was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils import _pytree as pytree

from rtaccel.backends.cuda_streams import current_index
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.kept_states import Keeping, with_states_kept
from rtaccel.convert.lower import lower
from rtaccel.convert.lower_memo import LowerMemo
from rtaccel.convert.passes import sparse_gpu
from rtaccel.convert.passes.program import Program
from rtaccel.convert.passes.sparse import in_fastest_form
from rtaccel.core.errors import ShapeError
from rtaccel.core.scheme import SchemeMap
from rtaccel.core.sparsity import SparsityMap
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.options import Options
from rtaccel.runtime.stateful.build import states_of
from rtaccel.runtime.stateful.model import StatefulModel


@dataclass(frozen=True)
class Recipe:
    """The arguments of `compile` that say how. args: of one call. title, names: of the model, and of its arguments.
    memo: what calibration finds holds for all sizes of one graph."""

    args: Sequence[Any]
    schemes: SchemeMap
    patterns: SparsityMap | None
    calibration: Any
    device: str
    backend: str | None
    threads: int
    max_batch: int | None
    mode: str | None
    exact: bool
    title: str
    names: tuple[str, ...]
    memo: LowerMemo = field(default_factory=LowerMemo)

    @property
    def on_cpu(self) -> bool:
        """Whether kernels are those of the CPU."""
        return self.device == "cpu" and self.backend in (None, "cpu", "portable")

    def _lowered(self, captured: ExportedGraph, graph: OpGraph, batches: Any) -> Program:
        return lower(
            captured, graph, self.schemes, batches, equalize=self.backend != "numba_cuda", sparsity=self.patterns,
            exact=self.exact, memo=LowerMemo() if captured.fitted is None else self.memo.for_other_sizes(),
        )  # fmt: skip

    @property
    def _launch(self) -> str | None:
        """How a GPU runs it; None on a CPU."""
        return self.mode or ("graph" if self.device == "cuda" else None)

    def _formed(self, program: Program, rows: int) -> Program:
        """Layers sparse or dense: as measured on a CPU, and as predicted for a GPU, but for a persistent kernel."""
        if (self.device == "cuda" and self.mode != "persistent") or self.backend in sparse_gpu.BACKENDS:
            return sparse_gpu.in_predicted_form(program, rows, self.backend, self.patterns)
        if self.device == "cpu":
            return in_fastest_form(program, rows, self.backend, patterns=self.patterns)
        return program

    def with_state(self, captured: ExportedGraph, graph: OpGraph, keeping: Keeping, batches: Any) -> StatefulModel:
        """The plan keeps the state of the model."""
        program = with_states_kept(self._lowered(captured, graph, batches), keeping)
        program = self._formed(program, 1)
        options = Options(
            1, self.device, self.backend, self.max_batch or 0, self.title, self.threads, mode=self._launch,
            batch=program.batch, scheme=str(self.schemes), kept=states_of(keeping, program),
            index=current_index(self.device),
        )  # fmt: skip
        return StatefulModel(program, options, self.names)

    def compiled(self, captured: ExportedGraph, graph: OpGraph) -> CompiledModel:
        """Raises ShapeError for a persistent kernel of several rows."""
        program = self._lowered(captured, graph, self.calibration)
        rows = max(1, program.samples(pytree.tree_leaves(self.args)))
        program = self._formed(program, rows)
        launch, where, most = self._launch, self.device, self.max_batch
        if launch == "persistent":
            if rows != 1:
                raise ShapeError(
                    "compile", f"an example of {rows} rows", "one row for mode='persistent'", "Use mode='graph'."
                )
            where, most = "cpu", 1  # where the tensors are
        options = Options(
            rows, where, self.backend, most or 0, self.title, self.threads, mode=launch,
            batch=program.batch.cut(hi=most), scheme=str(self.schemes), index=current_index(where),
        )  # fmt: skip
        return CompiledModel(program, options, self.names)
