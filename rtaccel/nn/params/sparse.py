"""The numbers of a sparse linear layer: the weights other than zero in one of three forms, and where they are.

weight holds float32 values, or int8 ones (W8A8) with weight_scale float32 [N], or, in 2:4, int4 ones (W4A8, two a byte) with
group_scale float32 [N, groups] for groups of group_size inputs; bias float32 [N] or None; static activations add input_scale
float32 [] and input_zero_point int32 []. The forms are those of rtaccel.formats: csr, blocks and semi. out_features (N),
in_features (K) and group_size are not in the tensors: a layer knows them, and the operators take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import W4A8, W8A8, Float32, Scheme, check_group_size
from rtaccel.core.sparsity import BlockSparse, SemiStructured, Sparsity, Unstructured
from rtaccel.core.stage import GraphIO, QParams, Stage, Value
from rtaccel.formats import int4
from rtaccel.formats.int8 import quantize_weight, require_finite
from rtaccel.kernels.sparse_linear import contract
from rtaccel.nn.check import copied, describe
from rtaccel.nn.params.linear import MIN_SCALE, LinearParams, Size
from rtaccel.nn.params.linear_w8a8 import INPUT
from rtaccel.plan.group import Subgraph
from rtaccel.plan.sparse import could_be_sparse, fastest
from rtaccel.plan.sparse_gpu import modeled

SCHEMES: tuple[type[Scheme], ...] = (Float32, W8A8, W4A8)

STEP = "Take the state dict of a SparseLinear of this size, scheme and form."


class SparseParams(LinearParams):
    """Tensors of one layer. FORM: as the operator names it. PATTERN: of its weights. STRUCTURE: where its values are."""

    SCHEME: ClassVar[type[Scheme]] = Float32
    OPTIONS: ClassVar[tuple[str, ...]] = ("out_features", "in_features")
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
        """Whether the input becomes int8."""
        return self.weight.dtype == torch.int8

    def scales(self) -> dict[str, Tensor]:
        """Of the values, by name."""
        return {} if self.weight_scale is None else {"weight_scale": self.weight_scale}

    @classmethod
    def quantized_values(cls, op: str, weight: Tensor, scheme: Scheme) -> tuple[Tensor, dict[str, Any]]:
        """The values [N, K] that are stored of a float32 weight, one a number, and the fields that come with them."""
        if not isinstance(scheme, W8A8):
            return weight, {}
        weight, scale = quantize_weight(weight, op)
        return weight, {"weight_scale": scale}

    def real(self) -> Tensor:
        """The weight float32 [N, K] with its zeros: values times their scales."""
        weight = self.dense().float()
        return weight if self.weight_scale is None else weight * self.weight_scale[:, None]

    def stored(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("weight", *self.STRUCTURE)}

    @classmethod
    def pack(
        cls, op: str, weight: Tensor, bias: Tensor | None, scheme: Scheme, sparsity: Sparsity, quant: QParams | None
    ) -> SparseParams:
        """From a float32 weight [N, K], its zeros left out. Raises FormatError for numbers that make no layer."""
        weight = weight.detach()
        require_finite(weight, op, "weight")
        made: dict[str, Any] = {"out_features": weight.shape[0], "in_features": weight.shape[1]}
        weight, more = cls.quantized_values(op, weight, scheme)
        block = sparsity.block if isinstance(sparsity, BlockSparse) else (1, 1)
        made |= more | contract.stored(weight, sparsity.layout, block, packed_int4=isinstance(scheme, W4A8))
        if quant is not None:
            made["input_scale"] = torch.tensor(quant.scale, dtype=torch.float32, device=weight.device)
            made["input_zero_point"] = torch.tensor(quant.zero_point, dtype=torch.int32, device=weight.device)
        params = cls(bias=None if bias is None else copied(bias), **made)
        params.validate(op)
        return params

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
        self._validate_scales(op)
        if (self.input_scale is None) != (self.input_zero_point is None) or (
            self.input_scale is not None and not self.int8
        ):
            raise FormatError(
                op, "a part of an int8 input", "both scale and zero point with int8 weights, or neither", STEP
            )
        for name, (shape, dtype) in {**self.params_beside(), **INPUT}.items():
            tensor = tensors.get(name)
            if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype):
                expected = f"{str(dtype).removeprefix('torch.')}{list(shape)}"
                raise FormatError(op, f"{name}: {describe(tensor)}", expected, STEP)
        if not self.weight.is_meta:
            self._validate_values(op, tensors)

    def params_beside(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of what there is for each output."""
        return {"weight_scale": ((self.out_features,), torch.float32), "bias": ((self.out_features,), torch.float32)}

    def _validate_scales(self, op: str) -> None:
        if self.int8 != (self.weight_scale is not None):
            raise FormatError(op, "weight_scale without int8 values, or none with them", "int8 and a scale", STEP)

    def _validate_values(self, op: str, tensors: Mapping[str, Tensor]) -> None:
        contract.check(op, self.stored(), self.out_features, self.in_features)
        for name, tensor in tensors.items():
            if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
                raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", STEP)
            if name in ("weight_scale", "input_scale") and not (tensor >= MIN_SCALE).all():
                raise FormatError(op, f"{name} with {tensor.min().item()}", f"scales of at least {MIN_SCALE:.3g}", STEP)
        if self.weight.dtype == torch.int8 and (self.weight == -128).any():
            raise FormatError(op, "weight holding -128", "int8 weights in -127..127", STEP)
        if self.input_zero_point is not None and not -128 <= int(self.input_zero_point) <= 127:
            raise FormatError(op, f"input_zero_point = {int(self.input_zero_point)}", "-128..127", STEP)

    def group(self, lead: int, activation: str = "none", parameter: float = 0.0) -> Subgraph:
        x, y = Value("x", self.in_features), Value("y", self.out_features)
        stages: list[Stage] = []
        inner: tuple[Value, ...] = (x,)
        if self.int8:
            if self.input_scale is None or self.input_zero_point is None:
                inner = (Value("x_int8", x.width, "int8"), Value("x_row_scale", 1))
            else:
                quant = QParams(float(self.input_scale), int(self.input_zero_point))
                inner = (Value("x_int8", x.width, "int8", quant=quant),)
            stages.append(Stage("quantize", "input", (x,), inner))
        bias = self.bias
        if bias is None:
            bias = torch.zeros(self.out_features, dtype=torch.float32, device=self.weight.device)
        attrs = {"activation": activation, "activation_parameter": parameter, **self.attrs()}
        dense = Stage("linear", "linear", inner, (y,), {**self.scales(), "bias": bias}, attrs)
        stages.append(contract.with_structure(dense, self.stored(), self.PATTERN.layout))
        return Subgraph(tuple(stages), (GraphIO(x, lead, (x.width,)),), (GraphIO(y, lead, (y.width,)),))

    def chosen(self, group: Subgraph, rows: int, device: str) -> tuple[Subgraph, list[str]]:
        """The group in its fastest form, dense where no sparse kernel is faster, and why."""
        *before, sparse = group.stages
        if device not in ("cpu", "cuda"):
            return group, []
        pick = fastest if device == "cpu" else modeled
        choice = pick(contract.dense_stage(sparse), rows, first=sparse)
        return Subgraph((*before, choice.stage), group.inputs, group.outputs), [choice.reason]


@dataclass(frozen=True, eq=False)
class LinearCsr(SparseParams):
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
class LinearSemi(SparseParams):
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


@dataclass(frozen=True, eq=False)
class LinearSemiInt4(SparseParams):
    """Two int4 values of every four inputs, two in a byte, with a scale per group of inputs."""

    SCHEME = W4A8
    FORM = "semi_int4"
    PATTERN = SemiStructured
    STRUCTURE = ("positions",)
    OPTIONS = ("out_features", "in_features", "group_size")

    weight: Tensor
    positions: Tensor
    group_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None
    out_features: int = 0
    in_features: int = 0
    group_size: int = 32

    @property
    def size(self) -> Size:
        return Size(self.out_features, self.in_features, self.group_size)

    @property
    def int8(self) -> bool:
        return True

    def scales(self) -> dict[str, Tensor]:
        return {"group_scale": self.group_scale}

    def attrs(self) -> dict[str, Any]:
        return {"group_size": self.group_size}

    @classmethod
    def quantized_values(cls, op: str, weight: Tensor, scheme: Scheme) -> tuple[Tensor, dict[str, Any]]:
        assert isinstance(scheme, W4A8)
        packed, scale = int4.quantize_weight(weight, scheme.group_size, op)
        return int4.unpack(packed, weight.shape[1]), {"group_scale": scale, "group_size": scheme.group_size}

    def real(self) -> Tensor:
        return int4.dequantize(self.dense(), self.group_scale, self.in_features, self.group_size).float()

    def params_beside(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        groups = int4.group_count(self.in_features, self.group_size)
        return {
            "group_scale": ((self.out_features, groups), torch.float32),
            "bias": ((self.out_features,), torch.float32),
        }

    def _validate_scales(self, op: str) -> None:
        check_group_size(op, self.group_size)
        if self.weight.dtype != int4.DTYPE or not isinstance(self.group_scale, Tensor):
            got = f"weight: {describe(self.weight)}, group_scale: {describe(self.group_scale)}"
            raise FormatError(op, got, f"int4 in {int4.DTYPE} and its scales", STEP)

    def _validate_values(self, op: str, tensors: Mapping[str, Tensor]) -> None:
        super()._validate_values(op, tensors)
        int4.require_scales(op, "group_scale", self.group_scale)

    def chosen(self, group: Subgraph, rows: int, device: str) -> tuple[Subgraph, list[str]]:
        *before, sparse = group.stages
        dense = contract.dense_stage(sparse)
        if device == "cpu" and not could_be_sparse(dense):
            note = "linear is computed dense: no sparse kernel of the CPU takes int4 values in 2:4"
            return Subgraph((*before, dense), group.inputs, group.outputs), [note]
        return super().chosen(group, rows, device)


LINEAR: tuple[type[SparseParams], ...] = (LinearCsr, LinearBlocks, LinearSemi, LinearSemiInt4)
"""Each an operator of torch.ops.rtaccel."""


def sparse_params(op: str, sparsity: Sparsity, scheme: Scheme) -> type[SparseParams]:
    """What stores a layer. Raises UnsupportedProblem for a scheme that no sparse layer stores, or not in this pattern."""
    if not isinstance(scheme, SCHEMES):
        names = ", ".join(cls.name for cls in SCHEMES)
        raise UnsupportedProblem(op, str(scheme), f"a scheme it can store: {names}", "Pass rt.W8A8() or rt.Float32().")
    int4_values = isinstance(scheme, W4A8)
    for params in LINEAR:
        if params.PATTERN is type(sparsity) and (params.SCHEME is W4A8) == int4_values:
            return params
    raise UnsupportedProblem(
        op, f"{scheme} in {sparsity}", "int4 values in 2:4", "Pass rt.SemiStructured(), or rt.W8A8() for this pattern."
    )
