"""How a layer with weights is computed under each scheme: what its input must be, and the tensors of its stage.

A weight is a matrix [N, K], or has its K first to last after the outputs. What a scheme makes of it, the scheme says
(rtaccel.core.scheme); which schemes an operator has kernels for, its `weights` (rtaccel.core.traits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Operator, operator
from rtaccel.core.scheme import Float32, Int8Activation, Scheme, scheme_names
from rtaccel.core.stage import QParams
from rtaccel.formats.weights import stage_weights as stage_matrix
from rtaccel.kernels.linear.contract import MAX_K

StageWeights = Callable[[Tensor, Scheme], "tuple[Mapping[str, Tensor], Mapping[str, Any]]"]
"""(weight [N, ...], scheme) -> the tensors that take its place, and further attributes of the stage."""


def stage_weights(weight: Tensor, scheme: Scheme) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """A weight of more dimensions than two is a matrix of what each output multiplies."""
    return stage_matrix(weight.reshape(weight.shape[0], -1), scheme)


Stored = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""What takes the place of a weight, and further attributes of the stage."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is computed.

    int8: it reads int8; dynamic: with a scale per row. quant: what its int8 input means, where it is static and known.
    h_scale: of a recurrent layer, where calibration shows it. factor: what each column of the input is multiplied by
    before it becomes int8, [K]; the weights are divided by it already. stored: weights that are rounded for their
    inputs, by name.
    """

    scheme: Scheme
    int8: bool = False
    dynamic: bool = False
    quant: QParams | None = None
    h_scale: float | None = None
    factor: Tensor | None = field(default=None, compare=False)
    stored: Mapping[str, Stored] = field(default_factory=dict, compare=False)

    @property
    def observer(self) -> str | None:
        """How calibration picks the range of the input; None where it is not needed."""
        static = self.int8 and not self.dynamic and self.quant is None
        return self.scheme.observer if static and isinstance(self.scheme, Int8Activation) else None


def takes_schemes(contract: Operator) -> bool:
    """Whether a scheme says how a node of the operator is computed."""
    return contract.weights is not None and contract.weights.schemes != ()


def available(op: str, name: str, scheme: Scheme, notes: list[str]) -> Scheme:
    """The scheme itself, or the nearest that the operator has kernels for, which is then noted: W8A8 for int4 weights with
    int8 activations, float32 for the others."""
    weights = operator(op).weights
    assert weights is not None
    if weights.schemes is None or scheme.name in weights.schemes or not scheme.weight_format:
        return scheme
    nearest = scheme.nearest()
    while nearest.name not in weights.schemes and nearest != nearest.nearest():
        nearest = nearest.nearest()
    notes.append(f"{name} is computed as {nearest.name}: there is no {scheme.name} kernel for {op}")
    return nearest


def decide(name: str, k: int, scheme: Scheme, calibrated: bool, notes: list[str]) -> LayerPlan:
    """What the scheme says for a layer with K inputs to a sum; adds to the notes of the report what it had to decide.

    Raises FormatError for a scheme without an entry, and for static activations without calibration data.
    """
    if not scheme.weight_format:
        known = ", ".join(sorted(name for name, cls in scheme_names().items() if cls.weight_format))
        raise FormatError("compile", f"{scheme} for {name}", f"one of {known}", "Choose one.")
    if scheme.limits_k and k > MAX_K:
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
    products = max(op_node.tensors[name][0].numel() for name in _matrices(op_node))
    chosen = available(op_node.op, op_node.name, scheme(op_node.name), notes)
    return decide(op_node.name, products, chosen, calibrated, notes)


def _matrices(op_node: OpNode) -> Sequence[str]:
    weights = None if op_node.is_fallback else op_node.operator.weights
    return () if weights is None else weights.matrices(op_node.tensors)


def parts(
    op_node: OpNode, layer: LayerPlan | None, stage_weights: StageWeights = stage_weights
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and attributes of the node's stage: what the scheme makes of each weight takes its place."""
    tensors, attrs = dict(op_node.tensors), dict(op_node.attrs)
    if layer is None or op_node.swapped:
        return tensors, attrs
    if layer.h_scale is not None:
        attrs["h_scale"] = layer.h_scale
    for name in _matrices(op_node):
        weight = tensors[name]
        made, more = layer.stored.get(name) or stage_weights(weight, layer.scheme)
        attrs |= more
        for part, tensor in made.items():
            whole = part == "weight" and tensor.numel() == weight.numel()  # int4 is packed, scales have one per output
            tensors[_renamed(part, name)] = tensor.reshape(weight.shape) if whole else tensor
    return tensors, attrs


def _renamed(part: str, name: str) -> str:
    """The name of a part of the weight `name`: "weight_ih_l0_scale", and "group_scale" of a weight that is just "weight"."""
    if name == "weight":
        return part
    return part.replace("weight", name, 1) if part.startswith("weight") else f"{name}_{part}"
