"""The numbers of an int8 linear layer: what a state dict stores, what they must look like, and the plan they make.

weight int8 [N, K] in -127..127, weight_scale float32 [N], bias float32 [N] or None;
static activations add input_scale float32 [] and input_zero_point int32 [], dynamic ones have neither.

Quantised as in `rtaccel.formats.int8`, computed as in the contracts of `quantize` and `linear`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import W8A8
from rtaccel.core.stage import Port, Quant, Stage, Value
from rtaccel.formats.int8 import quantise_weight
from rtaccel.formats.observe import RangeObserver
from rtaccel.kernels._shared.activations import ACTIVATIONS
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.nn.check import check_input, dense, describe
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import Executable, Group, plan_group

LEAST_SCALE = 2.0**-126
"""Smallest normal float32: its reciprocal, which quantisation multiplies by, is still finite."""

MAX_RANK = 8
"""Most dimensions of a tensor that a native plan takes; inputs with more are flattened."""


def check_size(op: str, n: int, k: int) -> None:
    """Raises UnsupportedProblem for a layer without features, or too wide for int32 sums."""
    if n < 1 or k < 1:
        raise UnsupportedProblem(op, f"[N, K] = [{n}, {k}]", "at least one feature in and out", "Leave this layer out.")
    if k > MAX_K:
        raise UnsupportedProblem(
            op, f"K = {k}", f"K <= {MAX_K}, where int32 sums cannot overflow", "Split the layer or keep it float32."
        )


@dataclass(frozen=True, eq=False)
class LinearW8A8:
    """Tensors of one layer, not checked when made: `validate` does that."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None

    @classmethod
    def empty(cls, n: int, k: int, bias: bool, static: bool, device: Any = None) -> LinearW8A8:
        """A layer of zeros, to be loaded into."""
        f32: dict[str, Any] = {"dtype": torch.float32, "device": device}
        return cls(
            torch.zeros(n, k, dtype=torch.int8, device=device),
            torch.ones(n, **f32),
            torch.zeros(n, **f32) if bias else None,
            torch.ones((), **f32) if static else None,
            torch.zeros((), dtype=torch.int32, device=device) if static else None,
        )

    @classmethod
    def quantise(cls, op: str, weight: Tensor, bias: Tensor | None, quant: Quant | None) -> LinearW8A8:
        """From a float32 weight [N, K]. quant: meaning of a static int8 input, None for dynamic ones.

        Raises FormatError for a weight or bias that is not finite.
        """
        q, scale = quantise_weight(weight, op)
        device = weight.device
        made = cls(
            q,
            scale,
            None if bias is None else bias.detach().clone(),
            None if quant is None else torch.tensor(quant.scale, dtype=torch.float32, device=device),
            None if quant is None else torch.tensor(quant.zero_point, dtype=torch.int32, device=device),
        )
        made.validate(op)
        return made

    @staticmethod
    def range_of(scheme: W8A8, observer: RangeObserver) -> Quant:
        return observer.quant(scheme.observer)

    def items(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def detached(self) -> LinearW8A8:
        """The same memory under new tensor objects, so that holding them keeps none of the originals alive."""
        return type(self)(**{name: None if t is None else t.detach() for name, t in self.items()})  # type: ignore[arg-type]

    def validate(self, op: str) -> None:
        """Raises FormatError or UnsupportedProblem for numbers that do not make a layer."""
        if not isinstance(self.weight, Tensor) or self.weight.dim() != 2:
            raise FormatError(op, f"weight: {describe(self.weight)}", "int8[N, K]", "Quantise a weight matrix.")
        n, k = self.weight.shape
        check_size(op, n, k)
        for name, tensor in self.items():
            if tensor is not None:
                self.check(op, name, tensor, n, k)
                if tensor.device != self.weight.device:
                    got = f"{name} on {tensor.device}, weight on {self.weight.device}"
                    raise FormatError(
                        op, got, "one device for all tensors of a layer", "Move the whole layer with .to()."
                    )
        if (self.input_scale is None) != (self.input_zero_point is None):
            raise FormatError(
                op, "one of input_scale and input_zero_point", "both (static) or neither (dynamic)", "Pass both."
            )

    @staticmethod
    def check(op: str, name: str, tensor: Any, n: int, k: int) -> None:
        """Raises FormatError where one tensor is not what its name means in a layer of [n, k]. Meta has no values."""
        shape = {"weight": (n, k), "input_scale": (), "input_zero_point": ()}.get(name, (n,))
        dtype = {"weight": torch.int8, "input_zero_point": torch.int32}.get(name, torch.float32)
        expected = f"{str(dtype).removeprefix('torch.')}{list(shape)}"
        step = "Take the state dict of a QuantLinear of this size and scheme."
        if not isinstance(tensor, Tensor) or tensor.shape != shape or tensor.dtype != dtype:
            raise FormatError(op, f"{name}: {describe(tensor)}", expected, step)
        if tensor.is_meta:
            return
        if dtype == torch.float32 and not torch.isfinite(tensor).all():
            raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", step)
        if name == "weight" and (tensor == -128).any():
            raise FormatError(op, "weight holding -128", "int8 weights in -127..127", step)
        if name.endswith("_scale") and not (tensor >= LEAST_SCALE).all():
            raise FormatError(op, f"{name} with {tensor.min().item()}", f"scales of at least {LEAST_SCALE:.3g}", step)
        if name == "input_zero_point" and not -128 <= int(tensor) <= 127:
            raise FormatError(op, f"{name} = {int(tensor)}", "-128..127", step)

    def group(self, lead: int, activation: str = "none", parameter: float = 0.0) -> Group:
        """The stages quantize and linear, for inputs with `lead` leading dimensions."""
        n, k = self.weight.shape
        x, y = Value("x", k), Value("y", n)
        if self.input_scale is None or self.input_zero_point is None:
            inner: tuple[Value, ...] = (Value("x_int8", k, "int8"), Value("x_row_scale", 1))
        else:
            inner = (Value("x_int8", k, "int8", Quant(float(self.input_scale), int(self.input_zero_point))),)
        # A bias that is always there, so that nothing below asks torch for its default dtype or device.
        bias = torch.zeros_like(self.weight_scale) if self.bias is None else self.bias
        tensors = {"weight": self.weight, "weight_scale": self.weight_scale, "bias": bias}
        attrs = {"activation": activation, "activation_parameter": parameter}
        stages = (Stage("quantize", "input", (x,), inner), Stage("linear", "linear", inner, (y,), tensors, attrs))
        return Group(stages, (Port(x, lead, (k,)),), (Port(y, lead, (n,)),))


class Packed:
    """A layer's plans, one for each number of dimensions it has been called with; made on first use.

    Raises what `LinearW8A8.validate` raises. Later changes of the tensors it was made from are not seen.
    """

    def __init__(self, op: str, numbers: LinearW8A8, activation: str = "none", parameter: float = 0.0) -> None:
        if activation not in ACTIVATIONS:
            raise UnsupportedProblem(op, repr(activation), "one of " + ", ".join(ACTIVATIONS), "Apply it afterwards.")
        numbers.validate(op)
        self._op, self._numbers, self._activation, self._parameter = op, numbers.detached(), activation, parameter
        self._plans: dict[int, Executable] = {}
        self.choices: list[Choice] = []

    @property
    def ranks(self) -> list[int]:
        return list(self._plans)

    def plan(self, rank: int, rows: int = 1) -> Executable:
        found = self._plans.get(rank)
        if found is None:
            with torch.device("cpu"):  # the numbers that are lowered are the same whatever torch's default device is
                group = self._numbers.group(rank - 1, self._activation, self._parameter)
                found, self.choices = plan_group(group, max(rows, 1), self._numbers.weight.device.type)
            self._plans[rank] = found
        return found

    def compute(self, x: Any) -> Tensor:
        """y float32 [..., N] of any x float32 [..., K], copied first where it is strided, expanded or misaligned."""
        weight = self._numbers.weight
        check_input(self._op, x, weight.shape[1], weight.device)
        if x.dim() > MAX_RANK:
            return self.compute(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], weight.shape[0])
        if x.numel() and not x.data_ptr():
            raise ShapeError(
                self._op, f"{describe(x)} without memory", "a tensor with numbers", "Fill its storage again."
            )
        plan = self.plan(x.dim(), x.shape[:-1].numel())
        result = plan.call((x,)) if x.is_contiguous() and not x.is_neg() else None
        if result is None:
            result = plan.call((dense(x),))
        if not isinstance(result, Tensor):
            raise UnsupportedProblem(self._op, describe(x), "a plain tensor", "Pass x.clone().")
        return result
