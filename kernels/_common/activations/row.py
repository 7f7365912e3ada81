"""What a file of this folder says about its activation function: the part of a row that is Python's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Aten:
    """A call of ATen that is this function.

    target: its name and overload, such as "relu.default". Its argument `self` is t.
    parameter: the name of the argument that is the function's parameter; None for a function without one.
    only: arguments that must have these values. Calls with others are left to other functions that name the same target.
    otherwise: why a call with other values is none of ours, where no function takes it.
    """

    target: str
    parameter: str | None = None
    only: Mapping[str, Any] = field(default_factory=dict)
    otherwise: str = "has arguments that no activation function here has"


@dataclass(frozen=True)
class Row:
    """f(t), elementwise, with at most one float as its parameter.

    reference: (t, parameter) -> f(t) in the dtype of t; plain torch, and the meaning the kernels are held to.
    triton: f(t) as an expression of Triton over the float32 tile `t` and the scalar `parameter`. It may use `tl`, and
        the functions of kernels/_gpu/triton_activations.py. The operations are those of table.def, in their order, so that the
        bits are the same. A NaN must stay one.
    numba: f(t) as an expression of Numba over the float32 `t` and `parameter`, with `FLOAT32`; None where Numba has none.
    aten: the calls that are this function.
    homogeneous: f(c * t) = c * f(t) for c > 0, so that the scale of an int8 output folds into the multiplier before it.
    clips: the function that it is up to the parameter, where it stays at the parameter beyond it: of an int8 output that ends
        before the parameter it is that one.
    slope: the largest |f'(t)|, where |parameter| is not larger; it bounds what an error of t becomes.
    example: a parameter for tests; 0 for a function without one.
    """

    reference: Callable[[Tensor, float], Tensor]
    triton: str
    aten: tuple[Aten, ...] = ()
    numba: str | None = None
    homogeneous: bool = False
    clips: str | None = None
    slope: float = 1.13
    example: float = 0.0
