"""Stages that one GPU kernel computes together: a launch costs more than most layers of a small network.

quantize (a scale per row) -> linear             fused_linear with quantize="int8"
quantize (a scale per row) -> sparse_linear      fused_sparse_linear, where rtaccel.plan.sparse_gpu asks for it
linear -> pointwise that adds                    fused_linear with a residual
quantize (static) -> linear -> linear ...        mlp, where a kernel takes the whole chain, in int8 or in int4
quantize (static) -> lstm or gru                 the same stage, which quantizes x itself

Only where the value between is read by nothing else. The CPU's plan is one call whatever its stages are, and is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common.activations import HOMOGENEOUS
from rtaccel.kernels.mlp import contract as mlp


def fuse(stages: Sequence[Stage], outputs: Sequence[Value], rows: int, whole: bool = False) -> tuple[Stage, ...]:
    """The same computation in fewer stages, for batches of about `rows`. outputs: values that must stay, as they are read
    outside. whole: chains of any size become one stage, for a caller who says himself what does not fit."""
    readers = Counter(v.name for s in stages for v in s.inputs)
    readers.update(v.name for v in outputs)
    stages = _recurrent(_rows(stages, readers), readers)
    return tuple(_chains(_residuals(stages, readers), readers, rows, whole))


def _rows(stages: Sequence[Stage], readers: Counter[str]) -> list[Stage]:
    """Rows quantized for one linear layer alone are quantized in it; for a sparse one where that is said to be faster."""
    sources = {
        s.outputs[0].name: s
        for s in stages
        if s.op == "quantize" and len(s.outputs) == 2 and all(readers[v.name] == 1 for v in s.outputs)
    }
    fused: list[Stage] = []
    for stage in stages:
        sparse = stage.op == "sparse_linear" and bool(stage.attrs.get("rows_in_front"))
        takes = (stage.op == "linear" or sparse) and len(stage.inputs) == 2
        source = sources.get(stage.inputs[0].name) if takes else None
        if source is None or source.outputs[1].name != stage.inputs[1].name:
            fused.append(stage)
            continue
        fused = [s for s in fused if s is not source]
        if sparse:
            fused.append(replace(stage, op="fused_sparse_linear", inputs=source.inputs))
            continue
        attrs = {**stage.attrs, "quantize": "int8", "residual": False}
        fused.append(replace(stage, op="fused_linear", inputs=source.inputs, attrs=attrs))
    return fused


def _recurrent(stages: Sequence[Stage], readers: Counter[str]) -> list[Stage]:
    """x quantized for one recurrent stage alone is quantized in it, with the same scale."""
    sources = {
        s.outputs[0].name: s
        for s in stages
        if s.op == "quantize" and len(s.outputs) == 1 and readers[s.outputs[0].name] == 1
    }
    fused: list[Stage] = []
    for stage in stages:
        source = sources.get(stage.inputs[0].name) if stage.op in ("lstm", "gru") else None
        quant = source.outputs[0].quant if source is not None else None
        if source is None or quant is None or stage.tensors["weight_ih_l0"].dtype.itemsize > 1:
            fused.append(stage)
            continue
        fused = [s for s in fused if s is not source]
        attrs = {**stage.attrs, "x_scale": quant.scale, "x_zero_point": quant.zero_point}
        fused.append(replace(stage, inputs=(source.inputs[0], *stage.inputs[1:]), attrs=attrs))
    return fused


def _adds(stage: Stage) -> bool:
    """Whether a pointwise stage is a sum of two float32 values and nothing more."""
    return (
        stage.op == "pointwise"
        and len(stage.inputs) == 2
        and all(v.dtype == "float32" for v in stage.inputs)
        and stage.attrs.get("join", "add") == "add"
        and stage.attrs.get("activation", "none") == "none"
        and "scale" not in stage.tensors
    )


def _residuals(stages: Sequence[Stage], readers: Counter[str]) -> list[Stage]:
    """A sum after a linear layer is added where its result is written. The fused stage stands where the sum stood, because
    the other summand may come after the layer."""
    found: dict[str, Stage] = {
        s.outputs[0].name: s
        for s in stages
        if (s.op == "fused_linear" or (s.op == "linear" and len(s.inputs) == 1))
        and s.outputs[0].dtype == "float32"
        and s.tensors["weight"].dtype.itemsize < 4
        and readers[s.outputs[0].name] == 1
    }
    fused: list[Stage] = []
    for stage in stages:
        layer = None
        if _adds(stage):
            summand, other = stage.inputs
            layer = found.get(summand.name)
            if layer is None:
                summand, other = other, summand
                layer = found.get(summand.name)
        if layer is None or other.name == summand.name or other.steps != summand.steps:
            fused.append(stage)
            continue
        fused = [s for s in fused if s is not layer]
        attrs = {**layer.attrs, "quantize": layer.attrs.get("quantize", "none"), "residual": True}
        inputs = (layer.inputs[0], other)
        fused.append(replace(layer, op="fused_linear", inputs=inputs, outputs=stage.outputs, attrs=attrs))
        found.pop(summand.name)
    return fused


def _chains(stages: list[Stage], readers: Counter[str], rows: int, whole: bool) -> list[Stage]:
    """Static W8A8 layers one after another become one stage, where a kernel takes the chain; so do W4A8 layers."""
    after = {s.inputs[0].name: s for s in stages if s.op == "linear" and len(s.inputs) == 1}
    fused = list(stages)
    for source in stages:
        if source.op != "quantize" or len(source.outputs) != 1:
            continue
        layers: list[Stage] = []
        value = source.outputs[0]
        while value.dtype == "int8" and readers[value.name] == 1 and _continues(layers, after.get(value.name)):
            layers.append(after[value.name])
            value = layers[-1].outputs[0]
        hidden = [layer.attrs.get("activation", "none") in HOMOGENEOUS for layer in layers[:-1]]
        if len(layers) < 2 or value.dtype != "float32" or not all(hidden):
            continue
        stage = mlp.join(layers[-1].name, source, layers)
        if whole or any(impl.supports(Problem.of(stage, rows, "cuda")) is None for impl in impls("triton", "mlp")):
            fused = [s for s in fused if s is not source and all(s is not layer for layer in layers[:-1])]
            fused = [stage if s is layers[-1] else s for s in fused]
    return fused


def _continues(layers: Sequence[Stage], stage: Stage | None) -> bool:
    """Whether a linear stage has int8 or int4 weights as those before it have."""
    if stage is None or stage.inputs[0].steps != 1 or stage.tensors["weight"].dtype.itemsize > 1:
        return False
    return all(
        stage.tensors["weight"].dtype == layer.tensors["weight"].dtype
        and stage.attrs.get("group_size") == layer.attrs.get("group_size")
        for layer in layers[:1]
    )
