"""What passes ask of `linear`: its weights, what folds into them, and its zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Planes, Sparse
from rtaccel.core.traits import Folding, Node, Weights


def only_weight(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    return ("weight",)


def _computed_by(attrs: Mapping[str, Any]) -> str | None:
    """Weights that are multiplied in no other way (float8) say how x is quantized inside."""
    return "fused_linear" if "input_format" in attrs else None


WEIGHTS = Weights(matrices=only_weight, of_input=only_weight, schemes=None, computed_by=_computed_by)


def scale_outputs(tensors: dict[str, Tensor], scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """y * scale + shift, with a weight [N, ...]; computed in float64: folding should cost no precision."""
    weight, bias = tensors["weight"].double(), tensors["bias"].double()
    scale, shift = scale.double(), shift.double()
    made = (weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))).float()
    return {**tensors, "weight": made, "bias": (bias * scale + shift).float()}


def _scale_inputs(tensors: dict[str, Tensor], scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """linear(x * scale + shift) = (W * scale) x + (bias + W shift)."""
    weight, bias = tensors["weight"].double(), tensors["bias"].double()
    scale, shift = scale.double(), shift.double()
    return {**tensors, "weight": (weight * scale).float(), "bias": (bias + weight @ shift).float()}


def _join(a: Node, b: Node) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """a(x) + b(x) as one layer."""
    if a.op != b.op or any(set(node.tensors) != {"weight", "bias"} for node in (a, b)):
        return None
    if a.tensors["weight"].shape != b.tensors["weight"].shape:
        return None
    return {name: (a.tensors[name].double() + b.tensors[name].double()).float() for name in b.tensors}, b.attrs


def _skip(
    tensors: dict[str, Tensor], attrs: Mapping[str, Any], scale: Tensor, shift: Tensor
) -> dict[str, Tensor] | None:
    """linear(x) + scale * x + shift as one layer."""
    n, k = tensors["weight"].shape
    if n != k or scale.shape != (n,):
        return None
    weight, bias = tensors["weight"].double() + scale.double().diag(), tensors["bias"].double() + shift.double()
    return {**tensors, "weight": weight.float(), "bias": bias.float()}


def columns(node: Node, order: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Some outputs in another order, of weights [N, ...]."""
    if set(node.tensors) != {"weight", "bias"}:
        return None
    picked = list(order)
    return {name: tensor[picked].contiguous() for name, tensor in node.tensors.items()}, node.attrs


FOLDING = Folding(after=scale_outputs, before=_scale_inputs, join=_join, skip=_skip, columns=columns)


class LinearSparse(Sparse):
    is_matrix = True

    def matrices(self, tensors: Mapping[str, Tensor], attrs: Mapping[str, object]) -> Sequence[str]:
        return ("weight",)


class LinearPlanes(Planes):
    """A product for each position of an image, in float32, is a convolution of one tap, which reads and writes planes."""

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        made = self._as_conv(stage)
        return None if made is None else operator(made.op).planes.read(made)

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        made = self._as_conv(stage)
        return None if made is None else operator(made.op).planes.written(made)

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        made = self._as_conv(stage)
        assert made is not None
        return operator(made.op).planes.over(made, x, y)

    @staticmethod
    def _as_conv(stage: Stage) -> Stage | None:
        weight, x, y = stage.tensors["weight"], stage.inputs[0], stage.outputs[0]
        plain = set(stage.tensors) <= {"weight", "bias"} and set(stage.attrs) <= {"activation", "activation_parameter"}
        floats = weight.dtype == torch.float32 and x.dtype == y.dtype == "float32"
        if not plain or not floats or len(stage.inputs) > 1 or len(stage.outputs) > 1 or x.steps < 2:
            return None
        tensors = {"bias": weight.new_zeros(weight.shape[0]), **stage.tensors, "weight": weight[:, :, None, None]}
        sizes = {"in_size": (1, x.steps), "out_size": (1, x.steps), "kernel": (1, 1)}
        return replace(stage, op="conv", tensors=tensors, attrs={**stage.attrs, **sizes})
