"""What a model that torch.export cannot trace is told: the cause, the line of its code, and what can be compiled instead."""

from __future__ import annotations

import linecache
import traceback

from torch import nn

from rtaccel.core.errors import UnsupportedProblem

_NOT_THE_MODELS = ("/torch/", "/rtaccel/")
_BY_NUMBERS = ("data-dependent", "unbacked", "DynamicOutputShape", "depend on the value", "data pointer")


def by_numbers(said: Exception) -> bool:
    """Whether an error of torch.export is about numbers that a trace does not have."""
    return any(word in f"{type(said).__name__}: {said}" for word in _BY_NUMBERS)


def refusal(model: nn.Module, said: Exception) -> UnsupportedProblem:
    cause = str(said).strip().split("\n")[0]
    place = _place(said)
    advice = ""
    if by_numbers(said):
        inside = f", such as model.{parts}" if (parts := _parts(model)) else ""
        advice = (
            f" A size or a way there depends on numbers of an input. Compile the parts before it by themselves{inside}."
        )
    return UnsupportedProblem(
        "compile", type(model).__name__, "a model that torch.export can capture", f"It said: {cause}{place}{advice}"
    )


def _place(said: Exception) -> str:
    """The innermost line of the model's own code, as text; nothing where the error has none."""
    for frame in reversed(traceback.extract_tb(said.__traceback__)):
        if not frame.filename.startswith("<") and not any(part in frame.filename for part in _NOT_THE_MODELS):
            line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()[:80]
            return f" (at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}: {line})"
    return ""


def _parts(model: nn.Module) -> str:
    """Names of the largest parts, where there are several."""
    found = [(name, sum(p.numel() for p in part.parameters())) for name, part in model.named_children()]
    if len(found) == 1 and found[0][1]:  # a wrapper around the model
        (name, _), inner = found[0], next(iter(model.children()))
        return f"{name}.{inside}" if (inside := _parts(inner)) else ""
    largest = sorted((f for f in found if f[1]), key=lambda f: -f[1])[:2]
    return " and ".join(name for name, _ in largest) if len(largest) > 1 else ""
