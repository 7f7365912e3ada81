"""Calls of lists of tensors, as one call for each of them: `torch._foreach_mul`, `torch._foreach_add` and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _each(call: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """What is given once is the same for all."""

    def apply(*args: Any, **kwargs: Any) -> list[Tensor]:
        given = (*args, *kwargs.values())
        count = next(len(one) for one in given if isinstance(one, (list, tuple)))

        def of(one: Any, i: int) -> Any:
            return one[i] if isinstance(one, (list, tuple)) else one

        return [
            call(*(of(one, i) for one in args), **{key: of(one, i) for key, one in kwargs.items()})
            for i in range(count)
        ]

    return apply


def _with_scalars(call: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """addcmul and addcdiv: with a number for all, or one for each."""

    def apply(x: Any, a: Any, b: Any, value: Any = 1, scalars: Any = None) -> list[Tensor]:
        given = value if scalars is None else scalars
        if isinstance(given, Tensor):
            raise NotImplementedError
        return _each(lambda x, a, b, one: call(x, a, b, value=one))(x, a, b, given)

    return apply


def _power(base: Any, exponent: Any) -> Tensor:
    return torch.pow(base, exponent)


def _norm(x: Tensor, order: Any = 2, dtype: Any = None) -> Tensor:
    return torch.linalg.vector_norm(x, order, dtype=dtype)


def _copied(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(x.dtype).expand(x.shape).clone()


_ALIKE = (
    "abs", "acos", "add", "asin", "atan", "ceil", "clamp_max", "clamp_min", "clone", "cos", "cosh", "div", "erf", "erfc", "exp",
    "expm1", "floor", "frac", "lerp", "lgamma", "log", "log10", "log1p", "log2", "maximum", "minimum", "mm", "mul", "neg",
    "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "sub", "tan", "tanh", "trunc",
)  # fmt: skip

_BOUNDS: dict[str, Callable[..., Tensor]] = {"maximum": torch.clamp_min, "minimum": torch.clamp_max}
"""What has the name of a call of two tensors, and takes numbers too."""


def _bound(call: Callable[..., Tensor], of_number: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, other: call(x, other) if isinstance(other, Tensor) else of_number(x, other)


_CALLS: dict[str, Callable[..., Any]] = {
    **{name: _each(getattr(torch, name)) for name in _ALIKE},
    **{name: _each(_bound(getattr(torch, name), of_number)) for name, of_number in _BOUNDS.items()},
}
EACH: dict[str, Callable[..., Any]] = {
    **{f"aten::_foreach_{name}": function for name, function in _CALLS.items()},
    "aten::_foreach_addcmul": _with_scalars(torch.addcmul),
    "aten::_foreach_addcdiv": _with_scalars(torch.addcdiv),
    "aten::_foreach_pow": _each(_power),
    "aten::_foreach_norm": _each(_norm),
    "aten::_foreach_max": _each(torch.amax),
    "aten::_foreach_copy": _each(_copied),
    "aten::_foreach_zero": _each(torch.zeros_like),
}
"""By the name of the call in its schema, for all of its forms."""
