"""What the numbers of a quantized linear layer have in common, whatever their scheme: checks, and the plan they make.

A scheme's class (`LinearW8A8`, ...) is a frozen dataclass of plain tensors, which a state dict stores by the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import Scheme
from rtaccel.core.stage import GraphIO, QParams, Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.formats.observe import RangeObserver
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.nn.check import copied, dense, describe
from rtaccel.plan.group import Subgraph

MIN_SCALE = 2.0**-126
"""Smallest normal float32: its reciprocal, which quantization multiplies by, is still finite."""


@dataclass(frozen=True)
class Size:
    """Of a layer: n outputs, k inputs, and the length of a group of weights where the scheme has groups."""

    n: int
    k: int
    group_size: int = 0

    def check(self, op: str) -> None:
        """Raises UnsupportedProblem for a layer without features, or too wide for int32 sums."""
        if self.n < 1 or self.k < 1:
            raise UnsupportedProblem(
                op, f"[N, K] = [{self.n}, {self.k}]", "at least one feature in and out", "Leave this layer out."
            )
        if self.k > MAX_K:
            raise UnsupportedProblem(
                op, f"K = {self.k}", f"K <= {MAX_K}, where int32 sums cannot overflow",
                "Split the layer or keep it float32.",
            )  # fmt: skip


def check_size(op: str, n: int, k: int) -> None:
    Size(n, k).check(op)


class LinearParams:
    """Tensors of one layer, not checked when made: `validate` does that. Subclasses, frozen dataclasses, say what they are.

    SCHEME: of the class. OPTIONS: fields that are no tensors, in the order that the operator takes them.
    """

    SCHEME: ClassVar[type[Scheme]]
    OPTIONS: ClassVar[tuple[str, ...]] = ()

    weight: Tensor
    bias: Tensor | None

    def __init__(self, **tensors: Any) -> None:
        raise NotImplementedError

    # -- what a scheme says ----------------------------------------------------------------------------------------

    @classmethod
    def storage_format(cls, size: Size) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor."""
        raise NotImplementedError

    @classmethod
    def size_of(cls, n: int, k: int, scheme: Scheme) -> Size:
        return Size(n, k)

    @classmethod
    def quantized(cls, op: str, weight: Tensor, size: Size) -> dict[str, Any]:
        """The fields that come from a float32 weight [N, K]. Raises FormatError where it is not finite."""
        raise NotImplementedError

    @property
    def size(self) -> Size:
        return Size(*self.weight.shape)

    @classmethod
    def check_values(cls, op: str, name: str, tensor: Tensor) -> None:
        """Raises FormatError for numbers that the format excludes, of the scheme's own tensors."""

    def attrs(self) -> dict[str, Any]:
        """Further attributes of the stage."""
        return {}

    # -- shared ----------------------------------------------------------------------------------------------------

    @classmethod
    def int8_input(cls) -> bool:
        return any(f.name == "input_scale" for f in fields(cast(Any, cls)))

    @classmethod
    def empty(cls, size: Size, bias: bool, static: bool, device: Any = None) -> LinearParams:
        """A layer of zeros, to be loaded into."""
        made: dict[str, Any] = {name: getattr(size, "k" if name == "in_features" else name) for name in cls.OPTIONS}
        for name, (shape, dtype) in cls.storage_format(size).items():
            if (name == "bias" and not bias) or (name.startswith("input_") and not static):
                made[name] = None
            elif name == "weight" and WeightFormat.of(dtype) is WeightFormat.INT4:
                made[name] = torch.full(shape, int4.ZEROS, dtype=dtype, device=device)
            else:
                fill = torch.ones if name.endswith("scale") else torch.zeros
                made[name] = fill(shape, dtype=dtype, device=device)
        return cls(**made)

    @classmethod
    def quantize(cls, op: str, weight: Tensor, bias: Tensor | None, quant: QParams | None, size: Size) -> LinearParams:
        """From a float32 weight [N, K]. quant: meaning of a static int8 input, None for any other.

        Raises FormatError for a weight or bias that is not finite.
        """
        made = cls.quantized(op, weight, size)
        if quant is not None:
            made["input_scale"] = torch.tensor(quant.scale, dtype=torch.float32, device=weight.device)
            made["input_zero_point"] = torch.tensor(quant.zero_point, dtype=torch.int32, device=weight.device)
        params = cls(bias=None if bias is None else copied(bias), **made)
        params.validate(op)
        return params

    @staticmethod
    def range_of(scheme: Any, observer: RangeObserver) -> QParams:
        return observer.quant(scheme.observer)

    def items(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((f.name, getattr(self, f.name)) for f in fields(cast(Any, self)) if f.name not in self.OPTIONS)

    def detached(self) -> LinearParams:
        """The same numbers, plain and contiguous, under new tensor objects: holding them keeps none of the originals alive."""
        options = {name: getattr(self, name) for name in self.OPTIONS}
        return type(self)(**{name: None if t is None else dense(t) for name, t in self.items()}, **options)

    def validate(self, op: str) -> None:
        """Raises FormatError or UnsupportedProblem for numbers that do not make a layer."""
        if not isinstance(self.weight, Tensor) or self.weight.dim() != 2:
            raise FormatError(op, f"weight: {describe(self.weight)}", "a matrix", "Quantize a weight matrix.")
        self.size.check(op)
        for name, tensor in self.items():
            if tensor is not None:
                self.check(op, name, tensor, self.size)
                if tensor.device != self.weight.device:
                    got = f"{name} on {tensor.device}, weight on {self.weight.device}"
                    raise FormatError(
                        op, got, "one device for all tensors of a layer", "Move the whole layer with .to()."
                    )
        if self.int8_input() and (self._input("scale") is None) != (self._input("zero_point") is None):
            raise FormatError(
                op, "one of input_scale and input_zero_point", "both (static) or neither (dynamic)", "Pass both."
            )

    def _input(self, what: str) -> Tensor | None:
        return getattr(self, f"input_{what}", None)

    @classmethod
    def check(cls, op: str, name: str, tensor: Any, size: Size, shown: str | None = None) -> None:
        """Raises FormatError where one tensor is not what its name means in a layer of this size. Meta has no values.

        shown: what the tensor is called where it comes from.
        """
        shape, dtype = cls.storage_format(size)[name]
        expected = f"{str(dtype).removeprefix('torch.')}{list(shape)}"
        step = "Take the state dict of a QuantLinear of this size and scheme."
        if not isinstance(tensor, Tensor) or tensor.shape != shape or tensor.dtype != dtype:
            raise FormatError(op, f"{shown or name}: {describe(tensor)}", expected, step)
        if tensor.is_meta:
            return
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", step)
        if name in ("weight_scale", "input_scale") and not (tensor >= MIN_SCALE).all():
            raise FormatError(op, f"{name} with {tensor.min().item()}", f"scales of at least {MIN_SCALE:.3g}", step)
        if name == "input_zero_point" and not -128 <= int(tensor) <= 127:
            raise FormatError(op, f"{name} = {int(tensor)}", "-128..127", step)
        cls.check_values(op, name, tensor)

    def group(self, lead: int, activation: str = "none", parameter: float = 0.0) -> Subgraph:
        """The stages: quantize, where the input becomes int8, and linear; for inputs with `lead` leading dimensions."""
        size = self.size
        x, y = Value("x", size.k), Value("y", size.n)
        stages: list[Stage] = []
        inner: tuple[Value, ...] = (x,)
        if self.int8_input():
            scale, zero_point = self._input("scale"), self._input("zero_point")
            if scale is None or zero_point is None:
                inner = (Value("x_int8", size.k, "int8"), Value("x_row_scale", 1))
            else:
                inner = (Value("x_int8", size.k, "int8", quant=QParams(float(scale), int(zero_point))),)
            stages.append(Stage("quantize", "input", (x,), inner))
        tensors = {name: t for name, t in self.items() if t is not None and not name.startswith("input_")}
        # A bias that is always there, so that nothing below asks torch for its default dtype or device.
        if self.bias is None:
            tensors["bias"] = torch.zeros(size.n, dtype=torch.float32, device=self.weight.device)
        attrs = {"activation": activation, "activation_parameter": parameter, **self.attrs()}
        stages.append(Stage("linear", "linear", inner, (y,), tensors, attrs))
        return Subgraph(tuple(stages), (GraphIO(x, lead, (size.k,)),), (GraphIO(y, lead, (size.n,)),))

    def chosen(self, group: Subgraph, rows: int, device: str) -> tuple[Subgraph, list[str]]:
        """The group as it is to run with so many rows, and what was decided for it: here, nothing."""
        return group, []
