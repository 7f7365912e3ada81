"""Stages that one GPU kernel computes together: a launch costs more than most layers of a small network.

quantize (a scale per row) -> a layer            the layer quantizes its rows itself
quantize (static) -> a layer                     the layer quantizes its input itself, with the same scale
a layer -> a sum with another value              the layer adds the other value where it writes its result
quantize (static) -> layer -> layer ...          one stage, where a kernel takes the whole chain
a stage -> int8 -> a layer                       float32 between them, where that saves a launch (keep_float.py)
a layer -> int8 ... -> a layer                   a mark of each sample beside int8, in place of a launch (carry_marks.py)

Which of them an operator does, its `fusion` says (rtaccel.core.stage_traits); only where the
value between is read by nothing else. The CPU's plan is one call whatever its stages are, and is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.plan.carry_marks import with_marks
from rtaccel.plan.keep_float import launches, with_floats


def fuse(stages: Sequence[Stage], outputs: Sequence[Value], rows: int, whole: bool = False) -> tuple[Stage, ...]:
    """The same computation in fewer stages, for batches of about `rows`. outputs: values that must stay, as they are read
    outside. whole: chains of any size become one stage, for a caller who says himself what does not fit."""
    fused = _fused(stages, outputs, rows, whole)
    if whole:
        return fused
    floats = with_floats(stages, outputs, rows)
    every = [fused] if floats is None else [fused, _fused(floats, outputs, rows, whole)]
    marked = (tuple(with_marks(found, outputs)) for found in every)
    return min(marked, key=lambda found: launches(found, outputs, rows))


def _fused(stages: Sequence[Stage], outputs: Sequence[Value], rows: int, whole: bool) -> tuple[Stage, ...]:
    readers = Counter(v.name for s in stages for v in s.inputs)
    readers.update(v.name for v in outputs)
    chained = _chains(_residuals(_rows(stages, readers), readers), readers, rows, whole)
    return tuple(_static(chained, readers, rows))


def _quantizers(stages: Sequence[Stage], readers: Counter[str], outputs: int) -> dict[str, Stage]:
    """Stages that quantize for one reader alone, by the name of their int8 value. outputs: 1 with a static scale, 2 with a scale
    per row."""
    return {
        s.outputs[0].name: s
        for s in stages
        if operator(s.op).role is Role.QUANTIZE
        and len(s.outputs) == outputs
        and all(readers[v.name] == 1 for v in s.outputs)
    }


def _rows(stages: Sequence[Stage], readers: Counter[str]) -> list[Stage]:
    """Rows quantized for one layer alone are quantized in it."""
    sources = _quantizers(stages, readers, 2)
    fused: list[Stage] = []
    for stage in stages:
        source = sources.get(stage.inputs[0].name) if len(stage.inputs) == 2 else None
        made = None
        if source is not None and source.outputs[1].name == stage.inputs[1].name:
            made = operator(stage.op).fusion.rows(stage, source)
        if made is not None:
            fused = [s for s in fused if s is not source]
        fused.append(made or stage)
    return fused


def _static(stages: Sequence[Stage], readers: Counter[str], rows: int) -> list[Stage]:
    """x quantized for one stage alone is quantized in it, with the same scale."""
    sources = _quantizers(stages, readers, 1)
    fused: list[Stage] = []
    for stage in stages:
        source = sources.get(stage.inputs[0].name)
        made = None if source is None else operator(stage.op).fusion.static(stage, source, rows)
        if made is not None:
            fused = [s for s in fused if s is not source]
        fused.append(made or stage)
    return fused


def _adds(stage: Stage) -> bool:
    """Whether a stage is a sum of two float32 values and nothing more."""
    elementwise = operator(stage.op).elementwise
    return (
        elementwise is not None
        and elementwise.adds(len(stage.inputs), stage.tensors, stage.attrs)
        and all(v.dtype == "float32" for v in stage.inputs)
        and stage.attrs.get("activation", "none") == "none"
    )


def _residuals(stages: Sequence[Stage], readers: Counter[str]) -> list[Stage]:
    """A sum after a layer is added where its result is written. The fused stage stands where the sum stood, because the other
    summand may come after the layer."""
    found: dict[str, Stage] = {
        s.outputs[0].name: s
        for s in stages
        if operator(s.op).fusion.takes_residual(s) and readers[s.outputs[0].name] == 1
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
        fused.append(operator(layer.op).fusion.with_residual(layer, other, stage.outputs))
        found.pop(summand.name)
    return fused


def _chains(stages: list[Stage], readers: Counter[str], rows: int, whole: bool) -> list[Stage]:
    """Static int8 layers one after another become one stage, where a kernel takes the chain."""
    after = {s.inputs[0].name: s for s in stages if operator(s.op).fusion.links((), s)}
    fused = list(stages)
    for source in stages:
        if operator(source.op).role is not Role.QUANTIZE or len(source.outputs) != 1:
            continue
        layers: list[Stage] = []
        value = source.outputs[0]
        while value.dtype == "int8" and readers[value.name] == 1 and _links(layers, after.get(value.name)):
            layers.append(after[value.name])
            value = layers[-1].outputs[0]
        if len(layers) < 2 or value.dtype != "float32":
            continue
        stage = operator(layers[0].op).fusion.chain(source, layers)
        if stage is None:
            continue
        if whole or any(impl.supports(Problem.of(stage, rows, "cuda")) is None for impl in impls("triton", stage.op)):
            fused = [s for s in fused if s is not source and all(s is not layer for layer in layers[:-1])]
            fused = [stage if s is layers[-1] else s for s in fused]
    return fused


def _links(layers: Sequence[Stage], stage: Stage | None) -> bool:
    return stage is not None and operator(stage.op).fusion.links(layers, stage)
