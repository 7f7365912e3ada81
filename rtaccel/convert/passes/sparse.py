"""Sparsity in a compiled model: weights pruned before they are quantized, and each linear stage in its fastest form after."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rtaccel.convert.frontend.graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.sparsity import SparsityMap
from rtaccel.core.stage import Stage
from rtaccel.formats import masks
from rtaccel.kernels._common.geometry import Geometry
from rtaccel.plan import sparse_recurrent as recurrent
from rtaccel.plan.group import Subgraph
from rtaccel.plan.sparse import MIN_ZEROS, could_be_sparse, fastest, zeros


def _matrices(op_node: OpNode) -> list[str]:
    """Names of the weights that sparse kernels take: of linear layers, of convolutions of one position without groups, and
    the gates of LSTM and GRU."""
    if op_node.op == "conv":
        weight = op_node.tensors["weight"]
        return ["weight"] if weight[0, 0].numel() == 1 and int(op_node.attrs.get("groups", 1)) == 1 else []
    if op_node.op in ("lstm", "gru"):
        return [name for name in op_node.tensors if name.startswith("weight")]
    return ["weight"] if op_node.op == "linear" else []


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


def as_linear(stage: Stage) -> Stage | None:
    """The stage of `linear` that means the same, to the bit in int8: itself, or what a pointwise convolution is to each of
    its positions. None where there is none."""
    if stage.op == "linear":
        return stage
    if stage.op != "conv" or stage.attrs.get("stream") or len(stage.inputs) > 1:
        return None
    weight, x, y = stage.tensors["weight"], stage.inputs[0], stage.outputs[0]
    geometry = Geometry.of(stage)
    whole = geometry.out_size == geometry.in_size and geometry.in_steps is None and geometry.out_steps is None
    alike = weight[0, 0].numel() == 1 and geometry.stride == (1, 1) and geometry.padding == (0, 0) and whole
    own = weight.dtype == torch.int8 and (x.dtype != "int8" or x.quant is None)  # quantizes its input itself
    if not alike or own or int(stage.attrs.get("groups", 1)) != 1 or x.steps != y.steps or x.width != weight.shape[1]:
        return None
    attrs = {name: stage.attrs[name] for name in ("activation", "activation_parameter") if name in stage.attrs}
    return Stage(
        "linear", stage.name, stage.inputs, stage.outputs, {**stage.tensors, "weight": weight.flatten(1)}, attrs
    )


def in_fastest_form(program: Program, rows: int, backend: str | None) -> Program:
    """The program with each stage whose weights hold zeros sparse where that is faster; notes give the measured figures.

    What a stage computes stays the same: to the bit where it is int8.
    """
    notes: list[str] = []

    def stage(dense: Stage) -> Stage:
        if recurrent.could_be_sparse(dense):
            gates = recurrent.fastest(dense, rows, backend)
            notes.append(gates.reason)
            return gates.stage
        matrix = as_linear(dense)
        if matrix is None and dense.op == "conv" and zeros(dense.tensors["weight"]) >= MIN_ZEROS:
            part = zeros(dense.tensors["weight"])
            notes.append(
                f"{dense.name} is computed dense: there are no sparse kernels for this conv ({part:.1%} zeros)"
            )
        if matrix is None or not could_be_sparse(matrix):
            return dense
        steps = dense.outputs[0].steps
        choice = fastest(matrix.matrices(), rows * steps, backend, instead=None if matrix is dense else dense)
        notes.append(choice.reason)
        return replace(choice.stage, inputs=dense.inputs, outputs=dense.outputs) if choice.sparse else dense

    def step(s: SubgraphStep | FallbackStep) -> SubgraphStep | FallbackStep:
        if isinstance(s, FallbackStep):
            return s
        g = s.group
        return replace(s, group=Subgraph(tuple(map(stage, g.stages)), g.inputs, g.outputs))

    steps = tuple(map(step, program.steps))
    return replace(program, steps=steps, notes=(*program.notes, *notes))
