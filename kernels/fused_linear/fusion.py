"""The neighbors that `linear` and `fused_linear` take into one launch on a GPU.

quantize (a scale per row) -> linear             fused_linear with input_format="int8"
quantize (static) -> linear                      fused_linear with input_format="static"
linear -> a sum with another value               fused_linear with a residual
quantize (static) -> linear -> linear ...        mlp, in int8 or in int4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.stage_traits import Fusion
from rtaccel.kernels._common.activations import HOMOGENEOUS


def _is_librarys(stage: Stage, rows: int) -> bool:
    """Whether cuBLAS multiplies it where x is int8 already: a product so large that launches are not what it costs."""
    from rtaccel.kernels.linear.triton import blas

    return stage.op == "linear" and blas.supports(Problem.of(stage, rows, "cuda")) is None


class ResidualFusion(Fusion):
    """Of `fused_linear`."""

    def takes_residual(self, stage: Stage) -> bool:
        return stage.outputs[0].dtype == "float32" and stage.tensors["weight"].dtype.itemsize < 4

    def with_residual(self, stage: Stage, other: Value, outputs: tuple[Value, ...]) -> Stage:
        attrs = {**stage.attrs, "input_format": stage.attrs.get("input_format", "none"), "residual": True}
        return replace(stage, op="fused_linear", inputs=(stage.inputs[0], other), outputs=outputs, attrs=attrs)

    def static(self, stage: Stage, source: Stage, rows: int) -> Stage | None:
        """Layers with int8 or int4 weights and one scale."""
        quant = source.outputs[0].quant
        attrs = {"residual": False, **stage.attrs, "input_format": "static"}
        if quant is None or stage.tensors["weight"].dtype.itemsize > 1 or _is_librarys(stage, rows):
            return None
        attrs |= {"x_scale": quant.scale, "x_zero_point": quant.zero_point}
        return replace(stage, op="fused_linear", inputs=(source.inputs[0], *stage.inputs[1:]), attrs=attrs)


class LinearFusion(ResidualFusion):
    """Of `linear`."""

    def takes_residual(self, stage: Stage) -> bool:
        return len(stage.inputs) == 1 and super().takes_residual(stage)

    def rows(self, stage: Stage, source: Stage) -> Stage | None:
        attrs = {**stage.attrs, "input_format": "int8", "residual": False}
        return replace(stage, op="fused_linear", inputs=source.inputs, attrs=attrs)

    def links(self, layers: Sequence[Stage], stage: Stage) -> bool:
        """With int8 or int4 weights as those before it have."""
        weight = stage.tensors["weight"].dtype
        if len(stage.inputs) != 1 or stage.inputs[0].steps != 1 or weight.itemsize > 1:
            return False
        return all(
            weight == layer.tensors["weight"].dtype and stage.attrs.get("group_size") == layer.attrs.get("group_size")
            for layer in layers[:1]
        )

    def chain(self, source: Stage, layers: Sequence[Stage]) -> Stage | None:
        from rtaccel.kernels.mlp import contract as mlp  # which imports linear's contract

        if any(layer.attrs.get("activation", "none") not in HOMOGENEOUS for layer in layers[:-1]):
            return None
        return mlp.join(layers[-1].name, source, layers)
