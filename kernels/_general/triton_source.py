"""From the text of a kernel to a `triton.jit` function: one for each text, in a process.

Triton reads source through `inspect`, and so does a traceback: `linecache` is Python's own way to show source that is in no
file. The hash that stores look a kernel up by is made of the text and of all it calls, as for a kernel in a file.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import triton
import triton.language as tl

from rtaccel.kernels._general import triton_functions, triton_joins
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import round_half_even, to_int8
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling

NAMES: dict[str, Any] = {
    "tl": tl, "activate": activate, "round_half_even": round_half_even, "to_int8": to_int8,
    **triton_functions.NAMES, **triton_joins.NAMES,
}  # fmt: skip
"""What the text of a kernel may use."""


def digest(text: str) -> str:
    """Eight letters that name a text."""
    return sha256(text.encode()).hexdigest()[:8]


@cache
def kernel_of(text: str, *helpers: Any) -> Any:
    """The only function in the text, `def kernel(...)`. `rows`, if it is an argument, is not specialized. helpers: device
    functions of an operator, which the text has by their names."""
    file = f"<a general stage of rtaccel, {digest(text)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {**NAMES, **{helper.__name__: helper for helper in helpers}, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)
    return triton.jit(scope["kernel"], do_not_specialize=["rows"])


def specialisation_of(
    name: str, text: str, signature: Mapping[str, str], constants: Mapping[str, Any], tiling: Tiling, *helpers: Any,
    ending: str = "",
) -> Specialisation:  # fmt: skip
    """The form of a kernel that is made from text. Its name is `name`, the digest of the text, and `ending`."""
    return Specialisation(
        f"{name}_{digest(text)}{ending}", kernel_of(text, *helpers), signature=signature, constants=constants,
        tiling=tiling,
    )  # fmt: skip
