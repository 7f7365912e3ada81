"""Sparsity in a compiled model: weights pruned before they are quantized, and each linear stage in its fastest form after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.registry import Operator, operator
from rtaccel.core.sparsity import SparsityMap, asked_for
from rtaccel.core.stage import Stage
from rtaccel.formats import masks
from rtaccel.plan import sparse_recurrent as recurrent
from rtaccel.plan.group import Subgraph
from rtaccel.plan.sparse import MIN_ZEROS, SparseChoice, could_be_sparse, fastest, zeros


def _matrices(op_node: OpNode) -> Sequence[str]:
    """Names of the weights that sparse kernels take."""
    return () if op_node.is_fallback else op_node.operator.sparse.matrices(op_node.tensors, op_node.attrs)


def pruned(graph: OpGraph, sparsity: SparsityMap, notes: list[str]) -> OpGraph:
    """The graph with the smallest weights of its linear layers, pointwise convolutions, LSTM and GRU left out, as the
    patterns say. The model is not touched.

    Layers that are swapped already keep their weights, and so do those of other operators; a note names them.
    """
    op_nodes = []
    for op_node in graph.op_nodes:
        pattern = sparsity(op_node.name) if any(name.startswith("weight") for name in op_node.tensors) else None
        names = _matrices(op_node)
        if pattern is None:
            op_nodes.append(op_node)
        elif op_node.swapped or not names:
            what = (
                "its weights are quantized already"
                if op_node.swapped
                else f"there are no sparse kernels for this {op_node.op}"
            )
            notes.append(f"{op_node.name} is not pruned: {what}")
            op_nodes.append(op_node)
        else:
            made: dict[str, Tensor] = {}
            for name in names:
                weight = op_node.tensors[name]
                made[name] = weight * masks.keep(weight.flatten(1).abs(), pattern).view(weight.shape)
            before = sum(float(op_node.tensors[name].double().square().sum()) for name in names)
            after = sum(float(w.double().square().sum()) for w in made.values())
            kept = sum(int(torch.count_nonzero(w)) for w in made.values()) / sum(w.numel() for w in made.values())
            notes.append(
                f"{op_node.name} is pruned to {1 - kept:.1%} zeros ({pattern}, by magnitude), "
                f"which takes {1 - after / max(before, 1e-300):.1%} of its squared weights"
            )
            op_nodes.append(replace(op_node, tensors={**op_node.tensors, **made}))
    return replace(graph, op_nodes=tuple(op_nodes))


def _quantizable(contract: Operator, stage: Stage) -> Sequence[str]:
    """Names of the weights that a scheme stores, of an operator that a layer of the model is."""
    found = contract.weights
    return () if found is None or found.schemes == () else found.matrices(stage.tensors)


def in_fastest_form(
    program: Program, rows: int, backend: str | None, known: dict[Any, SparseChoice] | None = None,
    patterns: SparsityMap | None = None,
) -> Program:  # fmt: skip
    """The program with each stage whose weights hold zeros sparse where that is faster; notes give the measured figures.
    known: what was chosen before for the same tensors, and is not measured again. patterns: some ask for it in any case.

    What a stage computes stays the same: to the bit where it is int8.
    """
    notes: list[str] = []

    def stage(dense: Stage) -> Stage:
        if recurrent.could_be_sparse(dense):
            gates = recurrent.fastest(dense, rows, backend)
            notes.append(gates.reason)
            return gates.stage
        contract = operator(dense.op)
        matrix = contract.sparse.as_matrix(dense)
        if matrix is None and not contract.sparse.by_layout:
            part = max((zeros(dense.tensors[name]) for name in _quantizable(contract, dense)), default=0.0)
            if part >= MIN_ZEROS:
                said = f"there are no sparse kernels for this {dense.op} ({part:.1%} zeros)"
                notes.append(f"{dense.name} is computed dense: {said}")
        always = asked_for(patterns, dense.name)
        if matrix is None or not could_be_sparse(matrix, always):
            return dense
        steps = dense.outputs[0].steps
        key = (
            dense.op,
            *map(id, dense.tensors.values()),
            *(v.dtype for v in (*dense.inputs, *dense.outputs)),
            rows * steps,
            always,
        )
        choice = None if known is None else known.get(key)
        if choice is None:
            choice = fastest(matrix.matrices(), rows * steps, backend, None, None if matrix is dense else dense, always)
        if known is not None:
            known[key] = choice
        notes.append(choice.reason)
        return replace(choice.stage, inputs=dense.inputs, outputs=dense.outputs) if choice.sparse else dense

    def step(s: SubgraphStep | FallbackStep) -> SubgraphStep | FallbackStep:
        if isinstance(s, FallbackStep):
            return s
        g = s.group
        return replace(s, group=Subgraph(tuple(map(stage, g.stages)), g.inputs, g.outputs))

    steps = tuple(map(step, program.steps))
    return replace(program, steps=steps, notes=(*program.notes, *notes))
