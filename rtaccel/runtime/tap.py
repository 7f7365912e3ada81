"""A second output for a compiled model: what enters its last linear layer, in the same native call."""

from __future__ import annotations

from dataclasses import replace

from torch.utils import _pytree as pytree

from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import GraphIO, Stage
from rtaccel.plan.group import Subgraph
from rtaccel.runtime.compiled import CompiledModel

NEXT = "Compile rt.online.tapped(model) instead."


def with_tap(fast: CompiledModel, layer: str | None = None) -> CompiledModel:
    """A compiled model that gives (its output, features float32 [batch, n]); `fast` stays as it is.

    layer: the name of a linear layer, whose input is the features; None for the last one.

    Raises UnsupportedProblem where the model is not one native plan, where there is no such layer, or where its input is int8,
    an input of the model, or more than one row for each sample.
    """
    program, options = fast._program, fast._options
    step = program.steps[0]
    if len(program.steps) != 1 or not isinstance(step, SubgraphStep) or options.plan_states is not None:
        raise UnsupportedProblem("tap", "a model that is not one native plan without states", "one that is", NEXT)
    stage = _linear(step.group.stages, layer)
    value, group = stage.inputs[0], step.group
    inputs = {port.value.name for port in group.inputs}
    if value.dtype != "float32" or value.steps != 1 or value.name in inputs or group.outputs[0].lead != 1:
        raise UnsupportedProblem(
            "tap",
            f"{value.dtype} {value.name!r} of {value.steps} rows before layer {stage.name!r}",
            "a float32 row that the model computes",
            NEXT,
        )
    if value.name in step.writes:
        writes, outputs = step.writes, group.outputs
    else:
        writes, outputs = (*step.writes, value.name), (*group.outputs, GraphIO.matrix(value))
    nested = (pytree.tree_unflatten([0] * len(program.outputs), program.out_spec), 0)
    tapped = replace(
        program,
        steps=(replace(step, group=Subgraph(group.stages, group.inputs, outputs), writes=writes),),
        outputs=(*program.outputs, value.name),
        out_spec=pytree.tree_structure(nested),
        source=None,  # lowered anew, as for a state with other choices, it would lose the tap: such a state is refused
    )
    return CompiledModel(tapped, options, fast._argument_names)


def _is_linear(stage: Stage) -> bool:
    """Whether a stage multiplies each row of its input by a matrix of its own."""
    weight = stage.tensors.get("weight")
    rows = operator(stage.op).by_row and stage.inputs[0].dtype != "int64"
    return rows and weight is not None and weight.dim() == 2 and weight.shape[0] == stage.outputs[0].width


def _linear(stages: tuple[Stage, ...], layer: str | None) -> Stage:
    linear = [stage for stage in stages if _is_linear(stage)]
    found = [stage for stage in linear if layer in (None, stage.name)]
    if not found:
        names = [stage.name for stage in linear]
        raise UnsupportedProblem("tap", f"layer {layer!r}", f"one of the linear layers {names[:8]}", NEXT)
    return found[-1]


def last_layer(fast: CompiledModel) -> tuple[str, str]:
    """The keys of weight and bias, in the state dict of a tapped model, of the layer that makes its output from its features.

    Raises UnsupportedProblem where the output is not a linear layer of the features in float32 with nothing behind it.
    """
    program = fast._program
    step, outputs = program.steps[0], program.outputs
    if len(program.steps) == 1 and isinstance(step, SubgraphStep) and len(outputs) == 2:
        for index, stage in enumerate(step.group.stages):
            if stage.outputs[0].name != outputs[0] or not _is_linear(stage):
                continue
            plain = set(stage.tensors) == {"weight", "bias"} and not stage.attrs
            if not plain or len(stage.inputs) != 1 or stage.inputs[0].name != outputs[1]:
                break
            keys = {entry.name: entry.key for entry in fast._state.entries.values() if entry.stage == index}
            if stage.tensors["weight"].dtype.is_floating_point:
                return keys["weight"], keys["bias"]
    raise UnsupportedProblem(
        "Adapt",
        "a model whose output is not a float32 linear layer of its features",
        "one that ends in it, with nothing behind, as one native plan of (output, features)",
        "Take serve='beside', or keep its last layer in float32.",
    )
