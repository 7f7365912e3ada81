"""Stages: what a model computes, cut into operators, before any kernel or layout is chosen.

A stage is immutable and device-neutral. It names the values it reads and writes. A value holds, for each of M
samples (the batch, open), `steps` rows of a fixed width: time steps of a window, positions of an image; one row where
there is no such axis. Any number of samples can run through the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rtaccel.core.weight_format import WeightFormat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class QParams:
    """What an int8 activation means: real = scale * (q - zero_point), q in -128..127.

    Static and per tensor. After a ReLU the zero point is -128, which gives the value all 256 steps.
    """

    scale: float
    zero_point: int


QuantMap = Mapping[str, "tuple[float, int]"]
"""Name of an int8 value -> its scale and zero point."""


@dataclass(frozen=True)
class Value:
    """What lies between stages: [M, width], or [M, steps, width] where steps > 1.

    dtype: "float32" or "int8", "int64" for whole numbers; "int32", "int16", "uint8", "bool", "bfloat16" and "float16"
        for inputs and outputs of a plan.
    quant: what the int8 means; None for float32 and for
    int8 with a scale per row, which then is a value of its own (of as many steps and width 1).
    """

    name: str
    width: int
    dtype: str = "float32"
    quant: QParams | None = None
    steps: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, as a tensor has it."""
        return (self.width,) if self.steps == 1 else (self.steps, self.width)


@dataclass(frozen=True)
class GraphIO:
    """A value at the edge of a plan, as the tensor that a caller holds.

    The first `lead` dimensions are samples; the `trailing` ones are fixed, and their product is steps * width.
    middle: sizes of the leading dimensions behind the first, where they are fixed too; () where they are open.
    """

    value: Value
    lead: int
    trailing: tuple[int, ...]
    middle: tuple[int, ...] = ()

    @classmethod
    def matrix(cls, value: Value) -> GraphIO:
        return cls(value, 1, value.shape)


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

    @property
    def weight_format(self) -> WeightFormat | None:
        """Of its weights, which are all alike; None for an operator without. Raises FormatError for a dtype that is none."""
        weight = self.tensors.get("weight", self.tensors.get("weight_ih_l0"))
        return None if weight is None else WeightFormat.of(weight)

    def matrices(self) -> Stage:
        """The same stage with the steps of each value joined with the samples: for an operator that treats rows alike."""
        inputs = tuple(replace(v, steps=1) for v in self.inputs)
        return replace(self, inputs=inputs, outputs=tuple(replace(v, steps=1) for v in self.outputs))


@dataclass(frozen=True)
class Problem:
    """The shape of a stage, without its numbers: what `supports` and a cost model look at.

    rows: M, the samples it will mostly run with; in_steps, out_steps: rows of each. device: "cpu" or "cuda".
    """

    op: str
    rows: int
    in_widths: tuple[int, ...]
    out_widths: tuple[int, ...]
    in_dtypes: tuple[str, ...]
    out_dtypes: tuple[str, ...]
    weight_format: WeightFormat | None
    attrs: Mapping[str, Any]
    device: str = "cpu"
    in_steps: tuple[int, ...] = ()
    out_steps: tuple[int, ...] = ()

    @property
    def weight_dtype(self) -> str | None:
        """Of the tensor that holds the weights, as torch calls it: what kernels in C++ are told."""
        return None if self.weight_format is None else self.weight_format.dtype

    @property
    def matrix_rows(self) -> int:
        """Rows that an operator which treats rows alike works on."""
        return self.rows * (self.out_steps[0] if self.out_steps else 1)

    @classmethod
    def of(cls, stage: Stage, rows: int, device: str = "cpu") -> Problem:
        return cls(
            op=stage.op,
            rows=rows,
            in_widths=tuple(v.width for v in stage.inputs),
            out_widths=tuple(v.width for v in stage.outputs),
            in_dtypes=tuple(v.dtype for v in stage.inputs),
            out_dtypes=tuple(v.dtype for v in stage.outputs),
            weight_format=stage.weight_format,
            attrs=stage.attrs,
            device=device,
            in_steps=tuple(v.steps for v in stage.inputs),
            out_steps=tuple(v.steps for v in stage.outputs),
        )

    def __str__(self) -> str:
        def text(dtypes: tuple[str, ...], steps: tuple[int, ...], widths: tuple[int, ...]) -> str:
            steps = steps or (1,) * len(widths)
            shapes = [f"{self.rows}, {w}" if s == 1 else f"{self.rows}, {s}, {w}" for s, w in zip(steps, widths)]
            runs = [(each, len(list(same))) for each, same in groupby(f"{d}[{s}]" for d, s in zip(dtypes, shapes))]
            return ", ".join(f"{n} x {each}" if n > 4 else ", ".join([each] * n) for each, n in runs)

        ins = text(self.in_dtypes, self.in_steps, self.in_widths)
        outs = text(self.out_dtypes, self.out_steps, self.out_widths)
        return f"{self.op}({ins}) -> {outs}"
