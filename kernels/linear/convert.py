"""What passes ask of `linear`: its weights, what folds into them, and its zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rtaccel.core.stage_traits import Sparse
from rtaccel.core.traits import Folding, Weights


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


FOLDING = Folding(after=scale_outputs, before=_scale_inputs)


class LinearSparse(Sparse):
    is_matrix = True

    def matrices(self, tensors: Mapping[str, Tensor], attrs: Mapping[str, object]) -> Sequence[str]:
        return ("weight",)
