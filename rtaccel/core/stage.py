"""Stages: what a model computes, cut into operators, before any kernel or layout is chosen.

A stage is immutable and device-neutral. It names the values it reads and writes; a value is a matrix
of M rows (the batch) and a fixed width, so that any number of rows can run through the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Quant:
    """What an int8 activation means: real = scale * (q - zero_point), q in -128..127.

    Static and per tensor. After a ReLU the zero point is -128, which gives the value all 256 steps.
    """

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Value:
    """One matrix [M, width] between stages.

    dtype: "float32" or "int8". quant: what the int8 means; None for float32 and for int8 with a scale
    per row, which then is a value of its own.
    """

    name: str
    width: int
    dtype: str = "float32"
    quant: Quant | None = None


@dataclass(frozen=True)
class Port:
    """A value at the edge of a plan, as the tensor that a caller holds.

    The first `lead` dimensions are rows; the `trailing` ones are fixed, and their product is the width.
    """

    value: Value
    lead: int
    trailing: tuple[int, ...]

    @classmethod
    def matrix(cls, value: Value) -> Port:
        return cls(value, 1, (value.width,))


@dataclass(frozen=True)
class Stage:
    """One operator with its logical weights.

    op: name of an operator, a folder in `kernels/`.
    name: dotted name of the module it came from, for reports.
    tensors: logical weights, in the form that `formats/` gives them and a state dict stores.
    attrs: the rest of the operator's definition (activation, its parameter, ...); plain numbers and strings.
    """

    op: str
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))


@dataclass(frozen=True)
class Problem:
    """The shape of a stage, without its numbers: what `supports` and a cost model look at.

    rows: M, the batch it will mostly run with. device: "cpu" or "cuda".
    """

    op: str
    rows: int
    in_widths: tuple[int, ...]
    out_widths: tuple[int, ...]
    in_dtypes: tuple[str, ...]
    out_dtypes: tuple[str, ...]
    weight_dtype: str | None
    attrs: Mapping[str, Any]
    device: str = "cpu"

    @classmethod
    def of(cls, stage: Stage, rows: int, device: str = "cpu") -> Problem:
        weight = stage.tensors.get("weight")
        return cls(
            op=stage.op,
            rows=rows,
            in_widths=tuple(v.width for v in stage.inputs),
            out_widths=tuple(v.width for v in stage.outputs),
            in_dtypes=tuple(v.dtype for v in stage.inputs),
            out_dtypes=tuple(v.dtype for v in stage.outputs),
            weight_dtype=None if weight is None else str(weight.dtype).removeprefix("torch."),
            attrs=stage.attrs,
            device=device,
        )

    def __str__(self) -> str:
        ins = ", ".join(f"{d}[{self.rows}, {w}]" for d, w in zip(self.in_dtypes, self.in_widths))
        outs = ", ".join(f"{d}[{self.rows}, {w}]" for d, w in zip(self.out_dtypes, self.out_widths))
        return f"{self.op}({ins}) -> {outs}"
