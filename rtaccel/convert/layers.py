"""How a layer with weights is computed under each scheme: what its input must be, and the tensors of its stage.

One table for linear, convolution and recurrent layers: their weight is a matrix [N, K], or has its K first to last after
the outputs. A further scheme is a further entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rtaccel.convert.draft import Draft
from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, BFloat16, Float32, Int8Activation, Scheme
from rtaccel.core.stage import Quant
from rtaccel.formats import bf16, int4, int8
from rtaccel.kernels.linear.contract import MAX_K

Weights = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors that take the place of the float32 `weight`, and further attributes of the stage."""


@dataclass(frozen=True)
class Layer:
    """How one layer is computed.

    int8: it reads int8; dynamic: with a scale per row. quant: what its int8 input means, where it is static and known.
    """

    scheme: Scheme
    int8: bool = False
    dynamic: bool = False
    quant: Quant | None = None

    @property
    def observer(self) -> str | None:
        """How calibration picks the range of the input; None where it is not needed."""
        static = self.int8 and not self.dynamic and self.quant is None
        return self.scheme.observer if static and isinstance(self.scheme, Int8Activation) else None


def _float32(weight: Tensor, scheme: Float32) -> Weights:
    return {"weight": weight}, {}


def _bfloat16(weight: Tensor, scheme: BFloat16) -> Weights:
    return {"weight": bf16.quantise_weight(weight)}, {}


def _int8(weight: Tensor, scheme: W8A8 | W8A16) -> Weights:
    return dict(zip(("weight", "weight_scale"), int8.quantise_weight(weight))), {}


def _int4(weight: Tensor, scheme: W4A8 | W4A16) -> Weights:
    packed, scale = int4.quantise_weight(weight, scheme.group_size)
    return {"weight": packed, "group_scale": scale}, {"group_size": scheme.group_size}


_WEIGHTS: dict[type[Scheme], Callable[[Tensor, Any], Weights]] = {
    Float32: _float32, BFloat16: _bfloat16, W8A8: _int8, W8A16: _int8, W4A8: _int4, W4A16: _int4,
}  # fmt: skip


def weights(scheme: Scheme, weight: Tensor) -> Weights:
    """The tensors and attributes that a scheme makes of a float32 weight [N, K]. Raises FormatError, UnsupportedProblem."""
    return _WEIGHTS[type(scheme)](weight, scheme)


def decide(name: str, k: int, scheme: Scheme, calibrated: bool, notes: list[str]) -> Layer:
    """What the scheme says for a layer with K inputs to a sum; adds to the notes of the report what it had to decide.

    Raises FormatError for a scheme without an entry, and for static activations without calibration data.
    """
    if type(scheme) not in _WEIGHTS:
        known = ", ".join(cls.name for cls in _WEIGHTS)
        raise FormatError("compile", f"{scheme} for {name}", f"one of {known}", "Choose one.")
    if not isinstance(scheme, (Float32, BFloat16)) and k > MAX_K:
        notes.append(f"{name} stays float32: K = {k} is over {MAX_K}")
        return Layer(Float32())
    if not isinstance(scheme, Int8Activation):
        return Layer(scheme)
    if scheme.activation == "static" and not calibrated:
        kind = type(scheme).__name__
        raise FormatError(
            "compile",
            f"{kind}(activation='static') for {name} without calibration data",
            "calibration= with batches of real inputs",
            f"Pass some, or take {kind}(activation='dynamic').",
        )
    dynamic = scheme.activation == "dynamic" or not calibrated
    if dynamic and scheme.activation is None:
        note = "no calibration data: int8 activations take a scale per row (dynamic)"
        if note not in notes:
            notes.append(note)
    return Layer(scheme, int8=True, dynamic=dynamic)


def decide_draft(draft: Draft, scheme: Callable[[str], Scheme], calibrated: bool, notes: list[str]) -> Layer:
    """`decide` for a draft; one that was swapped keeps the numbers it has."""
    if draft.swapped:
        int8_input = not draft.float_input
        return Layer(Float32(), int8_input, int8_input and draft.quant is None, draft.quant)
    return decide(draft.name, draft.tensors["weight"].shape[1], scheme(draft.name), calibrated, notes)


def parts(draft: Draft, layer: Layer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and attributes of the draft's stage."""
    if layer is None or draft.swapped:
        return dict(draft.tensors), dict(draft.attrs)
    tensors, attrs = weights(layer.scheme, draft.tensors["weight"])
    return {**draft.tensors, **tensors}, {**draft.attrs, **attrs}
