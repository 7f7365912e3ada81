"""Linear stages of a GPU's program in the form that a model holds to be the fastest: sparse where enough is zero."""

from __future__ import annotations

from dataclasses import replace

from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.sparsity import SparsityMap, asked_for
from rtaccel.core.stage import Stage
from rtaccel.plan.group import Subgraph
from rtaccel.plan.sparse_gpu import could_be_sparse, modeled

BACKENDS = ("triton", "numba_cuda")
"""Those with sparse kernels for a GPU, on whatever device they run."""


def in_predicted_form(
    program: Program, rows: int, backend: str | None = None, patterns: SparsityMap | None = None
) -> Program:
    """The program with each linear stage sparse where the model says that it is faster, or where its pattern asks for it; notes
    give the figures."""
    notes: list[str] = []

    def stage(dense: Stage) -> Stage:
        always = asked_for(patterns, dense.name)
        if not could_be_sparse(dense, always):
            return dense
        every = rows * dense.outputs[0].steps
        choice = modeled(dense.matrices(), every, backend=backend or "triton", always=always)
        notes.append(choice.reason)
        return replace(choice.stage, inputs=dense.inputs, outputs=dense.outputs) if choice.sparse else dense

    def step(s: SubgraphStep | FallbackStep) -> SubgraphStep | FallbackStep:
        if isinstance(s, FallbackStep):
            return s
        return replace(s, group=Subgraph(tuple(map(stage, s.group.stages)), s.group.inputs, s.group.outputs))

    steps = tuple(map(step, program.steps))
    return replace(program, steps=steps, notes=(*program.notes, *notes))
