"""How a layer with weights is computed under each scheme: what its input must be, and the tensors of its stage.

One table for linear, convolution and recurrent layers: their weight is a matrix [N, K], or has its K first to last after
the outputs. A further scheme is a further entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import W4A8, W4A16, W8A8, W8A16, BFloat16, Float8, Float32, Int8Activation, Scheme
from rtaccel.core.stage import QParams
from rtaccel.formats import bf16, fp8, int4, int8
from rtaccel.kernels.linear.contract import MAX_K

Weights = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors that take the place of the float32 `weight`, and further attributes of the stage."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is computed.

    int8: it reads int8; dynamic: with a scale per row. quant: what its int8 input means, where it is static and known.
    h_scale: of a recurrent layer, where calibration shows it. factor: what each column of the input is multiplied by
    before it becomes int8, [K]; the weights are divided by it already.
    """

    scheme: Scheme
    int8: bool = False
    dynamic: bool = False
    quant: QParams | None = None
    h_scale: float | None = None
    factor: Tensor | None = field(default=None, compare=False)

    @property
    def observer(self) -> str | None:
        """How calibration picks the range of the input; None where it is not needed."""
        static = self.int8 and not self.dynamic and self.quant is None
        return self.scheme.observer if static and isinstance(self.scheme, Int8Activation) else None


def _float32(weight: Tensor, scheme: Float32) -> Weights:
    return {"weight": weight}, {}


def _bfloat16(weight: Tensor, scheme: BFloat16) -> Weights:
    return {"weight": bf16.quantize_weight(weight)}, {}


def _int8(weight: Tensor, scheme: W8A8 | W8A16) -> Weights:
    return dict(zip(("weight", "weight_scale"), int8.quantize_weight(weight))), {}


def _float8(weight: Tensor, scheme: Float8) -> Weights:
    scaled = dict(zip(("weight", "weight_scale"), fp8.quantize_weight(weight)))
    return scaled, {"quantize": "float8", "residual": False}


def _int4(weight: Tensor, scheme: W4A8 | W4A16) -> Weights:
    packed, scale = int4.quantize_weight(weight, scheme.group_size)
    return {"weight": packed, "group_scale": scale}, {"group_size": scheme.group_size}


_WEIGHTS: dict[type[Scheme], Callable[[Tensor, Any], Weights]] = {
    Float32: _float32, BFloat16: _bfloat16, W8A8: _int8, W8A16: _int8, W4A8: _int4, W4A16: _int4,
    Float8: _float8,
}  # fmt: skip


SCHEMES: dict[str, tuple[type[Scheme], ...]] = {
    "linear": tuple(_WEIGHTS),
    "conv": (Float32, W8A8),
    "lstm": (Float32, W8A8, W4A8),
    "gru": (Float32, W8A8, W4A8),
}
"""The schemes that each operator with weights has kernels for."""


def weights(scheme: Scheme, weight: Tensor) -> Weights:
    """The tensors and attributes that a scheme makes of a float32 weight [N, K]. Raises FormatError, UnsupportedProblem."""
    return _WEIGHTS[type(scheme)](weight, scheme)


def available(op: str, name: str, scheme: Scheme, notes: list[str]) -> Scheme:
    """The scheme itself, or the nearest that the operator has kernels for, which is then noted: W8A8 for int4 weights with
    int8 activations, float32 for the others."""
    if type(scheme) in SCHEMES[op] or type(scheme) not in _WEIGHTS:
        return scheme
    nearest: Scheme = Float32()
    if isinstance(scheme, W4A8):
        nearest = W8A8(activation=scheme.activation, observer=scheme.observer)
    notes.append(f"{name} is computed as {nearest.name}: there is no {scheme.name} kernel for {op}")
    return nearest


def decide(name: str, k: int, scheme: Scheme, calibrated: bool, notes: list[str]) -> LayerPlan:
    """What the scheme says for a layer with K inputs to a sum; adds to the notes of the report what it had to decide.

    Raises FormatError for a scheme without an entry, and for static activations without calibration data.
    """
    if type(scheme) not in _WEIGHTS:
        known = ", ".join(cls.name for cls in _WEIGHTS)
        raise FormatError("compile", f"{scheme} for {name}", f"one of {known}", "Choose one.")
    if not isinstance(scheme, (Float32, BFloat16)) and k > MAX_K:
        notes.append(f"{name} stays float32: K = {k} is over {MAX_K}")
        return LayerPlan(Float32())
    if not isinstance(scheme, Int8Activation):
        return LayerPlan(scheme)
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
    return LayerPlan(scheme, int8=True, dynamic=dynamic)


def decide_draft(op_node: OpNode, scheme: Callable[[str], Scheme], calibrated: bool, notes: list[str]) -> LayerPlan:
    """`decide` for a node; one that was swapped keeps the numbers it has."""
    if op_node.swapped:
        int8_input = not op_node.float_input
        return LayerPlan(Float32(), int8_input, int8_input and op_node.quant is None, op_node.quant)
    products = max(t[0].numel() for name, t in op_node.tensors.items() if name.startswith("weight"))
    chosen = available(op_node.op, op_node.name, scheme(op_node.name), notes)
    return decide(op_node.name, products, chosen, calibrated, notes)


def parts(op_node: OpNode, layer: LayerPlan | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and attributes of the node's stage: what the scheme makes of each weight takes its place. A weight of more
    dimensions than two is a matrix of what each output multiplies."""
    tensors, attrs = dict(op_node.tensors), dict(op_node.attrs)
    if layer is None or op_node.swapped:
        return tensors, attrs
    if layer.h_scale is not None:
        attrs["h_scale"] = layer.h_scale
    for name in [n for n in tensors if n.startswith("weight")]:
        weight = tensors[name]
        made, more = weights(layer.scheme, weight.reshape(weight.shape[0], -1))
        attrs |= more
        for part, tensor in made.items():
            renamed = part.replace("weight", name, 1) if part.startswith("weight") else f"{name}_{part}"
            renamed = part if op_node.op == "linear" else renamed
            whole = part == "weight" and tensor.numel() == weight.numel()  # int4 is packed, scales have one per output
            tensors[renamed] = tensor.reshape(weight.shape) if whole else tensor
    return tensors, attrs
