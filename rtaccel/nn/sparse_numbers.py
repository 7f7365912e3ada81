"""The numbers of a sparse linear layer: the weights other than zero in one of three forms, and where they are.

weight holds float32 values, or int8 ones (W8A8) with weight_scale float32 [N]; bias float32 [N] or None; static
activations add input_scale float32 [] and input_zero_point int32 []. The forms are those of rtaccel.formats: csr, blocks
and semi. out_features (N) and in_features (K) are not in the tensors: a layer knows them, and the operators take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import W8A8, Float32, Scheme
from rtaccel.core.sparsity import BlockSparse, SemiStructured, Sparsity, Unstructured
from rtaccel.core.stage import Port, Quant, Stage, Value
from rtaccel.formats.int8 import quantise_weight, require_finite
from rtaccel.kernels.sparse_linear import contract
from rtaccel.nn.check import describe
from rtaccel.nn.linear_w8a8 import INPUT
from rtaccel.nn.numbers import LEAST_SCALE, LinearNumbers, Size
from rtaccel.plan.group import Group
from rtaccel.plan.sparse import fastest
from rtaccel.plan.sparse_gpu import modelled

SCHEMES: tuple[type[Scheme], ...] = (Float32, W8A8)

STEP = "Take the state dict of a SparseLinear of this size, scheme and form."


class SparseNumbers(LinearNumbers):
    """Tensors of one layer. FORM: as the operator names it. PATTERN: of its weights. STRUCTURE: where its values are."""

    SCHEME = Float32
    OPTIONS = ("out_features", "in_features")
    FORM: ClassVar[str] = ""
    PATTERN: ClassVar[type[Sparsity]]
    STRUCTURE: ClassVar[tuple[str, ...]] = ("columns", "row_starts")

    weight_scale: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    out_features: int
    in_features: int

    @property
    def size(self) -> Size:
        return Size(self.out_features, self.in_features)

    @property
    def int8(self) -> bool:
        return self.weight.dtype == torch.int8

    def stored(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("weight", *self.STRUCTURE)}

    @classmethod
    def pack(
        cls, op: str, weight: Tensor, bias: Tensor | None, scheme: Scheme, sparsity: Sparsity, quant: Quant | None
    ) -> SparseNumbers:
        """From a float32 weight [N, K], its zeros left out. Raises FormatError for numbers that make no layer."""
        weight = weight.detach()
        require_finite(weight, op, "weight")
        made: dict[str, Any] = {"out_features": weight.shape[0], "in_features": weight.shape[1]}
        if isinstance(scheme, W8A8):
            weight, made["weight_scale"] = quantise_weight(weight, op)
        block = sparsity.block if isinstance(sparsity, BlockSparse) else (1, 1)
        made |= contract.stored(weight, sparsity.layout, block)
        if quant is not None:
            made["input_scale"] = torch.tensor(quant.scale, dtype=torch.float32, device=weight.device)
            made["input_zero_point"] = torch.tensor(quant.zero_point, dtype=torch.int32, device=weight.device)
        numbers = cls(bias=None if bias is None else bias.detach().clone(), **made)
        numbers.validate(op)
        return numbers

    def dense(self) -> Tensor:
        """The weight [N, K] with its zeros, as it is stored: float32 or int8."""
        return contract.dense_weight(self.stored(), self.out_features, self.in_features)

    def validate(self, op: str) -> None:
        """Raises FormatError or UnsupportedProblem for numbers that do not make a layer: no index is used before."""
        self.size.check(op)
        tensors = {name: t for name, t in self.items() if t is not None}
        for name in ("weight", *self.STRUCTURE):
            if not isinstance(tensors.get(name), Tensor):
                raise FormatError(op, f"{name}: {describe(tensors.get(name))}", "a tensor", STEP)
        devices = {t.device for t in tensors.values()}
        if len(devices) > 1:
            raise FormatError(op, f"tensors on {sorted(map(str, devices))}", "one device", "Move the whole layer.")
        if self.int8 != (self.weight_scale is not None):
            raise FormatError(op, "weight_scale without int8 values, or none with them", "int8 and a scale", STEP)
        if (self.input_scale is None) != (self.input_zero_point is None) or (
            self.input_scale is not None and not self.int8
        ):
            raise FormatError(
                op, "a part of an int8 input", "both scale and zero point with int8 weights, or neither", STEP
            )
        forms = {"weight_scale": ((self.out_features,), torch.float32), "bias": ((self.out_features,), torch.float32)}
        for name, (shape, dtype) in {**forms, **INPUT}.items():
            tensor = tensors.get(name)
            if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
                expected = f"{str(dtype).removeprefix('torch.')}{list(shape)}"
                raise FormatError(op, f"{name}: {describe(tensor)}", expected, STEP)
        if not self.weight.is_meta:
            self._validate_values(op, tensors)

    def _validate_values(self, op: str, tensors: Mapping[str, Tensor]) -> None:
        contract.check(op, self.stored(), self.out_features, self.in_features)
        for name, tensor in tensors.items():
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
                raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", STEP)
            if name in ("weight_scale", "input_scale") and not (tensor >= LEAST_SCALE).all():
                raise FormatError(
                    op, f"{name} with {tensor.min().item()}", f"scales of at least {LEAST_SCALE:.3g}", STEP
                )
        if self.int8 and (self.weight == -128).any():
            raise FormatError(op, "weight holding -128", "int8 weights in -127..127", STEP)
        if self.input_zero_point is not None and not -128 <= int(self.input_zero_point) <= 127:
            raise FormatError(op, f"input_zero_point = {int(self.input_zero_point)}", "-128..127", STEP)

    def group(self, lead: int, activation: str = "none", parameter: float = 0.0) -> Group:
        x, y = Value("x", self.in_features), Value("y", self.out_features)
        stages: list[Stage] = []
        inner: tuple[Value, ...] = (x,)
        if self.int8:
            if self.input_scale is None or self.input_zero_point is None:
                inner = (Value("x_int8", x.width, "int8"), Value("x_row_scale", 1))
            else:
                quant = Quant(float(self.input_scale), int(self.input_zero_point))
                inner = (Value("x_int8", x.width, "int8", quant=quant),)
            stages.append(Stage("quantize", "input", (x,), inner))
        bias = self.bias
        if bias is None:
            bias = torch.zeros(self.out_features, dtype=torch.float32, device=self.weight.device)
        scale = {} if self.weight_scale is None else {"weight_scale": self.weight_scale}
        attrs = {"activation": activation, "activation_parameter": parameter}
        dense = Stage("linear", "linear", inner, (y,), {**scale, "bias": bias}, attrs)
        stages.append(contract.with_structure(dense, self.stored(), self.PATTERN.layout))
        return Group(tuple(stages), (Port(x, lead, (x.width,)),), (Port(y, lead, (y.width,)),))

    def chosen(self, group: Group, rows: int, device: str) -> tuple[Group, list[str]]:
        """The group in its fastest form, dense where no sparse kernel is faster, and why."""
        *before, sparse = group.stages
        if device not in ("cpu", "cuda"):
            return group, []
        pick = fastest if device == "cpu" else modelled
        form = pick(contract.dense_stage(sparse), rows, first=sparse)
        return Group((*before, form.stage), group.inputs, group.outputs), [form.reason]


@dataclass(frozen=True, eq=False)
class LinearCsr(SparseNumbers):
    FORM = "csr"
    PATTERN: ClassVar[type[Sparsity]] = Unstructured

    weight: Tensor
    columns: Tensor
    row_starts: Tensor
    weight_scale: Tensor | None = None
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None
    out_features: int = 0
    in_features: int = 0


@dataclass(frozen=True, eq=False)
class LinearBlocks(LinearCsr):
    """The same buffers, each entry a block."""

    FORM = "blocks"
    PATTERN = BlockSparse


@dataclass(frozen=True, eq=False)
class LinearSemi(SparseNumbers):
    FORM = "semi"
    PATTERN = SemiStructured
    STRUCTURE = ("positions",)

    weight: Tensor
    positions: Tensor
    weight_scale: Tensor | None = None
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None
    out_features: int = 0
    in_features: int = 0


FORMS: dict[type[Sparsity], type[SparseNumbers]] = {
    numbers.PATTERN: numbers for numbers in (LinearCsr, LinearBlocks, LinearSemi)
}


def sparse_numbers(op: str, sparsity: Sparsity, scheme: Scheme) -> type[SparseNumbers]:
    """Raises UnsupportedProblem for a scheme that no sparse layer stores."""
    if not isinstance(scheme, SCHEMES):
        names = ", ".join(cls.name for cls in SCHEMES)
        raise UnsupportedProblem(op, str(scheme), f"a scheme it can store: {names}", "Pass rt.W8A8() or rt.Float32().")
    return FORMS[type(sparsity)]
