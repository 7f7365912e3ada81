"""A module of TorchScript and its form in Python, which must be the same on the example before anything is made of the form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import title_of
from rtaccel.core.errors import RtaccelError, UnsupportedProblem
from rtaccel.runtime.verify import compare_once


def check_form(original: nn.Module, form: nn.Module, args: tuple[Any, ...]) -> None:
    """Raises UnsupportedProblem where the form is not what it was made of; what the original raises of these arguments."""
    if form is original:
        return
    with torch.no_grad():
        _seeded(private_copy("compile", original))(*args)
        try:
            _seeded(private_copy("compile", form))(*args)
        except RtaccelError:
            raise
        except Exception as error:
            raise _refusal(original, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
        differs = compare_once(_seeded(private_copy("compile", original)), _seeded(private_copy("compile", form)), args)
    if differs is not None:
        raise _refusal(original, f"it {differs}")


def _seeded(model: nn.Module) -> Callable[..., Any]:
    """Both draw the same numbers, where they draw any."""

    def call(*args: Any) -> Any:
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            return model(*args)

    return call


def _refusal(original: nn.Module, said: str) -> UnsupportedProblem:
    return UnsupportedProblem(
        "compile",
        f"{title_of(original)}, whose TorchScript is another model in Python: {said}",
        "the same results",
        "Compile the Python model that it was made of, and please report this one.",
    )
