"""Sparsity in a compiled model: weights pruned before they are quantised, and each linear stage in its fastest form after."""

from __future__ import annotations

from dataclasses import replace

from rtaccel.convert.graph import DraftGraph
from rtaccel.convert.program import GroupStep, Program, TorchStep
from rtaccel.core.sparsity import SparsityMap
from rtaccel.core.stage import Stage
from rtaccel.formats import masks
from rtaccel.plan.group import Group
from rtaccel.plan.sparse import could_be_sparse, fastest


def pruned(graph: DraftGraph, sparsity: SparsityMap, notes: list[str]) -> DraftGraph:
    """The graph with the smallest weights of its linear layers left out, as the patterns say. The model is not touched.

    Layers that are swapped already keep their weights, and so do those of other operators; a note names them.
    """
    drafts = []
    for draft in graph.drafts:
        pattern = sparsity(draft.name) if any(name.startswith("weight") for name in draft.tensors) else None
        if pattern is None:
            drafts.append(draft)
        elif draft.op != "linear" or draft.swapped:
            what = "its weights are quantised already" if draft.swapped else f"{draft.op} has no sparse kernels"
            notes.append(f"{draft.name} is not pruned: {what}")
            drafts.append(draft)
        else:
            weight = draft.tensors["weight"]
            mask = masks.keep(weight.abs(), pattern)
            lost = 1 - float((weight * mask).double().square().sum() / weight.double().square().sum().clamp_min(1e-300))
            notes.append(
                f"{draft.name} is pruned to {1 - float(mask.float().mean()):.1%} zeros ({pattern}, by magnitude), "
                f"which takes {lost:.1%} of its squared weights"
            )
            drafts.append(replace(draft, tensors={**draft.tensors, "weight": weight * mask}))
    return replace(graph, drafts=tuple(drafts))


def in_fastest_form(program: Program, rows: int, backend: str | None) -> Program:
    """The program with each linear stage sparse where its zeros make that faster; notes give the measured figures.

    What a stage computes stays the same: to the bit where it is int8.
    """
    notes: list[str] = []

    def stage(dense: Stage) -> Stage:
        if not could_be_sparse(dense):
            return dense
        steps = dense.outputs[0].steps
        form = fastest(dense.matrices(), rows * steps, backend)
        notes.append(form.reason)
        return replace(form.stage, inputs=dense.inputs, outputs=dense.outputs) if form.sparse else dense

    def step(s: GroupStep | TorchStep) -> GroupStep | TorchStep:
        if isinstance(s, TorchStep):
            return s
        g = s.group
        return replace(s, group=Group(tuple(map(stage, g.stages)), g.inputs, g.outputs))

    steps = tuple(map(step, program.steps))
    return replace(program, steps=steps, notes=(*program.notes, *notes))
