"""What is said, or refused, where a part of a compiled model falls back to PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.core.errors import FallbackWarning, UnsupportedProblem
from rtaccel.core.process.warn_caller import warn_caller
from rtaccel.runtime.against_eager import against_eager, costliest_fallback

if TYPE_CHECKING:
    from rtaccel.plan.explain import Line
    from rtaccel.runtime.compiled import CompiledModel


def warn_of_fallbacks(
    fast: CompiledModel, model: nn.Module, args: tuple[Any, ...], lines: Sequence[Line], strict: bool
) -> None:
    """Names the calls that fall back to PyTorch in a warning; raises UnsupportedProblem for them where `strict`.

    Where the model itself is faster than what became of it, the warning says so and names the call that costs most.
    """
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
    text = f"{own} of {count} stages native"
    times = against_eager(private_copy("compile", model), fast, args) if fast.on_cpu else None
    if times is not None:
        fast.note(times.note())
    if times is not None and times.slower:
        blame = costliest_fallback(fast, args)
        text += f", slower than eager: {times.note()}" + (f"; {blame}" if blame else "") + "."
        text += " What falls back to PyTorch: "
    else:
        text += ", and these fall back to PyTorch: "
    warn_caller(text + shown, FallbackWarning)
