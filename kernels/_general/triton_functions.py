"""The functions of an expression in Triton: the text of each over its operands, in float32.

What libdevice has is taken from there, with float64 where its float32 flushes denormals or is less exact than
kernels/_expression/functions.py asks. The interpreter has no libdevice; in it such a function is torch's, in float64. So the
interpreter shows what is made of these functions, not their own digits, which the bounds in CUDA's manual say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from rtaccel.core import settings
from rtaccel.kernels._expression.functions import FUNCTIONS

SINGLE = {
    "exp": "exp", "expm1": "expm1", "log1p": "log1p", "sin": "sin", "cos": "cos", "asin": "asin", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "atanh": "atanh", "acos": "acos", "hypot": "hypot",
}  # fmt: skip
"""Function -> that of libdevice in float32. Results below the normal numbers are flushed, which every bound allows."""

SCALED = {"log": ("log", 16.635532333438686), "log2": ("log2", 24.0), "log10": ("log10", 7.224719895935548)}
"""Of a logarithm: libdevice's, and that of 2^24, by which denormals are scaled first."""

DOUBLE = {
    "tan": "tan",
    "acosh": "acosh",
    "erfc": "erfc",
    "lgamma": "lgamma",
    "pow": "pow",
    "atan2": "atan2",
    "fmod": "fmod",
}
"""Function -> that of libdevice in float64: closer than float32's, or exact, or right for denormals."""

TEXT = {
    "neg": "-{0}", "abs": "tl.abs({0})", "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
    "floor": "tl.floor({0})", "ceil": "tl.ceil({0})", "round": "whole({0})",
    "trunc": "tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))", "logical_not": "tl.where({0} == 0, 1.0, 0.0)",
    "truth": "tl.where({0} != 0, 1.0, 0.0)", "isnan": "tl.where({0} != {0}, 1.0, 0.0)",
    "isinf": 'tl.where(tl.abs({0}) == float("inf"), 1.0, 0.0)', "reciprocal": "quotient(1.0, {0})", "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "quotient(1.0, tl.sqrt_rn({0}))", "erf": "tl.erf({0})", "add": "{0} + {1}", "sub": "{0} - {1}", "rsub": "{1} - {0}",
    "mul": "{0} * {1}", "div": "quotient({0}, {1})", "rdiv": "quotient({1}, {0})",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "logical_and": "tl.where(({0} != 0) & ({1} != 0), 1.0, 0.0)", "logical_or": "tl.where(({0} != 0) | ({1} != 0), 1.0, 0.0)",
    "logical_xor": "tl.where(({0} != 0) ^ ({1} != 0), 1.0, 0.0)", "prelu": "tl.where({0} > 0, {0}, {0} * {1})",
    "copysign": "with_sign({0}, {1})", "where": "tl.where({0} != 0, {1}, {2})", "remainder": "remainder_({0}, {1})",
    **{name: f"tl.where({{0}} {sign} {{1}}, 1.0, 0.0)"
       for name, sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!="))},
    **{name: f"{name}_({{0}})" for name in SCALED},
    **{name: f"{name}_({', '.join(['{0}', '{1}'][: FUNCTIONS[name].operands])})" for name in (*SINGLE, *DOUBLE)},
}  # fmt: skip
"""Function -> its text over {0}, {1}, {2}."""


@triton.jit
def quotient(a, b):
    """a / b, rounded once; tiles or numbers that broadcast."""
    one = tl.full((1, 1), 1.0, tl.float32)
    a, b = tl.broadcast(a * one, b * one)
    return tl.div_rn(a, b)


@triton.jit
def with_sign(a, b):
    """|a| with the sign of b."""
    bits = a.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (bits | (b.to(tl.int32, bitcast=True) & -0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def whole(a):
    """Rounded to a whole number, ties to even; from 2^23 on a float32 is one."""
    size = tl.abs(a)
    return with_sign(tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size), a)


def _text_of(name: str) -> str:
    """Source of the device function `name`_."""
    operands = ", ".join("ab"[: FUNCTIONS[name].operands])
    head = f"def {name}_({operands}):\n"
    if name in SINGLE:
        pair = "    a, b = tl.broadcast(a, b)\n" if FUNCTIONS[name].operands == 2 else ""
        return f"{head}{pair}    return libdevice.{SINGLE[name]}({operands})\n"
    if name in SCALED:
        own, shift = SCALED[name]
        return (
            f"{head}    tiny = a < 1.1754943508222875e-38\n"
            f"    y = libdevice.{own}(tl.where(tiny, a * 16777216.0, a))\n    return tl.where(tiny, y - {shift!r}, y)\n"
        )
    pair = "    a, b = tl.broadcast(a, b)\n" if FUNCTIONS[name].operands == 2 else ""
    wide = ", ".join(f"{o}.to(tl.float64)" for o in "ab"[: FUNCTIONS[name].operands])
    return f"{head}{pair}    return libdevice.{DOUBLE[name]}({wide}).to(tl.float32)\n"


def _interpreted(name: str) -> Callable[..., Any]:
    """The same on tensors of the interpreter, by torch in float64."""
    call = FUNCTIONS[name].torch

    def function(*operands: Any) -> Any:
        given = np.broadcast_arrays(*(o.handle.data for o in operands))
        y = call(*(torch.from_numpy(np.ascontiguousarray(g)).double() for g in given)).float().numpy()
        first = next((o for o in operands if o.handle.data.shape == y.shape), operands[0])
        handle = type(first.handle)(y, first.handle.dtype)
        return tl.tensor(
            handle, first.type if first.handle.data.shape == y.shape else tl.block_type(tl.float32, list(y.shape))
        )

    return function


def _compiled(name: str) -> Any:
    from linecache import cache

    text, file = _text_of(name), f"<the function {name} of rtaccel>"
    cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"tl": tl, "libdevice": libdevice, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)
    return triton.jit(scope[f"{name}_"])


_LIBRARY = {
    f"{name}_": (_interpreted if settings.triton_interpret() else _compiled)(name)
    for name in (*SINGLE, *SCALED, *DOUBLE)
}

if settings.triton_interpret():
    remainder_ = _interpreted("remainder")
else:

    @triton.jit
    def remainder_(a, b):
        """a - b floor(a / b): fmod in float64, which is exact, and b more where the signs differ."""
        a, b = tl.broadcast(a, b)
        wide = b.to(tl.float64)
        r = libdevice.fmod(a.to(tl.float64), wide)
        return tl.where((r != 0) & ((r < 0) != (wide < 0)), r + wide, r).to(tl.float32)


NAMES: dict[str, Any] = {
    "quotient": quotient, "with_sign": with_sign, "whole": whole, "remainder_": remainder_, **_LIBRARY,
}  # fmt: skip
