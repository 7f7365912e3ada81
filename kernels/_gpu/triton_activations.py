"""The activation functions in Triton: `activate`, whose source is made from the table in kernels/_common/activations.

Triton compiles source, so the branches cannot be looked up in a dict: one `if` for each row, decided while compiling. It is
made once, when this file is imported, and its hash is that of a function written by hand: a formula that changes makes
kernels new ones in every store.
"""

from __future__ import annotations

import linecache
from typing import Any

import triton
import triton.language as tl

from rtaccel.kernels._common.activations import ROWS


@triton.jit
def sigmoid(t):
    """1 / (1 + exp(-t)); exp overflows to inf below -88 and the quotient is then 0."""
    return 1.0 / (1.0 + tl.exp(-t))


@triton.jit
def tanh(t):
    """sign(t) * (1 - e) / (1 + e) with e = exp(-2 |t|), which never overflows. Absolute error about 2^-23."""
    e = tl.exp(-2.0 * tl.abs(t))
    r = (1.0 - e) / (1.0 + e)
    return tl.where(t < 0, -r, r)


HEAD = '''def activate(t, parameter, NAME: tl.constexpr):
    """f(t), elementwise in float32; NAME is one of `activations.ACTIVATIONS`, parameter its slope or alpha."""
'''


def source() -> str:
    """Of `activate`."""
    branches = "".join(
        f'    {"elif" if index else "if"} NAME == "{name}":\n        y = {row.triton}\n'
        for index, (name, row) in enumerate(ROWS.items())
    )
    return f'{HEAD}{branches}    else:\n        tl.static_assert(False, "no such activation")\n        y = t\n    return y\n'


def _compiled() -> Any:
    """Python's own way to show source that is in no file: triton reads it through `inspect`, and so does a traceback."""
    file, text = "<the activations of rtaccel>", source()
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {}
    exec(compile(text, file, "exec"), globals(), scope)
    return triton.jit(scope["activate"])


activate = _compiled()
