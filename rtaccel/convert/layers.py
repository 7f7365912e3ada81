"""How a layer with weights is computed under each scheme: what its input must be, and the tensors of its stage.

One table for linear, convolution and recurrent layers: a weight is [N, ...], outputs first. A further scheme is a further
entry; an operator that has a form for it says so in _TAKES.
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

Weight = tuple[Tensor, Mapping[str, Tensor], Mapping[str, Any]]
"""What takes the place of a float32 weight; tensors beside it by the end of their name; further attributes of the stage."""


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


def _float32(weight: Tensor, scheme: Float32) -> Weight:
    return weight, {}, {}


def _bfloat16(weight: Tensor, scheme: BFloat16) -> Weight:
    return bf16.quantise_weight(weight), {}, {}


def _int8(weight: Tensor, scheme: W8A8 | W8A16) -> Weight:
    q, scale = int8.quantise_weight(weight.reshape(weight.shape[0], -1))
    return q.reshape(weight.shape), {"weight_scale": scale}, {}


def _int4(weight: Tensor, scheme: W4A8 | W4A16) -> Weight:
    packed, scale = int4.quantise_weight(weight, scheme.group_size)
    return packed, {"group_scale": scale}, {"group_size": scheme.group_size}


_WEIGHTS: dict[type[Scheme], Callable[[Tensor, Any], Weight]] = {
    Float32: _float32, BFloat16: _bfloat16, W8A8: _int8, W8A16: _int8, W4A8: _int4, W4A16: _int4,
}  # fmt: skip

_TAKES: dict[str, tuple[type[Scheme], ...]] = {"linear": tuple(_WEIGHTS)}
"""Schemes that an operator has a form for; the others have float32 and W8A8."""


def weights(tensors: Mapping[str, Tensor], scheme: Scheme) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The stage's tensors with every weight in the scheme's form, and further attributes of the stage.

    `weight_ih.0` gets its scales as `weight_ih.0_scale`, and its group scales as `group_scale_ih.0`. Raises FormatError.
    """
    found: dict[str, Tensor] = {}
    attrs: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not name.startswith("weight"):
            found[name] = tensor
            continue
        found[name], beside, more = _WEIGHTS[type(scheme)](tensor, scheme)
        attrs |= more
        for kind, extra in beside.items():
            key = f"{name}_scale" if kind == "weight_scale" else kind + name.removeprefix("weight")
            found[key] = extra
    return found, attrs


def decide(draft: Draft, schemes: Callable[[str], Scheme], calibrated: bool, notes: list[str]) -> Layer:
    """What the scheme of a draft says; adds to the notes of the report what had to be decided.

    A layer that was swapped keeps the numbers it has. Raises FormatError for a scheme that the operator has no form for,
    and for static activations without calibration data.
    """
    if draft.swapped:
        int8_input = not draft.float_input
        return Layer(Float32(), int8_input, int8_input and draft.quant is None, draft.quant)
    name, scheme, k = draft.name, schemes(draft.name), _products(draft)
    taken = _TAKES.get(draft.op, (Float32, W8A8))
    if type(scheme) not in taken:
        known = " or ".join(cls.name for cls in taken)
        raise FormatError("compile", f"{scheme} for {name}", f"{known} for {draft.op}", "Choose one.")
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


def _products(draft: Draft) -> int:
    """The most products that one output sums."""
    return max(t[0].numel() for name, t in draft.tensors.items() if name.startswith("weight"))


def parts(draft: Draft, layer: Layer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and attributes of the draft's stage."""
    if layer is None or draft.swapped:
        return dict(draft.tensors), dict(draft.attrs)
    tensors, attrs = weights(draft.tensors, layer.scheme)
    return tensors, {**draft.attrs, **attrs}
