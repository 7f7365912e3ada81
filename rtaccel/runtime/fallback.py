"""What is said, or refused, where a part of a compiled model falls back to PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtaccel.core.errors import UnsupportedProblem

if TYPE_CHECKING:
    from rtaccel.plan.explain import Line
    from rtaccel.runtime.compiled import CompiledModel


class FallbackWarning(UserWarning):
    """A compiled model leaves something to torch, which is far slower than a native stage."""


def warn_of_fallbacks(fast: CompiledModel, lines: Sequence[Line], strict: bool) -> None:
    """Names the calls that fall back to PyTorch in a warning; raises UnsupportedProblem for them where `strict`."""
    found = [f"{line.name} ({'; '.join(line.reasons)})" for line in lines if line.is_fallback]
    if not found:
        return
    own, count = fast.native
    shown = "; ".join(found[:4]) + (" ..." if len(found) > 4 else "")
    if strict:
        raise UnsupportedProblem(
            "compile", f"{own} of {count} stages native, and these fall back to PyTorch: {shown}",
            "every stage native (strict=True)",
            "Write them with operators of docs/reference/operators.md, or compile with strict=False.",
        )  # fmt: skip
    warnings.warn(
        f"{own} of {count} stages native, and these fall back to PyTorch: {shown}", FallbackWarning, stacklevel=3
    )
